import { describe, expect, test } from 'vitest';
import { f32ToF16 } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import { type BufferRef, FunctionBuilder } from './builder.ts';
import * as x from './expr.ts';
import { runFunction, runProgram } from './interpret.ts';
import { type Expr, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type ScalarKind } from './ir.ts';
import type { StepSequence } from './step.ts';

function arrayOf(kind: ScalarKind, values: ArrayLike<number>) {
  const arrays = {
    i8: Int8Array,
    u8: Uint8Array,
    i16: Int16Array,
    u16: Uint16Array,
    i32: Int32Array,
    u32: Uint32Array,
    f32: Float32Array,
    f16: Uint16Array,
    bf16: Uint16Array,
  };
  return arrays[kind].from(values as number[]);
}

const bytesOf = (array: ArrayBufferView) =>
  new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);

/** The lanes of an expression over inputs that are loaded whole. */
function evaluate(
  inputs: readonly (readonly [ScalarKind, ArrayLike<number>])[],
  build: (...values: Expr[]) => Expr,
): number[] {
  const k = new FunctionBuilder('test');
  const values = inputs.map(([kind, data], i) => k.load(k.buffer(`in${i}`, kind, 'read'), 0, data.length));
  const result = build(...values);
  k.store(k.buffer('out', result.type.kind, 'write'), 0, result);
  const out = arrayOf(result.type.kind, new Array(result.type.lanes).fill(0));
  const buffers = [...inputs.map(([kind, data]) => arrayOf(kind, data)), out].map(bytesOf);
  runFunction(k.build(), { buffers, scalars: [] });
  return [...out];
}

const NAN = Number.NaN;
const INF = Number.POSITIVE_INFINITY;

