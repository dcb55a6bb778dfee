import { LutraError } from '../../common/errors.ts';
import type { LoopFunction, ScalarKind, Stmt, ValueType } from '../ir.ts';

export type Lanes =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array;

const ARRAYS = {
  i8: Int8Array,
  u8: Uint8Array,
  i16: Int16Array,
  u16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
} as const;

/** Elements of a kind in memory, and the same memory as bytes. */
export interface Elements {
  readonly lanes: Lanes;
  readonly bytes: Uint8Array;
}

export function newElements(kind: ScalarKind, count: number): Elements {
  const bytes = new Uint8Array(count * ARRAYS[kind].BYTES_PER_ELEMENT);
  return viewElements(kind, bytes);
}

/** The bytes seen as elements of a kind; a rest too short for an element is left out. */
export function viewElements(kind: ScalarKind, bytes: Uint8Array): Elements {
  const array = ARRAYS[kind];
  if (bytes.byteOffset % array.BYTES_PER_ELEMENT !== 0) {
    throw new LutraError('internal', `a buffer of ${kind} starts at an odd address`, {
      hint: `Pass bytes whose byteOffset is a multiple of ${array.BYTES_PER_ELEMENT}.`,
    });
  }
  const count = Math.floor(bytes.byteLength / array.BYTES_PER_ELEMENT);
  return { lanes: new array(bytes.buffer as ArrayBuffer, bytes.byteOffset, count), bytes };
}

/** A parameter or a local array; `memory` is set when the function starts. */
export interface BufferSlot {
  readonly kind: ScalarKind;
  memory: Elements;
}

/** Where a name's value lives while the function runs. */
export type Register =
  | { readonly shape: 'scalar'; value: number }
  | { readonly shape: 'vector'; readonly value: Elements };

/** What the code of one function shares. */
export interface Frame {
  readonly fn: LoopFunction;
  readonly buffers: ReadonlyMap<string, BufferSlot>;
  readonly registers: Map<string, Register>;
  /** The statement being run, for messages. */
  current: Stmt | undefined;
}

export function newRegister(type: ValueType): Register {
  return type.lanes === 1
    ? { shape: 'scalar', value: 0 }
    : { shape: 'vector', value: newElements(type.kind, type.lanes) };
}

export function bufferOf(frame: Frame, name: string): BufferSlot {
  const slot = frame.buffers.get(name);
  if (slot === undefined) throw new LutraError('internal', `there is no buffer ${name}`);
  return slot;
}

export function registerOf(frame: Frame, name: string): Register {
  const register = frame.registers.get(name);
  if (register === undefined) throw new LutraError('internal', `${name} is not bound`);
  return register;
}

export function checkBounds(buffer: string, index: number, lanes: number, size: number): void {
  if (index < 0 || index + lanes > size) {
    throw new LutraError(
      'internal',
      `${buffer}[${index} +: ${lanes}] is out of bounds: ${buffer} has ${size} elements`,
    );
  }
}
