import { describe, expect, test } from 'vitest';
import { FunctionBuilder } from './builder.ts';
import * as x from './expr.ts';
import { runFunction } from './interpret.ts';
import type { Expr, LoopFunction, ScalarKind } from './ir.ts';
import { checkLegal } from './legalize/check.ts';
import { legalize } from './legalize.ts';
import type { Machine, NativeOp } from './machine.ts';
import { parseFunction } from './parse.ts';
import { printFunction } from './print.ts';
import { copyBuffers, firstDifference, randomFunction } from './testing.ts';
import { verifyFunction } from './verify.ts';

function machine(vectorBytes: Machine['vectorBytes'], native: NativeOp[], dotCodeMax: 127 | 255): Machine {
  return {
    name: `${vectorBytes}:${native.join('+')}`,
    vectorBytes,
    vectorRegisters: 16,
    native: new Set(native),
    dotCodeMax,
    l1Bytes: 32768,
    l2Bytes: 1 << 20,
  };
}

const ALL: NativeOp[] = ['dot2', 'madd', 'dot4', 'lookup16', 'lookup128', 'averageRound', 'f16'];
const MACHINES = [
  machine(4, [], 255),
  machine(16, ['madd', 'lookup16', 'averageRound'], 255),
  machine(16, ['dot2', 'madd', 'lookup16', 'averageRound'], 127),
  machine(16, [], 255),
  machine(32, ['dot2', 'madd', 'lookup16', 'averageRound', 'f16'], 255),
  machine(64, ALL, 255),
  machine(64, ['dot2', 'dot4'], 127),
];

describe('random functions', () => {
  test.each(MACHINES.map((m) => [m.name, m] as const))('on %s', (_, m) => {
    for (let seed = 0; seed < 60; seed++) {
      const { fn, buffers, scalars } = randomFunction(seed);
      const legal = legalize(fn, m);
      checkLegal(legal, m);
      verifyFunction(legal);
      const [expected, got] = [copyBuffers(buffers), copyBuffers(buffers)];
      runFunction(fn, { buffers: expected, scalars });
      runFunction(legal, { buffers: got, scalars });
      expect(firstDifference(fn, expected, got), `seed ${seed}`).toBeUndefined();
    }
  });
});

/** The body of a function as legalized text, without its head. */
function legalText(head: string, body: string, m: Machine): string {
  const lines = printFunction(legalize(parseFunction(`fn f(${head}) {${body}}`), m)).split('\n');
  return lines.slice(1, -2).join('\n');
}

const AVX2 = machine(32, ['dot2', 'madd', 'lookup16', 'averageRound', 'f16'], 255);
const SSE = machine(16, ['dot2', 'madd', 'lookup16', 'averageRound'], 255);

