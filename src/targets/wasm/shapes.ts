/** How lanes are spelled in WebAssembly. */
import type { ScalarKind } from '../../loops/ir.ts';
import type { FunctionContext } from './context.ts';

export type IntegerShape = 'i8x16' | 'i16x8' | 'i32x4';
export type Shape = IntegerShape | 'f32x4';

const SHAPES: Record<ScalarKind, Shape> = {
  i8: 'i8x16',
  u8: 'i8x16',
  i16: 'i16x8',
  u16: 'i16x8',
  f16: 'i16x8',
  bf16: 'i16x8',
  i32: 'i32x4',
  u32: 'i32x4',
  f32: 'f32x4',
};

/** The shape of a whole v128 of such lanes. */
export function shapeOf(kind: ScalarKind): Shape {
  return SHAPES[kind];
}

/** Pops a v128 and pushes one lane of it as the scalar. */
export function pushLane(ctx: FunctionContext, kind: ScalarKind, lane: number): void {
  const shape = SHAPES[kind];
  if (shape === 'f32x4' || shape === 'i32x4') ctx.push(`${shape}.extract_lane`, lane);
  else ctx.push(`${shape}.extract_lane_${kind === 'i8' || kind === 'i16' ? 's' : 'u'}`, lane);
}

/** A constant's bytes, over and over to fill a v128. f16 and bf16 constants are given as their bits. */
export function constantBytes(kind: ScalarKind, value: number): readonly number[] {
  const view = new DataView(new ArrayBuffer(16));
  for (let at = 0; at < 16; ) {
    switch (SHAPES[kind]) {
      case 'i8x16':
        view.setUint8(at, value);
        at += 1;
        break;
      case 'i16x8':
        view.setUint16(at, value, true);
        at += 2;
        break;
      case 'i32x4':
        view.setUint32(at, value, true);
        at += 4;
        break;
      case 'f32x4':
        view.setFloat32(at, value, true);
        at += 4;
        break;
    }
  }
  return [...new Uint8Array(view.buffer)];
}
