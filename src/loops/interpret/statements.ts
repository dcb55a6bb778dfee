/** Statements as closures. */
import { LutraError, unreachable } from '../../common/errors.ts';
import { kindBytes, LINE, type Stmt } from '../ir.ts';
import { scalarCode, type VectorCode, vectorCode } from './expressions.ts';
import {
  bufferOf,
  checkBounds,
  type Elements,
  type Frame,
  newRegister,
  type Register,
  registerOf,
} from './frame.ts';
import { copyBytes } from './lane-loops.ts';

export type Code = () => void;

/** What the surroundings of a function provide while it runs. */
export interface Surroundings {
  /** The part of the thread loop to run; the whole of it by default. */
  range: { readonly begin: number; readonly end: number } | undefined;
  /** Runs a kernel on bytes; only `main` has it. */
  readonly call:
    | ((fn: string, buffers: readonly Uint8Array[], scalars: readonly number[]) => void)
    | undefined;
  /** Told of barriers. Calls run one after the other here, so everyone is always there. */
  readonly barrier?: () => void;
}

export function blockCode(frame: Frame, around: Surroundings, body: readonly Stmt[]): Code {
  const steps = body.map((s) => {
    const run = statementCode(frame, around, s);
    return () => {
      frame.current = s;
      run();
    };
  });
  return () => {
    for (const step of steps) step();
  };
}

function statementCode(frame: Frame, around: Surroundings, s: Stmt): Code {
  switch (s.kind) {
    case 'let': {
      if (s.value.type.lanes === 1 || s.value.kind === 'ref') {
        const register = newRegister(s.value.type);
        frame.registers.set(s.name, register);
        return assignment(frame, register, s.value);
      }
      // Nothing else writes the lanes that the expression fills, so they can be the register.
      const { out, run } = vectorCode(frame, s.value);
      frame.registers.set(s.name, { shape: 'vector', value: out });
      return run;
    }
    case 'var': {
      const register = newRegister(s.init.type);
      const run = assignment(frame, register, s.init);
      frame.registers.set(s.name, register);
      return run;
    }
    case 'assign':
      return assignment(frame, registerOf(frame, s.name), s.value);
    case 'store':
      return storeCode(frame, s);
    case 'for':
      return loopCode(frame, around, s);
    case 'if': {
      const condition = scalarCode(frame, s.condition);
      const whenTrue = blockCode(frame, around, s.whenTrue);
      const whenFalse = blockCode(frame, around, s.whenFalse);
      return () => (condition() === 0 ? whenFalse() : whenTrue());
    }
    case 'prefetch':
      return scalarCode(frame, s.index);
    case 'call':
      return callCode(frame, around, s);
    case 'barrier':
      return () => around.barrier?.();
    default:
      return unreachable(s);
  }
}

function assignment(frame: Frame, register: Register, value: Extract<Stmt, { kind: 'let' }>['value']): Code {
  if (register.shape === 'scalar') {
    const scalar = scalarCode(frame, value);
    return () => {
      register.value = scalar();
    };
  }
  const { out, run }: VectorCode = vectorCode(frame, value);
  const target: Elements = register.value;
  return () => {
    run();
    copyBytes(target.bytes, 0, out.bytes, 0, target.bytes.length);
  };
}

function storeCode(frame: Frame, s: Extract<Stmt, { kind: 'store' }>): Code {
  const slot = bufferOf(frame, s.buffer);
  const index = scalarCode(frame, s.index);
  if (s.value.type.lanes === 1) {
    const value = scalarCode(frame, s.value);
    return () => {
      const at = index();
      const { lanes } = slot.memory;
      checkBounds(s.buffer, at, 1, lanes.length);
      lanes[at] = value();
    };
  }
  const { out, run } = vectorCode(frame, s.value);
  const size = kindBytes(slot.kind);
  return () => {
    const at = index();
    checkBounds(s.buffer, at, out.lanes.length, slot.memory.lanes.length);
    run();
    copyBytes(slot.memory.bytes, at * size, out.bytes, 0, out.bytes.length);
  };
}

function loopCode(frame: Frame, around: Surroundings, s: Extract<Stmt, { kind: 'for' }>): Code {
  const [from, to] = [scalarCode(frame, s.from), scalarCode(frame, s.to)];
  const variable: Register = { shape: 'scalar', value: 0 };
  frame.registers.set(s.variable, variable);
  const body = blockCode(frame, around, s.body);
  return () => {
    let [first, end] = [from(), to()];
    if (s.binding === 'thread' && around.range !== undefined) {
      const { range } = around;
      if (range.begin < first || range.end > end) {
        throw new LutraError(
          'internal',
          `the range ${range.begin} .. ${range.end} is not within ${first} .. ${end}`,
        );
      }
      first = range.begin;
      end = range.end;
    }
    for (let i = first; i < end; i += s.step) {
      variable.value = i;
      body();
    }
  };
}

function callCode(frame: Frame, around: Surroundings, s: Extract<Stmt, { kind: 'call' }>): Code {
  const { call } = around;
  if (call === undefined) throw new LutraError('internal', `only main of a program can call ${s.fn}`);
  const buffers = s.buffers.map(({ buffer, offset }) => {
    const [slot, line] = [bufferOf(frame, buffer), scalarCode(frame, offset)];
    return () => {
      const { bytes } = slot.memory;
      const start = line() * LINE;
      checkBounds(`bytes of ${buffer}`, start, 0, bytes.length);
      return bytes.subarray(start);
    };
  });
  const scalars = s.scalars.map((e) => scalarCode(frame, e));
  return () =>
    call(
      s.fn,
      buffers.map((buffer) => buffer()),
      scalars.map((scalar) => scalar()),
    );
}