describe('the code is what one would write by hand', () => {
  test('a repeated value is one register for all pieces', () => {
    const body = `
  let v = w[n * 64 +: 64]
  y[0] = dot4(i32x16(1), v & u8x64(3), repeat(q[n +: 4], 16), 3)
  y[16] = dot4(i32x16(1), v >> 2, repeat(q[n +: 4], 16), 63)
`;
    expect(legalText('w: read u8[], q: read i8[], y: write i32[], n: i32', body, AVX2)).toBe(
      `  let at = n * 64
  let v_0 = w[at +: 32]
  let v_1 = w[at + 32 +: 32]
  let tmp = repeat(q[n +: 4], 8)
  y[0] = i32x8(1) + madd(dot2(v_0 & u8x32(3), tmp, 3), i16x16(1))
  y[8] = i32x8(1) + madd(dot2(v_1 & u8x32(3), tmp, 3), i16x16(1))
  let tmp_1 = repeat(q[n +: 4], 8)
  y[16] = i32x8(1) + madd(dot2(v_0 >> 2, tmp_1, 63), i16x16(1))
  y[24] = i32x8(1) + madd(dot2(v_1 >> 2, tmp_1, 63), i16x16(1))`,
    );
  });

  test('slices of loads are loads, and unrolled copies share the address', () => {
    const body = `
  unrolled for u in 0 .. 2 {
    y[(n + u) * 8] = cast(slice(q[(n + u) * 16 - 1 +: 16], 8, 8), i32)
  }
`;
    expect(legalText('q: read i8[], y: write i32[], n: i32', body, SSE)).toBe(
      `  let at = n * 8
  let at_1 = n * 16
  y[at] = cast(q[at_1 + 7 +: 4], i32)
  y[at + 4] = cast(q[at_1 + 11 +: 4], i32)
  y[at + 8] = cast(q[at_1 + 23 +: 4], i32)
  y[at + 12] = cast(q[at_1 + 27 +: 4], i32)`,
    );
  });

  test('narrowing fills one register from several, widening reads parts of one', () => {
    const head = 'q: readwrite i8[], y: readwrite i32[]';
    expect(legalText(head, '\n  q[0] = cast(y[0 +: 16], i8)\n', SSE)).toBe(
      '  q[0] = concat(concat(cast(y[0 +: 4], i8), cast(y[4 +: 4], i8)), ' +
        'concat(cast(y[8 +: 4], i8), cast(y[12 +: 4], i8)))',
    );
    expect(legalText(head, '\n  y[0] = cast(neg(q[0 +: 8]), i32)\n', SSE)).toBe(
      `  let tmp = neg(q[0 +: 8])
  y[0] = cast(slice(tmp, 0, 4), i32)
  y[4] = cast(slice(tmp, 4, 4), i32)`,
    );
  });

  test('shuffles across registers', () => {
    const head = 'x: read i32[], y: write i32[]';
    const body = (indices: string) => `
  let v = x[0 +: 8]
  y[0] = shuffle(v, [${indices}])
`;
    const v = '  let v_0 = x[0 +: 4]\n  let v_1 = x[4 +: 4]\n';
    expect(legalText(head, body('0, 2, 4, 6'), SSE)).toBe(
      `${v}  y[0] = concat(shuffle(v_0, [0, 2]), shuffle(v_1, [0, 2]))`,
    );
    expect(legalText(head, body('0, 4, 1, 5'), SSE)).toBe(
      `${v}  y[0] = shuffle(concat(slice(v_0, 0, 2), slice(v_1, 0, 2)), [0, 2, 1, 3])`,
    );
    expect(legalText(head, body('4, 5, 6, 7'), SSE)).toBe(`${v}  y[0] = v_1`);
    expect(legalText(head, body('3, 3, 3, 3'), SSE)).toBe(`${v}  y[0] = repeat(slice(v_0, 3, 1), 4)`);
  });

  test('reduce combines registers first', () => {
    const head = 'x: read f32[], y: write f32[]';
    expect(legalText(head, '\n  y[0] = reduce(add, x[0 +: 8])\n', SSE)).toBe(
      `  let tmp = x[0 +: 4] + x[4 +: 4]
  let tmp_1 = slice(tmp, 0, 2) + slice(tmp, 2, 2)
  y[0] = slice(tmp_1, 0, 1) + slice(tmp_1, 1, 1)`,
    );
  });

  test('branches on constants disappear with the loop that made them', () => {
    const body = `
  unrolled for u in 0 .. 2 {
    if u == 0 {
      y[u] = 5
    } else {
      y[u] = u
    }
  }
`;
    expect(legalText('y: write i32[]', body, SSE)).toBe('  y[0] = 5\n  y[1] = 1');
  });
});

/** Runs a function on all machines and expects what it gives as it stands. */
function expectSameEverywhere(fn: LoopFunction, buffers: readonly Uint8Array[]): void {
  const expected = copyBuffers(buffers);
  runFunction(fn, { buffers: expected, scalars: [] });
  for (const m of MACHINES) {
    const legal = legalize(fn, m);
    checkLegal(legal, m);
    const got = copyBuffers(buffers);
    runFunction(legal, { buffers: got, scalars: [] });
    expect(firstDifference(fn, expected, got), m.name).toBeUndefined();
  }
}