describe('lane-wise operators', () => {
  test.each<[string, ScalarKind, number[], number[], number[]]>([
    ['add', 'i8', [127, -128, 5], [1, -1, 6], [-128, 127, 11]],
    ['add', 'u16', [65535, 7], [2, 8], [1, 15]],
    ['add', 'u32', [4294967295, 7], [2, 8], [1, 15]],
    ['sub', 'u8', [0, 9], [1, 3], [255, 6]],
    ['mul', 'i32', [123456789, -3], [987654321, 7], [Math.imul(123456789, 987654321), -21]],
    ['mul', 'u32', [4294967295, 3], [4294967295, 4], [1, 12]],
    ['mul', 'f32', [0.1, 1e38], [0.2, 10], [Math.fround(Math.fround(0.1) * Math.fround(0.2)), INF]],
    ['div', 'f32', [1, 1, 0], [3, 0, 0], [Math.fround(1 / 3), INF, NAN]],
    ['min', 'i16', [-5, 7], [3, -9], [-5, -9]],
    ['max', 'u32', [4294967295, 7], [1, 9], [4294967295, 9]],
    ['min', 'f32', [NAN, 1, 0, -0], [1, NAN, -0, 0], [NAN, 1, 0, -0]],
    ['max', 'f32', [NAN, 1, 0, -0], [1, NAN, -0, 0], [NAN, 1, 0, -0]],
    ['and', 'u32', [0xf0f0f0f0, 1], [0xff00ff00, 3], [0xf000f000, 1]],
    ['or', 'i8', [-128, 1], [1, 2], [-127, 3]],
    ['xor', 'u16', [0xffff, 1], [0xff, 3], [0xff00, 2]],
    ['averageRound', 'u8', [255, 1, 0], [255, 2, 1], [255, 2, 1]],
  ])('%s of %s', (op, kind, a, b, expected) => {
    type Op = Parameters<typeof x.binary>[0];
    const inputs = (n: number) => [[kind, a.slice(0, n)] as const, [kind, b.slice(0, n)] as const];
    expect(evaluate(inputs(a.length), (p, q) => x.binary(op as Op, p, q))).toEqual(expected);
    // Scalars go another way through the interpreter.
    expect(evaluate(inputs(1), (p, q) => x.binary(op as Op, p, q))).toEqual(expected.slice(0, 1));
  });

  test('division of i32 truncates, the remainder has the sign of the dividend', () => {
    const divide = (a: number, b: number) => [
      ...evaluate([['i32', [a]] as const, ['i32', [b]] as const], x.div),
      ...evaluate([['i32', [a]] as const, ['i32', [b]] as const], x.rem),
    ];
    expect([divide(7, 2), divide(-7, 2), divide(7, -2)]).toEqual([
      [3, 1],
      [-3, -1],
      [-3, 1],
    ]);
  });

  test('unary', () => {
    const floats = [2.5, 3.5, -0.4, -1e9, 4.2, -0];
    expect(evaluate([['f32', floats]], (a) => x.unary('nearest', a))).toEqual([2, 4, -0, -1e9, 4, -0]);
    expect(evaluate([['f32', [-0, 3]]], (a) => x.unary('neg', a))).toEqual([0, -3]);
    expect(evaluate([['f32', [2]]], (a) => x.unary('sqrt', a))).toEqual([Math.fround(Math.SQRT2)]);
    expect(evaluate([['i8', [-128, -3]]], (a) => x.unary('abs', a))).toEqual([-128, 3]);
    expect(evaluate([['i32', [-(2 ** 31)]]], (a) => x.unary('neg', a))).toEqual([-(2 ** 31)]);
    expect(evaluate([['u8', [255, 5]]], (a) => x.unary('popcount', a))).toEqual([8, 2]);
  });

  test('shifts', () => {
    expect(evaluate([['i8', [-128, 3]]], (a) => x.shift('right', a, 1))).toEqual([-64, 1]);
    expect(evaluate([['u8', [128, 3]]], (a) => x.shift('right', a, 1))).toEqual([64, 1]);
    expect(evaluate([['u32', [0x80000001, 3]]], (a) => x.shift('left', a, 1))).toEqual([2, 6]);
    expect(evaluate([['u32', [0x80000001]]], (a) => x.shift('right', a, 31))).toEqual([1]);
  });

  test('select compares one pair and takes from another', () => {
    const inputs = [
      ['f32', [1, NAN, 2]] as const,
      ['f32', [2, 0, 2]] as const,
      ['i32', [10, 11, 12]] as const,
      ['i32', [20, 21, 22]] as const,
    ];
    expect(evaluate(inputs, (a, b, p, q) => x.select('lt', a!, b!, p!, q!))).toEqual([10, 21, 22]);
    expect(evaluate(inputs, (a, b, p, q) => x.select('ne', a!, b!, p!, q!))).toEqual([10, 11, 22]);
  });
});

describe('conversions', () => {
  test.each<[ScalarKind, ScalarKind, number[], number[]]>([
    ['i8', 'u16', [-1, 5], [65535, 5]],
    ['i8', 'i32', [-1, 5], [-1, 5]],
    ['u8', 'i32', [255, 5], [255, 5]],
    ['i32', 'i8', [1000, -1000, 5], [127, -128, 5]],
    ['i32', 'u8', [1000, -1000, 5], [255, 0, 5]],
    ['u32', 'i16', [4294967295, 5], [32767, 5]],
    ['u16', 'i8', [200, 5], [127, 5]],
    ['i32', 'f32', [16777217, 16777219, -1], [16777216, 16777220, -1]],
    ['f32', 'i32', [-1.9, 2.9, 2147483520], [-1, 2, 2147483520]],
    ['f32', 'f16', [1, 65520, 2 ** -25, NAN], [f32ToF16(1), 0x7c00, 0, 0x7e00]],
    ['f32', 'bf16', [1, 1.00390625, 1.01171875], [0x3f80, 0x3f80, 0x3f82]],
    ['f16', 'f32', [0x3c00, 0x0001, 0xfc00], [1, 2 ** -24, -INF]],
    ['bf16', 'f32', [0x3f80, 0x8000], [1, -0]],
  ])('cast %s to %s', (from, to, values, expected) => {
    expect(evaluate([[from, values]], (a) => x.cast(a, to))).toEqual(expected);
    expect(evaluate([[from, values.slice(0, 1)]], (a) => x.cast(a, to))).toEqual(expected.slice(0, 1));
  });

  test('bitcast is little endian', () => {
    const bytes = [['u8', [1, 2, 3, 4, 0, 0, 0x80, 0x3f]] as const];
    expect(evaluate(bytes, (a) => x.bitcast(a, x.vector('u32', 2)))).toEqual([0x04030201, 0x3f800000]);
    expect(evaluate(bytes, (a) => x.bitcast(x.slice(a, 4, 4), x.F32))).toEqual([1]);
  });
});

