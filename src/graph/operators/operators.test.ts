/** Every operator's float64 meaning against a formula written another way. */
import { expect, test } from 'vitest';
import { randomUniform } from '../../common/random.ts';
import type { Attrs, TensorType } from '../ir.ts';
import { inferTypes, operatorOf } from '../registry.ts';
import { fillAttrs } from '../schema.ts';
import { type Numbers, ReferenceCache, type Step, type Tensor } from '../step.ts';
import { tensor } from '../types.ts';
import { coreOperators } from './core.ts';

function step(tokens: number, position = 0, cache = new ReferenceCache(), outputs = 1): Step {
  return { tokens, outputs, position, cache };
}

function run(op: string, inputs: readonly Tensor[], attrs: Attrs, at: Step): readonly Numbers[] {
  const def = operatorOf(coreOperators, op, 'test');
  return def.reference({ inputs, attrs: fillAttrs(attrs, def.attrs), step: at });
}

function floats(random: () => number, ...shape: number[]): Tensor {
  const count = shape.reduce((a, b) => a * b, 1);
  return { shape, data: Float64Array.from({ length: count }, () => 4 * random() - 2) };
}

/** A copy of x as rows of numbers. */
function rowsOf(x: Tensor): number[][] {
  const width = x.shape[1]!;
  return Array.from({ length: x.shape[0]! }, (_, r) => Array.from(x.data.slice(r * width, (r + 1) * width)));
}