describe('exact expansions', () => {
  const convert = (from: ScalarKind, to: ScalarKind, count: number): LoopFunction => {
    const k = new FunctionBuilder('convert');
    const [a, b] = [k.buffer('a', from, 'read'), k.buffer('b', to, 'write')];
    k.for('i', 0, count, 16, (i) => k.store(b, i, x.cast(k.load(a, i, 16), to)));
    return k.build();
  };

  test('every f16 to f32', () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
    expectSameEverywhere(convert('f16', 'f32', 65536), [
      new Uint8Array(halves.buffer),
      new Uint8Array(4 * 65536),
    ]);
  });

  test.each(['f16', 'bf16'] as const)('f32 to %s around every point where rounding changes', (format) => {
    const values: number[] = [];
    const step = format === 'f16' ? 2 ** 13 : 2 ** 16;
    // Values that begin another case: subnormal, overflow, infinity, NaN; and a sample of all others.
    const cases = [0x33000000, 0x33800000, 0x38800000, 0x477fe000, 0x47800000, 0x7f7f0000, 0x7f800000];
    const sample = Array.from({ length: 3000 }, (_, i) => Math.floor(((i / 3000) * 2 ** 31) / step) * step);
    for (const low of [...cases, ...sample]) {
      for (const bits of [-1, 0, 1, step / 2 - 1, step / 2, step / 2 + 1]) {
        const magnitude = Math.max(0, low + bits);
        values.push(magnitude, magnitude + 2 ** 31);
      }
    }
    while (values.length % 16 !== 0) values.push(0);
    const bits = Uint32Array.from(values);
    expectSameEverywhere(convert('f32', format, bits.length), [
      new Uint8Array(bits.buffer),
      new Uint8Array(2 * bits.length),
    ]);
  });

  test('dot products at their limits', () => {
    const dots = (aMax: number, op: (a: Expr, b: Expr, acc: Expr) => Expr) => {
      const k = new FunctionBuilder('dots');
      const [a, b] = [k.buffer('a', 'u8', 'read'), k.buffer('b', 'i8', 'read')];
      const c = k.buffer('c', 'i32', 'readwrite');
      const value = op(k.load(a, 0, 64), k.load(b, 0, 64), k.load(c, 0, 16));
      k.store(c, 0, value.type.kind === 'i16' ? x.cast(value, 'i32') : value);
      const codes = Uint8Array.from({ length: 64 }, (_, i) => aMax - (i % 3 === 0 ? i % 2 : 0));
      const values = Int8Array.from({ length: 64 }, (_, i) => [-128, -128, 127, 127, -1][i % 5]!);
      const acc = Int32Array.from({ length: 32 }, (_, i) => 2 ** 31 - 1 - i);
      expectSameEverywhere(k.build(), [codes, new Uint8Array(values.buffer), new Uint8Array(acc.buffer)]);
    };
    for (const aMax of [3, 127, 128, 255]) dots(aMax, (a, b, acc) => x.dot4(acc, a, b, aMax));
    for (const aMax of [3, 127, 128]) dots(aMax, (a, b) => x.dot2(a, b, aMax));
  });

  test('nor when the other buffer is the same memory', () => {
    const k = new FunctionBuilder('inPlace');
    const [a, b] = [k.buffer('a', 'f32', 'read'), k.buffer('b', 'f32', 'write')];
    k.store(b, 0, x.shuffle(k.load(a, 0, 64), [...Array(64).keys()].reverse()));
    const run = (fn: LoopFunction) => {
      const memory = new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i * i).buffer);
      runFunction(fn, { buffers: [memory, memory], scalars: [] });
      return memory;
    };
    const fn = k.build();
    for (const m of MACHINES) expect(run(legalize(fn, m)), m.name).toEqual(run(fn));
    // The same place of both is no reason to hold back.
    const added = legalText('a: read f32[], b: write f32[]', 'b[0] = neg(a[0 +: 16])', AVX2);
    expect(added).toBe('  b[0] = neg(a[0 +: 8])\n  b[8] = neg(a[8 +: 8])');
  });

  test('pairs of stores have no load between them where the compiler may join them', () => {
    const body = 'b[0] = neg(a[0 +: 16])';
    const pairs = legalText('a: read f32[], b: write f32[]', body, { ...SSE, joinsStores: true });
    expect(pairs.split('\n').map((line) => line.trim())).toEqual([
      ...['let tmp = neg(a[0 +: 4])', 'let tmp_1 = neg(a[4 +: 4])', 'b[0] = tmp', 'b[4] = tmp_1'],
      ...['let tmp_2 = neg(a[8 +: 4])', 'let tmp_3 = neg(a[12 +: 4])', 'b[8] = tmp_2', 'b[12] = tmp_3'],
    ]);
  });

  test('a piece does not see what an earlier piece of the same statement wrote', () => {
    const k = new FunctionBuilder('overlap');
    const y = k.buffer('y', 'i32', 'readwrite');
    const v = k.var('v', k.load(y, 0, 32));
    k.store(y, 1, k.load(y, 0, 32));
    k.set(
      v,
      x.shuffle(
        v,
        Array.from({ length: 32 }, (_, i) => 31 - i),
      ),
    );
    k.store(y, 40, v);
    const memory = Int32Array.from({ length: 80 }, (_, i) => i * i);
    expectSameEverywhere(k.build(), [new Uint8Array(memory.buffer)]);
  });
});

describe('checkLegal refuses', () => {
  const SCALAR = machine(4, [], 255);
  test.each<[string, Machine, string]>([
    ['y[0] = i32x8(1)', SSE, 'i32x8(1) is a i32x8, larger than a register'],
    ['y[0] = i32x3(1)', SSE, 'has 3 lanes'],
    ['y[0] = i32x2(1)', SCALAR, 'is a vector'],
    ['y[0] = slice(i32x2(1), 0, 1)', SCALAR, 'rearranges lanes'],
    ['y[0] = concat(1, 2, 3, 4)', SSE, 'has 4 parts'],
    ['y[0] = reduce(add, i32x4(1))', SSE, 'is left'],
    ['y[0] = madd(i16x8(1), i16x8(1))', machine(16, [], 255), 'is not native'],
    ['y[0] = dot4(1, u8x4(1), i8x4(1), 3)', AVX2, 'is not native'],
    ['y[0] = cast(dot2(u8x2(1), i8x2(1), 128), i32)', machine(16, ['dot2'], 127), 'is not native'],
    ['y[0] = cast(averageRound(u8(1), u8(2)), i32)', SCALAR, 'is not native'],
    ['let v = cast(1.0, bf16)', AVX2, 'is left'],
    ['let v = cast(1.0, f16)', SSE, 'is not native'],
    ['unrolled for i in 0 .. 2 { y[i] = i }', SSE, 'an unrolled loop is left'],
  ])('%s', (body, m, message) => {
    const fn = parseFunction(`fn f(y: write i32[]) { ${body} }`);
    expect(() => checkLegal(fn, m)).toThrow(message);
    expect(() => checkLegal(legalize(fn, m), m)).not.toThrow();
  });
});