describe('lanes', () => {
  const four = [['i16', [1, -2, 3, 4]] as const];

  test('repeat, slice, concat, shuffle', () => {
    expect(evaluate(four, (a) => x.repeat(x.slice(a, 1, 2), 3))).toEqual([-2, 3, -2, 3, -2, 3]);
    expect(evaluate(four, (a) => x.concat([x.slice(a, 3, 1), x.slice(a, 0, 1)]))).toEqual([4, 1]);
    expect(evaluate(four, (a) => x.shuffle(a, [3, 3, 0, 1, 2]))).toEqual([4, 4, 1, -2, 3]);
    expect(evaluate([['f32', [7]]], (a) => x.repeat(a, 3))).toEqual([7, 7, 7]);
  });

  test('reduce adds by halving', () => {
    const values = [2 ** 24, 1, 1, -(2 ** 24)];
    // (2^24 + 1) + (1 - 2^24): the first sum rounds to 2^24, the second is exact.
    expect(evaluate([['f32', values]], (a) => x.reduce('add', a))).toEqual([1]);
    expect(evaluate(four, (a) => x.reduce('max', a))).toEqual([4]);
    expect(evaluate(four, (a) => x.reduce('min', a))).toEqual([-2]);
  });

  test('dot products agree with plain sums', () => {
    const random = randomUniform(1);
    const codes = Array.from({ length: 64 }, () => Math.floor(random() * 128));
    const values = Array.from({ length: 64 }, () => Math.floor(random() * 256) - 128);
    const shorts = Array.from({ length: 64 }, () => Math.floor(random() * 65536) - 32768);
    const acc = Array.from({ length: 16 }, () => Math.floor(random() * 2 ** 32) - 2 ** 31);
    const group = (a: number[], b: number[], size: number, start: (i: number) => number) =>
      Array.from(
        { length: a.length / size },
        (_, i) =>
          a.slice(i * size, (i + 1) * size).reduce((sum, v, j) => sum + v * b[i * size + j]!, start(i)) | 0,
      );
    const inputs = [['u8', codes] as const, ['i8', values] as const];
    expect(evaluate(inputs, (a, b) => x.dot2(a!, b!, 127))).toEqual(group(codes, values, 2, () => 0));
    expect(evaluate([['i32', acc] as const, ...inputs], (c, a, b) => x.dot4(c!, a!, b!, 127))).toEqual(
      group(codes, values, 4, (i) => acc[i]!),
    );
    expect(evaluate([['i16', shorts] as const, ['i16', shorts] as const], x.madd)).toEqual(
      group(shorts, shorts, 2, () => 0),
    );
  });

  test('lookup16', () => {
    const table = Array.from({ length: 16 }, (_, i) => 3 * i - 20);
    expect(evaluate([['i8', table] as const, ['u8', [15, 0, 7]] as const], x.lookup16)).toEqual([25, -20, 1]);
  });

  test('lookup128', () => {
    const low = Array.from({ length: 64 }, (_, i) => i - 100);
    const high = Array.from({ length: 64 }, (_, i) => 2 * i);
    const operands = [
      ['i8', low] as const,
      ['i8', high] as const,
      ['u8', [0, 63, 64, 127]] as const,
    ] as const;
    expect(evaluate(operands, x.lookup128)).toEqual([-100, -37, 0, 126]);
  });
});