function expectClose(actual: Numbers | undefined, expected: readonly number[]): void {
  expect(actual?.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(Math.abs(actual![i]! - value)).toBeLessThan(1e-12);
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.map((value, i) => value * b[i]!).reduce((sum, value) => sum + value, 0);
}

test('embedding takes rows, and refuses tokens that have none', () => {
  const table = floats(randomUniform(1), 5, 3);
  const tokens = { shape: [2], data: Int32Array.of(4, 0) };
  const rows = rowsOf(table);
  expect(Array.from(run('embedding', [tokens, table], {}, step(2))[0]!)).toEqual([...rows[4]!, ...rows[0]!]);
  for (const token of [-1, 5]) {
    const bad = { shape: [1], data: Int32Array.of(token) };
    expect(() => run('embedding', [bad, table], {}, step(1))).toThrow(`token ${token} is not in 0..4`);
  }
});

test('rmsNorm gives rows of mean square 1 before the weight', () => {
  const random = randomUniform(2);
  const x = floats(random, 3, 7);
  const weight = floats(random, 7);
  const expected = rowsOf(x).flatMap((row) => {
    const rms = Math.hypot(...row) / Math.sqrt(7);
    return row.map((value, i) => (value / Math.sqrt(rms * rms + 1e-2)) * weight.data[i]!);
  });
  expectClose(run('rmsNorm', [x, weight], { eps: 1e-2 }, step(3))[0], expected);
});

test('quantize rounds ties to even, keeps the sum and survives a row of zeros', () => {
  // amax = 127, so that x is q: ties at .5 fall to the even neighbour.
  const x = { shape: [2, 6], data: Float64Array.of(127, 0.5, 1.5, -0.5, -2.5, 126.5, 0, 0, 0, 0, 0, 0) };
  const [q, scale, sum] = run('quantize', [x], {}, step(2));
  expect(Array.from(q!)).toEqual([127, 0, 2, 0, -2, 126, 0, 0, 0, 0, 0, 0]);
  expect(Array.from(sum!)).toEqual([253, 0]);
  expectClose(scale, [1, 1e-5 / 127]);
});

test('quantize is within half a step of x', () => {
  const x = floats(randomUniform(3), 4, 50);
  const [q, scale, sum] = run('quantize', [x], {}, step(4));
  for (const [r, row] of rowsOf(x).entries()) {
    const codes = Array.from(q!.slice(r * 50, (r + 1) * 50));
    expect(Math.max(...codes.map(Math.abs))).toBe(127);
    expect(sum![r]).toBe(codes.reduce((a, b) => a + b, 0));
    for (const [i, value] of row.entries()) {
      expect(Math.abs(codes[i]! * scale![r]! - value)).toBeLessThan(0.5000001 * scale![r]!);
    }
  }
});

test('rmsNorm.quantize is rmsNorm, then quantize', () => {
  const random = randomUniform(4);
  const x = floats(random, 3, 9);
  const weight = floats(random, 9);
  const [normed] = run('rmsNorm', [x, weight], { eps: 1e-5 }, step(3));
  const apart = run('quantize', [{ shape: [3, 9], data: normed! }], {}, step(3));
  expect(run('rmsNorm.quantize', [x, weight], { eps: 1e-5 }, step(3))).toEqual(apart);
});

function lowbitInputs(t: number, m: number, k: number): Tensor[] {
  const random = randomUniform(5);
  const q = {
    shape: [t, k],
    data: Int8Array.from({ length: t * k }, () => Math.floor(random() * 256) - 128),
  };
  const sum = { shape: [t], data: Int32Array.from(rowsOf(q), (row) => row.reduce((a, b) => a + b, 0)) };
  const weight = {
    shape: [m, k],
    data: Int8Array.from({ length: m * k }, () => Math.floor(random() * 3) - 1),
  };
  return [q, floats(random, t), sum, weight, floats(random, m)];
}

test('lowbit.matmul is the product of the dequantized matrices', () => {
  const [q, scale, sum, weight, weightScale] = lowbitInputs(3, 5, 70);
  const expected = rowsOf(q!).flatMap((x, t) =>
    rowsOf(weight!).map((w, row) => dot(x, w) * weightScale!.data[row]! * scale!.data[t]!),
  );
  const inputs = [q!, scale!, sum!, weight!, weightScale!];
  expectClose(run('lowbit.matmul', inputs, {}, step(3))[0], expected);
  const residual = floats(randomUniform(6), 3, 5);
  expectClose(
    run('lowbit.matmul.add', [...inputs, residual], {}, step(3))[0],
    expected.map((value, i) => value + residual.data[i]!),
  );
});

test('matmul is the product with the transposed table', () => {
  const random = randomUniform(7);
  const x = floats(random, 2, 11);
  const table = floats(random, 4, 11);
  const expected = rowsOf(x).flatMap((a) => rowsOf(table).map((b) => dot(a, b)));
  expectClose(run('matmul', [x, table], {}, step(2))[0], expected);
});

test('slice and selectOutputs take columns and the last rows', () => {
  const x = floats(randomUniform(8), 3, 6);
  const rows = rowsOf(x);
  expectClose(
    run('slice', [x], { start: 2, length: 3 }, step(3))[0],
    rows.flatMap((row) => row.slice(2, 5)),
  );
  expectClose(run('selectOutputs', [x], {}, step(3))[0], rows[2]!);
  expectClose(run('selectOutputs', [x], {}, step(3, 0, undefined, 3))[0], rows.flat());
});

test('add and gate', () => {
  const random = randomUniform(9);
  const a = floats(random, 2, 5);
  const b = floats(random, 2, 5);
  const pairs = Array.from(a.data, (value, i) => [value, b.data[i]!] as const);
  expectClose(
    run('add', [a, b], {}, step(2))[0],
    pairs.map(([x, y]) => x + y),
  );
  const relu2 = pairs.map(([x, y]) => Math.max(x, 0) ** 2 * y);
  const silu = pairs.map(([x, y]) => x * 0.5 * (1 + Math.tanh(x / 2)) * y);
  expectClose(run('gate', [a, b], { act: 'relu2' }, step(2))[0], relu2);
  expectClose(run('gate', [a, b], { act: 'silu' }, step(2))[0], silu);
  const packed = rowsOf(a).flatMap((row, t) => [...row, ...rowsOf(b)[t]!]);
  const gateUp = { shape: [2, 10], data: Float64Array.from(packed) };
  expectClose(run('gate.packed', [gateUp], { act: 'relu2' }, step(2))[0], relu2);
  expectClose(run('gate.packed', [gateUp], { act: 'silu' }, step(2))[0], silu);
});

/** [positions, headDim] of cos, then sin, of position * 100^(-2i/headDim). */
function ropeTable(positions: number, headDim: number): Tensor {
  const angles = (p: number) =>
    Array.from({ length: headDim / 2 }, (_, i) => p * 100 ** ((-2 * i) / headDim));
  const rows = Array.from({ length: positions }, (_, p) => [
    ...angles(p).map(Math.cos),
    ...angles(p).map(Math.sin),
  ]);
  return { shape: [positions, headDim], data: Float64Array.from(rows.flat()) };
}

/** Rotation as multiplication of complex numbers of a given modulus and argument. */
function turnedPair(a: number, b: number, angle: number): [number, number] {
  const modulus = Math.hypot(a, b);
  const argument = Math.atan2(b, a) + angle;
  return [modulus * Math.cos(argument), modulus * Math.sin(argument)];
}

test.each(['half', 'interleaved'] as const)(
  'rope %s turns each pair by the angle of its position',
  (style) => {
    const headDim = 6;
    const x = floats(randomUniform(10), 3, 2 * headDim);
    const expected = rowsOf(x).map((row, t) => {
      const out = [...row];
      for (let head = 0; head < 2; head++) {
        for (let i = 0; i < headDim / 2; i++) {
          const first = head * headDim + (style === 'half' ? i : 2 * i);
          const second = style === 'half' ? first + headDim / 2 : first + 1;
          const angle = (4 + t) * 100 ** ((-2 * i) / headDim);
          [out[first], out[second]] = turnedPair(row[first]!, row[second]!, angle);
        }
      }
      return out;
    });
    const attrs = { heads: 2, headDim, style };
    expectClose(run('rope', [x, ropeTable(7, headDim)], attrs, step(3, 4))[0], expected.flat());
    expect(() => run('rope', [x, ropeTable(6, headDim)], attrs, step(3, 4))).toThrow(
      'position 6 is beyond the 6 of the rotation table',
    );
  },
);

/** Softmax attention of one query over given keys, straight from the definition. */
function attendNaively(q: number[], keys: number[][], values: number[][]): number[] {
  const weights = keys.map((key) => Math.exp(dot(q, key) / Math.sqrt(q.length)));
  const total = weights.reduce((a, b) => a + b, 0);
  return q.map((_, i) =>
    dot(
      weights.map((weight) => weight / total),
      values.map((value) => value[i]!),
    ),
  );
}

test('attention is causal, grouped and the same in one step as token by token', () => {
  const random = randomUniform(11);
  const [tokens, heads, kvHeads, headDim] = [5, 6, 2, 4];
  const q = floats(random, tokens, heads * headDim);
  const k = floats(random, tokens, kvHeads * headDim);
  const v = floats(random, tokens, kvHeads * headDim);
  const head = (x: Tensor, t: number, h: number) => rowsOf(x)[t]!.slice(h * headDim, (h + 1) * headDim);
  const expected = rowsOf(q).flatMap((_, t) =>
    Array.from({ length: heads }, (_, h) => {
      const past = Array.from({ length: t + 1 }, (_, p) => p);
      const group = Math.floor(h / (heads / kvHeads));
      return attendNaively(
        head(q, t, h),
        past.map((p) => head(k, p, group)),
        past.map((p) => head(v, p, group)),
      );
    }).flat(),
  );
  const attrs = { layer: 3, heads, kvHeads, headDim };
  expectClose(run('attention', [q, k, v], attrs, step(tokens))[0], expected);
  const cache = new ReferenceCache();
  for (let t = 0; t < tokens; t++) {
    const row = (x: Tensor) => ({ shape: [1, x.shape[1]!], data: Float64Array.from(rowsOf(x)[t]!) });
    const width = heads * headDim;
    expectClose(
      run('attention', [row(q), row(k), row(v)], attrs, step(1, t, cache))[0],
      expected.slice(t * width, (t + 1) * width),
    );
  }
});

test('attention.packed is slice, rope and attention', () => {
  const [tokens, heads, kvHeads, headDim] = [3, 4, 2, 6];
  const [qWidth, kvWidth] = [heads * headDim, kvHeads * headDim];
  const qkv = floats(randomUniform(12), tokens, qWidth + 2 * kvWidth);
  const table = ropeTable(tokens, headDim);
  const columns = (start: number, length: number): Tensor => ({
    shape: [tokens, length],
    data: run('slice', [qkv], { start, length }, step(tokens))[0]!,
  });
  const turned = (x: Tensor, count: number): Tensor => ({
    shape: x.shape,
    data: run('rope', [x, table], { heads: count, headDim, style: 'half' }, step(tokens))[0]!,
  });
  const q = turned(columns(0, qWidth), heads);
  const k = turned(columns(qWidth, kvWidth), kvHeads);
  const v = columns(qWidth + kvWidth, kvWidth);
  const attrs = { layer: 0, heads, kvHeads, headDim };
  const apart = run('attention', [q, k, v], attrs, step(tokens))[0];
  const packed = run('attention.packed', [qkv, table], { ...attrs, style: 'half' }, step(tokens))[0];
  expectClose(packed, Array.from(apart!));
});

test('the cache can be rewound, and refuses gaps and another width', () => {
  const cache = new ReferenceCache();
  cache.append(0, 0, 2, [1, 2, 3, 4], [5, 6, 7, 8]);
  const stored = cache.append(0, 1, 2, [9, 10], [11, 12]);
  expect(Array.from(stored.keys)).toEqual([1, 2, 9, 10]);
  expect(Array.from(stored.values)).toEqual([5, 6, 11, 12]);
  expect(() => cache.append(0, 3, 2, [1, 2], [1, 2])).toThrow('only 2 positions are in the cache');
  expect(() => cache.append(0, 2, 1, [1], [1])).toThrow('has 2 values a position in this cache, not 1');
});

const x = tensor('f32', 'tokens', 24);
const kv = tensor('f32', 'tokens', 12);
const table = tensor('f32', 100, 6);
const packed = tensor('f32', 'tokens', 48);
const heads = { heads: 4, kvHeads: 2, headDim: 6 };

test.each<[string, readonly TensorType[], Attrs, readonly TensorType[]]>([
  ['embedding', [tensor('i32', 'tokens'), tensor('f16', 9, 4)], {}, [tensor('f32', 'tokens', 4)]],
  ['rmsNorm', [tensor('f32', 'outputs', 4), tensor('f32', 4)], { eps: 1 }, [tensor('f32', 'outputs', 4)]],
  ['quantize', [x], {}, [tensor('i8', 'tokens', 24), tensor('f32', 'tokens'), tensor('i32', 'tokens')]],
  ['slice', [x], { start: 20, length: 4 }, [tensor('f32', 'tokens', 4)]],
  ['rope', [x, table], { heads: 4, headDim: 6, style: 'half' }, [x]],
  ['attention', [x, kv, kv], { layer: 0, ...heads }, [x]],
  ['attention.packed', [packed, table], { layer: 0, ...heads, style: 'interleaved' }, [x]],
  ['gate', [x, x], { act: 'silu' }, [x]],
  ['gate.packed', [packed], { act: 'relu2' }, [x]],
  ['add', [x, x], {}, [x]],
  ['selectOutputs', [x], {}, [tensor('f32', 'outputs', 24)]],
  ['matmul', [x, tensor('bf16', 7, 24)], {}, [tensor('f32', 'tokens', 7)]],
])('%s infers its types', (op, inputs, attrs, expected) => {
  expect(inferTypes(coreOperators, op, inputs, attrs, 'here')).toEqual(expected);
});

test.each<[string, readonly TensorType[], Attrs, string]>([
  ['add', [x, kv], {}, 'here: input b f32[t, k] cannot be f32[tokens, 12] with t = tokens, k = 24'],
  ['add', [x], {}, 'here: takes 2 inputs (a, b), not 1'],
  ['add', [x, tensor('f32', 'outputs', 24)], {}, 'with t = tokens'],
  ['add', [x, tensor('f16', 'tokens', 24)], {}, 'input b f32[t, k] cannot be f16[tokens, 24]'],
  ['add', [tensor('f32', 4, 24), tensor('f32', 4, 24)], {}, 'cannot be f32[4, 24]'],
  ['selectOutputs', [tensor('f32', 'outputs', 24)], {}, 'cannot be f32[outputs, 24]'],
  ['rmsNorm', [x, tensor('f32', 24)], {}, 'needs the attribute eps, a finite number above 0'],
  ['rmsNorm', [x, tensor('f32', 24)], { eps: 0 }, 'eps is 0, but must be a finite number above 0'],
  ['rmsNorm', [x, tensor('f32', 24)], { eps: 1, esp: 1 }, 'has no attribute esp; did you mean eps?'],
  ['gate', [x, x], { act: 'tanh' }, `act is "tanh", but must be 'relu2' or 'silu' or 'gelu'`],
  ['slice', [x], { start: 20, length: 5 }, 'columns 20 to 25 are beyond the width 24 of x'],
  ['slice', [x], { start: -1, length: 5 }, 'start is -1, but must be an integer of at least 0'],
  ['gate.packed', [tensor('f32', 'tokens', 3)], { act: 'silu' }, 'the odd width 3'],
  ['rope', [x, table], { heads: 8, headDim: 3, style: 'half' }, 'headDim 3 is odd'],
  ['rope', [x, table], { heads: 3, headDim: 8, style: 'half' }, 'rows have 6 values, but headDim is 8'],
  [
    'rope',
    [x, table],
    { heads: 3, headDim: 6, style: 'half' },
    'x is 24 wide, but its heads are 18 together',
  ],
  ['attention', [x, kv, kv], { layer: 0, heads: 4, kvHeads: 3, headDim: 6 }, '4 heads cannot share 3'],
  ['attention', [x, x, x], { layer: 0, ...heads }, 'k is 24 wide, but its heads are 12 together'],
  ['attention.packed', [x, table], { layer: 0, ...heads, style: 'half' }, 'qkv is 24 wide'],
])('%s refuses what does not fit (%#)', (op, inputs, attrs, message) => {
  expect(() => inferTypes(coreOperators, op, inputs, attrs, 'here')).toThrow(message);
});

test('bias adds one row to all, scale multiplies', () => {
  const random = randomUniform(31);
  const [x, row] = [floats(random, 3, 5), floats(random, 5)];
  expectClose(
    run('bias', [x, row], {}, step(3))[0],
    rowsOf(x).flatMap((values) => values.map((v, i) => v + row.data[i]!)),
  );
  expectClose(
    run('scale', [x], { factor: 2.5 }, step(3))[0],
    rowsOf(x).flatMap((values) => values.map((v) => v * 2.5)),
  );
});

test('rmsNorm.heads norms heads by themselves and leaves what is behind them', () => {
  const random = randomUniform(32);
  const [x, weight] = [floats(random, 2, 11), floats(random, 8)];
  const expected = rowsOf(x).flatMap((row) =>
    row.map((v, i) => {
      if (i >= 8) return v;
      const head = row.slice(i - (i % 4), i - (i % 4) + 4);
      return (v / Math.hypot(...head.map((h) => h / 2), Math.sqrt(1e-6))) * weight.data[i]!;
    }),
  );
  expectClose(run('rmsNorm.heads', [x, weight], { headDim: 4, eps: 1e-6 }, step(2))[0], expected);
  const types = [tensor('f32', 'tokens', 6), tensor('f32', 8)];
  expect(() => inferTypes(coreOperators, 'rmsNorm.heads', types, { headDim: 4, eps: 1 }, 'test')).toThrow(
    '8 weights are no heads of 4 among 6 columns',
  );
});

test('gelu is the one by tanh', () => {
  const gate = { shape: [1, 3], data: Float64Array.of(-1, 0, 2) };
  const up = { shape: [1, 3], data: Float64Array.of(1, 1, 1) };
  // Of torch.nn.functional.gelu(x, approximate='tanh').
  const [out] = run('gate', [gate, up], { act: 'gelu' }, step(1));
  for (const [i, v] of [-0.158808, 0, 1.9545977].entries()) expect(out![i]).toBeCloseTo(v, 5);
});

test('attention with a window sees its last positions only', () => {
  const random = randomUniform(33);
  const [q, k, v] = [floats(random, 5, 4), floats(random, 5, 4), floats(random, 5, 4)];
  const attrs = { layer: 0, heads: 1, kvHeads: 1, headDim: 4 };
  const [out] = run('attention', [q, k, v], { ...attrs, window: 2 }, step(5));
  for (let t = 1; t < 5; t++) {
    const rows = (x: Tensor, from: number) => ({
      shape: [t + 1 - from, 4],
      data: x.data.slice(from * 4, (t + 1) * 4) as Float64Array,
    });
    const two = [q, k, v].map((x) => rows(x, t - 1));
    const [expected] = run('attention', two, attrs, step(2));
    expectClose(out!.slice(t * 4, (t + 1) * 4), Array.from(expected!.slice(4)));
  }
});

test('columns puts rows side by side', () => {
  const random = randomUniform(34);
  const [a, b, c] = [floats(random, 2, 3), floats(random, 2, 1), floats(random, 2, 2)];
  const rows = [a, b, c].map(rowsOf);
  const expected = [0, 1].flatMap((t) => rows.flatMap((part) => part[t]!));
  expectClose(run('columns', [a, b, c], {}, step(2))[0], expected);
});
