/** For tests: every operator on every kind and some widths, on values where implementations differ. */
import { type BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import * as x from '../../loops/expr.ts';
import { type BinaryOp, type Expr, isSigned, kindBits, kindBytes, type ScalarKind } from '../../loops/ir.ts';
import type { RandomCase } from '../../loops/testing.ts';

const COMPARES = ['lt', 'le', 'eq', 'ne'] as const;
const INTEGERS: readonly ScalarKind[] = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32'];

const SPECIAL = [
  0,
  -0,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  1e-40,
  -3.4e38,
  8388609,
  -4194305.5,
  1,
  -1,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
];

/** Stores what `results` makes of lanes of a and b, for all numbers of lanes in `widths`, over `count` elements. */
function caseOf(
  name: string,
  kind: ScalarKind,
  [a, b]: readonly [ArrayBufferView, ArrayBufferView],
  count: number,
  widths: readonly number[],
  results: (a: Expr, b: Expr) => readonly Expr[],
): RandomCase {
  const k = new FunctionBuilder(name);
  const [bufferA, bufferB] = [k.buffer('a', kind, 'read'), k.buffer('b', kind, 'read')];
  const outputs = new Map<ScalarKind, BufferRef>();
  const sizes: number[] = [];
  for (const lanes of widths) {
    k.for('i', 0, count, lanes, (i) => {
      const [left, right] = [k.load(bufferA, i, lanes), k.load(bufferB, i, lanes)];
      const values = results(k.let('left', left), k.let('right', right));
      values.forEach((value, at) => {
        const elem = value.type.kind;
        if (!outputs.has(elem)) {
          outputs.set(elem, k.buffer(`out_${elem}`, elem, 'write'));
          sizes.push(values.length * widths.length * count * kindBytes(elem));
        }
        const row = (widths.indexOf(lanes) * values.length + at) * count;
        k.store(outputs.get(elem)!, x.add(i, row), value);
      });
    });
  }
  const bytes = (view: ArrayBufferView) => new Uint8Array(view.buffer.slice(0)) as Uint8Array;
  return {
    fn: k.build(),
    buffers: [bytes(a), bytes(b), ...sizes.map((size) => new Uint8Array(size))],
    scalars: [],
  };
}

/** All pairs of the values. */
function pairs(values: readonly number[]): readonly [number[], number[]] {
  return [values.flatMap((a) => values.map(() => a)), values.flatMap(() => values)];
}

export function floatCases(widths: readonly number[]): readonly RandomCase[] {
  const [a, b] = pairs(SPECIAL);
  const data = [Float32Array.from(a), Float32Array.from(b)] as const;
  const binary: readonly BinaryOp[] = ['add', 'sub', 'mul', 'div', 'min', 'max'];
  const small = (v: Expr) =>
    x.select('lt', x.unary('abs', v), x.float(1e9, v.type.lanes), v, x.float(7, v.type.lanes));
  return [
    caseOf('floats', 'f32', data, a.length, widths, (l, r) => [
      ...binary.map((op) => x.binary(op, l, r)),
      ...COMPARES.map((op) => x.select(op, l, r, l, r)),
      ...(['neg', 'abs', 'sqrt', 'nearest'] as const).map((op) => x.unary(op, l)),
    ]),
    caseOf('conversions', 'f32', data, a.length, widths, (l) => [
      x.cast(small(l), 'i32'),
      x.cast(l, 'f16'),
      x.cast(x.cast(l, 'f16'), 'f32'),
      x.cast(x.cast(l, 'bf16'), 'f32'),
    ]),
  ];
}

/** Ends and middle of a kind's range. */
function extremes(kind: ScalarKind): readonly number[] {
  const top = 2 ** kindBits(kind);
  const [low, high] = isSigned(kind) ? [-top / 2, top / 2 - 1] : [0, top - 1];
  return [low, low + 1, -1, 0, 1, 100, 127, 128, 255, 32768, 65535, high].map((v) =>
    Math.min(high, Math.max(low, v)),
  );
}

function arrayOf(kind: ScalarKind, values: readonly number[]): ArrayBufferView {
  const arrays = { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array };
  return arrays[kindBits(kind) as 8 | 16 | 32].from(values);
}

export function integerCases(widths: readonly number[]): readonly RandomCase[] {
  return INTEGERS.map((kind) => {
    const [a, b] = pairs(extremes(kind));
    const binary: BinaryOp[] = ['add', 'sub', 'mul', 'min', 'max', 'and', 'or', 'xor'];
    if (kind === 'u8' || kind === 'u16') binary.push('averageRound');
    const others = INTEGERS.filter((other) => kindBits(other) !== kindBits(kind));
    return caseOf(kind, kind, [arrayOf(kind, a), arrayOf(kind, b)], a.length, widths, (l, r) => [
      ...binary.map((op) => x.binary(op, l, r)),
      ...(['neg', 'abs'] as const).map((op) => x.unary(op, l)),
      ...(kind === 'u8' ? [x.unary('popcount', l)] : []),
      ...[1, 3, kindBits(kind) - 1].flatMap((by) => [x.shift('left', l, by), x.shift('right', l, by)]),
      ...COMPARES.map((op) => x.select(op, l, r, r, l)),
      ...others.map((other) => x.cast(l, other)),
      ...(kind === 'i32' ? [x.cast(l, 'f32')] : []),
    ]);
  });
}