describe('statements', () => {
  test('registers keep their value while a let sees the old one', () => {
    const k = new FunctionBuilder('swap');
    const y = k.buffer('y', 'i32', 'readwrite');
    const v = k.var('v', k.load(y, 0, 4));
    const old = k.let('old', v);
    k.set(v, x.shuffle(v, [3, 2, 1, 0]));
    k.store(y, 0, v);
    k.store(y, 4, old);
    const out = Int32Array.of(1, 2, 3, 4, 0, 0, 0, 0);
    runFunction(k.build(), { buffers: [bytesOf(out)], scalars: [] });
    expect([...out]).toEqual([4, 3, 2, 1, 1, 2, 3, 4]);
  });

  test('loops, branches, locals and scalars', () => {
    const k = new FunctionBuilder('sums');
    const y = k.buffer('y', 'f32', 'write');
    const n = k.scalar('n');
    const factor = k.scalar('factor', 'f32');
    const tmp = k.local('tmp', 'f32', 16);
    k.for('i', 0, n, 3, (i) => k.store(tmp, i, x.mul(x.cast(i, 'f32'), factor)));
    k.for('i', 0, n, 1, (i) => {
      k.if(
        x.compare('eq', x.rem(i, 3), x.int(0)),
        () => k.store(y, i, k.load(tmp, i)),
        () => k.store(y, i, x.float(-1)),
      );
    });
    const out = new Float32Array(8);
    runFunction(k.build(), { buffers: [bytesOf(out)], scalars: [8, 0.5] });
    expect([...out]).toEqual([0, -1, -1, 1.5, -1, -1, 3, -1]);
  });

  test('a range limits the thread loop', () => {
    const fn = rowNumbers();
    const out = new Int32Array(6);
    runFunction(fn, { buffers: [bytesOf(out)], scalars: [6, 1], range: { begin: 2, end: 4 } });
    expect([...out]).toEqual([0, 0, 3, 4, 0, 0]);
  });

  test('a program runs all thread ranges of each call, with offsets in lines', () => {
    const buffers = {
      weights: new Uint8Array(64),
      arena: new Uint8Array(256),
      cache: new Uint8Array(64),
      logits: new Uint8Array(64),
    };
    for (const threads of [1, 2, 5]) {
      buffers.arena.fill(0);
      runProgram(
        { functions: [rowNumbers()], main: callAtLine(2) },
        { buffers, sequences: [4, 3].map(sequenceOf), threads },
      );
      const arena = [...new Int32Array(buffers.arena.buffer)];
      expect(arena.slice(32, 40)).toEqual([2, 3, 4, 5, 6, 7, 8, 0]);
      expect(arena.slice(0, 32).every((v) => v === 0)).toBe(true);
    }
  });
});

function sequenceOf(tokens: number): StepSequence {
  return { tokens: new Int32Array(tokens), position: 0, cache: 0, logits: 'last' };
}

/** y[i] = i + start for i in 0 .. n */
function rowNumbers(): LoopFunction {
  const k = new FunctionBuilder('rowNumbers');
  const y = k.buffer('y', 'i32', 'write');
  const n = k.scalar('n');
  const start = k.scalar('start');
  const total = k.let('total', x.add(n, 0));
  k.thread('i', total, (i) => k.store(y, i, x.add(i, start)));
  return k.build();
}

function callAtLine(line: number): LoopFunction {
  const k = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => k.buffer(name, elem, access));
  const [n, count] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind));
  k.call('rowNumbers', [{ buffer: buffers[1]!, offset: line }], [n!, count!]);
  k.barrier();
  return k.build();
}

