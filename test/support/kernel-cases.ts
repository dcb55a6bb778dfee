/** Integer kernels on random shapes, the same for every target. */
import { randomUniform } from '../../src/common/random.ts';
import { packI2 } from '../../src/encodings/ternary-i2.ts';
import { packT5b } from '../../src/encodings/ternary-t5b.ts';
import { rowStride } from '../../src/kernels/kernel.ts';
import { lowbitMatmul } from '../../src/kernels/lowbit-matmul.ts';
import { quantize } from '../../src/kernels/quantize.ts';
import { bytesOf, randomFloats, randomInts } from '../../src/kernels/testing.ts';
import { runFunction } from '../../src/loops/interpret.ts';
import type { LoopFunction } from '../../src/loops/ir.ts';
import type { Machine } from '../../src/loops/machine.ts';
import { C_MACHINES } from '../../src/targets/c/machines.ts';

/** One kernel on one input: what `callKernel` and the interpreter take. */
export interface KernelTestCase {
  readonly name: string;
  readonly build: (machine: Machine) => LoopFunction;
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
}

function matmulCase(i: number): KernelTestCase {
  const random = randomUniform(100 + i);
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const [m, k] = [between(1, 150), between(1, 400)];
  const n = i % 2 === 0 ? 1 : between(2, 19);
  const residual = random() < 0.5;
  const encoding = i % 8 < 4 ? 'i2' : 't5b';
  const shape = { m, k, residual, batch: n === 1 ? 'one' : 'many', encoding } as const;
  const trits = Int8Array.from(randomInts(i + 1, m * k, -1, 1));
  const q = new Int8Array(n * rowStride(k));
  for (let r = 0; r < n; r++) q.set(randomInts(i * 31 + r, k, -128, 127), r * rowStride(k));
  const sum = Int32Array.from({ length: n }, (_, r) =>
    q.subarray(r * rowStride(k), (r + 1) * rowStride(k)).reduce((a, b) => a + b, 0),
  );
  const out = new Float32Array(n * rowStride(m));
  const pack = encoding === 'i2' ? packI2 : packT5b;
  const weight = pack({ kind: 'ternary', rows: m, cols: k, blocks: [{ form: 'trits', rows: m, trits }] });
  const inputs = [
    bytesOf(q),
    bytesOf(randomFloats(i, n)),
    bytesOf(sum),
    weight,
    bytesOf(randomFloats(i, rowStride(m))),
  ];
  const name = `matmul_${i}`;
  return {
    name,
    build: (machine) => lowbitMatmul.build(name, shape, lowbitMatmul.defaultSchedule(shape, machine)),
    buffers: [...inputs, ...(residual ? [bytesOf(randomFloats(i + 7, out.length))] : []), bytesOf(out)],
    scalars: [n],
  };
}

function quantizeCase(i: number): KernelTestCase {
  const random = randomUniform(500 + i);
  const k = 1 + Math.floor(random() * 400);
  const n = 1 + Math.floor(random() * 5);
  const stride = rowStride(k);
  const name = `quantize_${i}`;
  return {
    name,
    build: (machine) => quantize.build(name, { k }, quantize.defaultSchedule({ k }, machine)),
    buffers: [
      bytesOf(randomFloats(i, n * stride)),
      new Uint8Array(n * stride),
      new Uint8Array(4 * n),
      new Uint8Array(4 * n),
    ],
    scalars: [n],
  };
}

export const KERNEL_CASES: readonly KernelTestCase[] = Array.from({ length: 24 }, (_, i) =>
  i % 4 === 3 ? quantizeCase(i) : matmulCase(i),
);

/** Whether a kernel left in its buffers what the interpreter computes of it, as it is scheduled for plain C. */
export function isRight({ build, buffers, scalars }: KernelTestCase, got: readonly Uint8Array[]): boolean {
  const expected = buffers.map((b) => b.slice());
  runFunction(build(C_MACHINES.at(-1)!), { buffers: expected, scalars });
  return expected.every((bytes, i) => Buffer.compare(bytes, got[i]!) === 0);
}
