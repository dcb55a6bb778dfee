/** What tests of kernels share: machines, data, and running a kernel in the interpreter in several ways. */
import { expect } from 'vitest';
import { narrowFloats } from '../common/halves.ts';
import { randomUniform } from '../common/random.ts';
import { runFunction, threadIterations } from '../loops/interpret.ts';
import type { LoopFunction } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { Machine, NativeOp } from '../loops/machine.ts';
import { threadRange } from '../loops/thread.ts';
import { verifyFunction } from '../loops/verify.ts';
import { type Kernel, rowStride } from './kernel.ts';

function machine(
  name: string,
  vectorBytes: Machine['vectorBytes'],
  native: readonly NativeOp[],
  dotCodeMax: Machine['dotCodeMax'] = 255,
): Machine {
  return {
    name,
    vectorBytes,
    vectorRegisters: vectorBytes === 64 ? 32 : 16,
    native: new Set(native),
    dotCodeMax,
    l1Bytes: 32 << 10,
    l2Bytes: 512 << 10,
  };
}

/** One of each kind of machine that schedules tell apart. */
export const MACHINES: readonly Machine[] = [
  machine('wide', 64, ['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16']),
  machine('wide with tables', 64, ['dot2', 'madd', 'dot4', 'lookup16', 'lookup128', 'averageRound', 'f16']),
  machine('dot4', 32, ['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16']),
  machine('dot2', 32, ['dot2', 'madd', 'lookup16', 'averageRound', 'f16']),
  machine('narrow', 16, ['dot2', 'madd', 'dot4', 'lookup16', 'averageRound'], 127),
  machine('narrow without dots', 16, ['madd', 'lookup16', 'averageRound']),
  machine('scalar', 4, []),
];

export type Elements = Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Float32Array;

export const bytesOf = (elements: Elements) =>
  new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);

/** Uniform in -1 .. 1, as f32; never 0. */
export function randomFloats(seed: number, length: number): Float32Array {
  const random = randomUniform(seed);
  return Float32Array.from({ length }, () => random() * 2 - 1 || 1);
}

export function randomInts(seed: number, length: number, min: number, max: number): number[] {
  const random = randomUniform(seed);
  return Array.from({ length }, () => min + Math.floor(random() * (max - min + 1)));
}

/** Values that f16 holds; never 0. */
export function randomHalves(seed: number, length: number): Float32Array {
  return randomFloats(seed, length).map((x) => Math.round(x * 256) / 256 || 0.5);
}

/** Quantized rows of `k` columns as kernels read them: one plane, or of int16 the high one and the low one. */
export function activationPlanes(q: readonly number[], k: number, to: 'int8' | 'int16' | 'sums'): Int8Array {
  const stride = rowStride(k);
  const count = to === 'int16' ? 2 : 1;
  const rows = new Int8Array((q.length / k) * count * stride);
  for (const [i, value] of q.entries()) {
    const at = Math.floor(i / k) * count * stride + (i % k);
    const high = Math.floor((value + 64) / 128);
    rows[at] = to === 'int16' ? high : value;
    if (to === 'int16') rows[at + stride] = value - 128 * high;
  }
  return rows;
}

/** Activation rows: `values` is [n, width]; the padding is `fill`, NaN unless said otherwise. */
export function padRows(values: Float32Array, width: number, fill = Number.NaN): Float32Array {
  const n = values.length / width;
  const rows = new Float32Array(n * rowStride(width)).fill(fill);
  for (let r = 0; r < n; r++) rows.set(values.subarray(r * width, (r + 1) * width), r * rowStride(width));
  return rows;
}

/** The unpadded part of rows. */
export function cropRows<T extends Elements>(rows: T, width: number): number[] {
  const cropped: number[] = [];
  for (let at = 0; at < rows.length; at += rowStride(width)) {
    for (let i = 0; i < width; i++) cropped.push(rows[at + i]!);
  }
  return cropped;
}

/** f32 values in the memory of a float kind. */
export function storeFloats(values: Float32Array, elem: 'f32' | 'f16' | 'bf16'): Elements {
  return elem === 'f32' ? values : narrowFloats(values, elem);
}

/** Runs `fn` on copies of the buffers, its thread loop in `threads` parts, and returns the copies. */
export function runCopies(
  fn: LoopFunction,
  buffers: readonly Elements[],
  scalars: readonly number[],
  threads = 1,
): readonly Elements[] {
  const copies = buffers.map((buffer) => buffer.slice());
  const total = threadIterations(fn, scalars);
  // Backwards: iterations must not depend on each other.
  for (let thread = threads - 1; thread >= 0; thread--) {
    runFunction(fn, { buffers: copies.map(bytesOf), scalars, range: threadRange(total, thread, threads) });
  }
  return copies;
}

/** Every different schedule of the kernel on the machines above. */
export function allSchedules<Shape, Schedule>(
  kernel: Kernel<Shape, Schedule>,
  shape: Shape,
): readonly Schedule[] {
  const distinct = new Map<string, Schedule>();
  for (const m of MACHINES) {
    for (const s of kernel.schedules(shape, m)) distinct.set(JSON.stringify(s), s);
  }
  return [...distinct.values()];
}

/**
 * Runs the kernel in its default schedule of every machine, legalized for it and in parts, and once as it is:
 * all must agree bit for bit. Returns the buffers.
 */
export function runEverywhere<Shape, Schedule>(
  kernel: Kernel<Shape, Schedule>,
  shape: Shape,
  buffers: readonly Elements[],
  scalars: readonly number[],
): readonly Elements[] {
  const expected = runDefault(kernel, shape, buffers, scalars);
  for (const m of MACHINES) {
    const fn = kernel.build('kernel', shape, kernel.defaultSchedule(shape, m));
    verifyFunction(fn);
    expectSameBits(runCopies(legalize(fn, m), buffers, scalars, 3), expected);
  }
  return expected;
}

/** Runs the kernel in the default schedule of one machine. Returns the buffers. */
export function runDefault<Shape, Schedule>(
  kernel: Kernel<Shape, Schedule>,
  shape: Shape,
  buffers: readonly Elements[],
  scalars: readonly number[],
): readonly Elements[] {
  const schedule = kernel.defaultSchedule(shape, MACHINES[2]!);
  return runCopies(kernel.build('kernel', shape, schedule), buffers, scalars);
}

/** Runs the kernel in every schedule there is: all must agree bit for bit. Returns the buffers. */
export function runSchedules<Shape, Schedule>(
  kernel: Kernel<Shape, Schedule>,
  shape: Shape,
  buffers: readonly Elements[],
  scalars: readonly number[],
): readonly Elements[] {
  const results = allSchedules(kernel, shape).map((s) =>
    runCopies(kernel.build('kernel', shape, s), buffers, scalars),
  );
  for (const result of results) expectSameBits(result, results[0]!);
  return results[0]!;
}

function expectSameBits(found: readonly Elements[], expected: readonly Elements[]): void {
  expected.forEach((elements, i) => {
    if (!Buffer.from(bytesOf(found[i]!)).equals(bytesOf(elements))) expect(found[i]).toEqual(elements);
  });
}