describe('broken promises are reported with function and statement', () => {
  const run = (
    write: (k: FunctionBuilder, u8: BufferRef, i8: BufferRef, i32: BufferRef, f32: BufferRef) => void,
  ) => {
    const k = new FunctionBuilder('victim');
    const kinds = ['u8', 'i8', 'i32', 'f32'] as const;
    const refs = kinds.map((kind) => k.buffer(kind, kind, 'readwrite'));
    write(k, refs[0]!, refs[1]!, refs[2]!, refs[3]!);
    const buffers = kinds.map((kind) => bytesOf(arrayOf(kind, [16, 3, 0, 1, 2, 3, 4, 5])));
    return () => runFunction(k.build(), { buffers, scalars: [] });
  };

  test('bounds', () => {
    expect(run((k, u8) => k.let('v', k.load(u8, 1, 8)))).toThrow(
      'interpreter: in victim, at "let v = u8[1 +: 8]": u8[1 +: 8] is out of bounds: u8 has 8 elements',
    );
    expect(run((k, u8) => k.store(u8, -1, k.load(u8, 0)))).toThrow('u8[-1 +: 1] is out of bounds');
    expect(run((k, u8) => k.store(u8, x.int(7), k.load(u8, 0, 2)))).toThrow('u8[7 +: 2] is out of bounds');
    expect(run((k, u8) => k.let('v', k.load(u8, 8)))).toThrow('u8[8 +: 1] is out of bounds');
  });

  test('codes', () => {
    expect(run((k, u8, i8) => k.let('v', x.dot2(k.load(u8, 0, 2), k.load(i8, 0, 2), 3)))).toThrow(
      'dot2 promised codes up to 3 but met 16',
    );
    expect(
      run((k, u8, i8, i32) => k.let('v', x.dot4(k.load(i32, 0), k.load(u8, 0, 4), k.load(i8, 0, 4), 15))),
    ).toThrow('dot4 promised codes up to 15 but met 16');
    expect(
      run((k, u8) => k.let('v', x.lookup16(x.constant(x.vector('u8', 16), 1), k.load(u8, 0, 2)))),
    ).toThrow('lookup16 promised codes up to 15 but met 16');
    const half = x.constant(x.vector('i8', 64), 1);
    expect(run((k) => k.let('v', x.lookup128(half, half, x.constant(x.vector('u8', 4), 128))))).toThrow(
      'lookup128 promised codes up to 127 but met 128',
    );
  });

  test('arithmetic', () => {
    const min = x.int(-(2 ** 31));
    expect(run((k, _u, _i, i32) => k.let('v', x.div(x.int(1), k.load(i32, 2))))).toThrow('div of 1 by zero');
    expect(run((k, _u, _i, i32) => k.let('v', x.rem(k.load(i32, 1), x.int(0))))).toThrow('rem of 3 by zero');
    expect(run((k, _u, _i, i32) => k.let('v', x.div(min, x.sub(k.load(i32, 2), 1))))).toThrow('overflows');
    expect(run((k, _u, _i, _l, f32) => k.let('v', x.cast(x.mul(k.load(f32, 0), 2 ** 28), 'i32')))).toThrow(
      'cast of 4294967296 to i32',
    );
    expect(run((k) => k.let('v', x.cast(x.add(x.float(NAN, 2), x.float(1, 2)), 'i32')))).toThrow(
      'cast of NaN to i32',
    );
  });

  test('arguments', () => {
    const args = { buffers: [new Uint8Array(8)], scalars: [2, 0] };
    expect(() => runFunction(rowNumbers(), { ...args, scalars: [] })).toThrow(
      '1 buffers and 0 scalars were passed for 1 and 2',
    );
    expect(() => runFunction(rowNumbers(), { ...args, range: { begin: 0, end: 3 } })).toThrow(
      'the range 0 .. 3 is not within 0 .. 2',
    );
    expect(() =>
      runFunction(rowNumbers(), { ...args, buffers: [new Uint8Array(new ArrayBuffer(9), 1)] }),
    ).toThrow('starts at an odd address');
  });
});
