/**
 * A wrong kernel never speaks. At compile time every kernel of a model is run by the interpreter on random
 * inputs made from a seed, and a digest of the result is stored; wherever the artifact is loaded, the
 * compiled kernels must give the same bytes. A digest of whole forward steps on the real weights follows:
 * it covers what kernels alone do not (main, threads, the weights file).
 */
import { z } from 'zod';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { randomUniform } from '../common/random.ts';
import { ROW_PAD } from '../kernels/kernel.ts';
import { runFunction, threadIterations } from '../loops/interpret.ts';
import { type BufferParam, kindBytes, type LoopFunction } from '../loops/ir.ts';
import type { KernelUse, Plan } from '../plan/types.ts';
import type { Executable } from '../targets/executable.ts';

/** Rows of a matrix that a matmul's test compares. */
const TEST_ROWS = 64;
/** Rows of a matrix that exist in a test: a machine's range may reach beyond TEST_ROWS by its grain. */
const MATRIX_ROWS = 512;

export const selfTestSchema = z.object({
  seed: z.int(),
  /** By kernel name; a user-registered kernel without a case is covered by the steps only. */
  kernels: z.record(z.string(), z.string()),
  /** Tokens of two forward steps, and the digest of all their logits. */
  steps: z.object({ tokens: z.array(z.array(z.int())), digest: z.string() }),
});

export type SelfTest = z.infer<typeof selfTestSchema>;

/** FNV-1a over bytes, twice with different primes: 64 bits, portable, quick enough for megabytes. */
function digest(parts: readonly Uint8Array[]): string {
  let a = 0x811c9dc5;
  let b = 0x2f0b4c47;
  for (const bytes of parts) {
    for (const byte of bytes) {
      a = Math.imul(a ^ byte, 0x01000193);
      b = Math.imul(b ^ byte, 0x01000197);
    }
  }
  return [a, b].map((x) => (x >>> 0).toString(16).padStart(8, '0')).join('');
}

/** What one kernel runs on, and which of its results every machine computes. */
interface Case {
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
  readonly begin: number;
  readonly end: number;
}

const TEST_POSITION = 17;
const VOCABULARY = 8;
const pad = (k: number) => alignUp(k, ROW_PAD);

function isMatmul(use: KernelUse): boolean {
  return use.op === 'lowbit.matmul' || use.op === 'matmul';
}

/** The scalar arguments, by parameter name. */
function scalarsOf(use: KernelUse): Readonly<Record<string, number>> {
  const n = use.shape.batch === 'one' ? 1 : isMatmul(use) ? 5 : 3;
  return { n, pos: TEST_POSITION, first: 1 };
}

/** Elements of each buffer by parameter name. Of a matrix only the first MATRIX_ROWS rows exist. */
function sizesOf(use: KernelUse): Readonly<Record<string, number>> | undefined {
  const { n } = scalarsOf(use) as { n: number };
  const number = (name: string) => Number(use.shape[name]);
  const rows = (width: number) => n * pad(width);
  const k = number('k');
  switch (use.op) {
    case 'embedding':
      return { tokens: n, table: VOCABULARY * pad(number('hidden')), out: rows(number('hidden')) };
    case 'rmsNorm':
      return { x: rows(k), weight: pad(k), out: rows(k) };
    case 'rmsNorm.quantize':
    case 'quantize':
      return { x: rows(k), weight: pad(k), q: rows(k), scale: n, sum: n };
    case 'lowbit.matmul': {
      const m = number('m');
      const matrix = Math.min(pad(m), MATRIX_ROWS) * pad(k);
      return {
        q: rows(k),
        scale: n,
        sum: n,
        weight: matrix / 4,
        weightScale: pad(m),
        residual: rows(m),
        out: rows(m),
      };
    }
    case 'matmul': {
      const m = number('m');
      return { x: rows(k), table: Math.min(m, MATRIX_ROWS) * pad(k), rowScale: pad(m), out: rows(m) };
    }
    case 'rope.store':
    case 'attention': {
      const [heads, kvHeads, headDim] = [number('heads'), number('kvHeads'), number('headDim')];
      const positions = alignUp(number('context'), 16);
      return {
        qkv: rows((heads + 2 * kvHeads) * headDim),
        table: (TEST_POSITION + n) * headDim,
        qOut: rows(heads * headDim),
        q: rows(heads * headDim),
        out: rows(heads * headDim),
        keys: kvHeads * positions * headDim,
        values: kvHeads * positions * alignUp(headDim, 16),
      };
    }
    case 'gate.packed':
      return { gateUp: rows(2 * k), out: rows(k) };
    case 'add':
      return { a: rows(k), b: rows(k), out: rows(k) };
    case 'selectOutputs':
      return { x: rows(k) + pad(k), out: rows(k) };
    default:
      return undefined;
  }
}

/** Random elements of a kind: no zeros, no infinities, ternary codes where bytes are packed weights. */
function fill(param: BufferParam, elements: number, next: () => number): Uint8Array {
  const bytes = new Uint8Array(elements * kindBytes(param.elem));
  const between = (low: number, high: number) => low + Math.floor(next() * (high - low + 1));
  const words = new Uint16Array(bytes.buffer, 0, bytes.length >> 1);
  switch (param.elem) {
    case 'f32': {
      const floats = new Float32Array(bytes.buffer);
      for (let i = 0; i < elements; i++) floats[i] = (next() - 0.5) * 4;
      break;
    }
    case 'i32': {
      const ints = new Int32Array(bytes.buffer);
      for (let i = 0; i < elements; i++)
        ints[i] = param.name === 'tokens' ? between(0, VOCABULARY - 1) : between(-999, 999);
      break;
    }
    case 'u8':
      for (let i = 0; i < elements; i++)
        bytes[i] = between(0, 2) | (between(0, 2) << 2) | (between(0, 2) << 4) | (between(0, 2) << 6);
      break;
    case 'i8':
      for (let i = 0; i < elements; i++) bytes[i] = between(-127, 127);
      break;
    case 'bf16': // sign, exponents around 1, 7 bits of mantissa
      for (let i = 0; i < elements; i++)
        words[i] = (between(0, 1) << 15) | (between(120, 128) << 7) | between(0, 127);
      break;
    case 'f16':
      for (let i = 0; i < elements; i++)
        words[i] = (between(0, 1) << 15) | (between(8, 16) << 10) | between(0, 1023);
      break;
    default:
      throw new LutraError('internal', `self-test: no inputs of ${param.elem}`);
  }
  return bytes;
}

/** The inputs of a kernel's test, the same on every machine; undefined for a kernel this file knows nothing of. */
function makeCase(use: KernelUse, fn: LoopFunction, seed: number): Case | undefined {
  const sizes = sizesOf(use);
  if (sizes === undefined) return undefined;
  const next = randomUniform(seed);
  const buffers = fn.buffers.map((param) => {
    const elements = sizes[param.name];
    if (elements === undefined)
      throw new LutraError('internal', `self-test: ${use.name} has no size for ${param.name}`);
    return fill(param, elements, next);
  });
  const named = scalarsOf(use);
  const scalars = fn.scalars.map(({ name }) => named[name]!);
  const iterations = threadIterations(fn, scalars);
  // Every machine cuts the rows of a matrix in its own grain: run as many iterations as cover TEST_ROWS.
  const m = Number(use.shape.m);
  const end = isMatmul(use) ? Math.min(iterations, Math.ceil((iterations * TEST_ROWS) / m)) : iterations;
  return { buffers, scalars, begin: 0, end };
}

/** The results all machines have computed: everything written, or the first TEST_ROWS rows of a matmul. */
function resultDigest(use: KernelUse, fn: LoopFunction, buffers: readonly Uint8Array[]): string {
  const parts: Uint8Array[] = [];
  fn.buffers.forEach((param, i) => {
    if (param.access === 'read') return;
    const bytes = buffers[i]!;
    if (!isMatmul(use)) {
      parts.push(bytes);
      return;
    }
    const m = Number(use.shape.m);
    const row = pad(m) * 4;
    for (let at = 0; at < bytes.length; at += row)
      parts.push(bytes.subarray(at, at + Math.min(m, TEST_ROWS) * 4));
  });
  return digest(parts);
}

/** Expected digests of all kernels, by the interpreter. */
export function expectKernels(
  plan: Plan,
  functions: readonly LoopFunction[],
  seed: number,
): Record<string, string> {
  const expected: Record<string, string> = {};
  plan.kernels.forEach((use, i) => {
    const fn = functions.find((f) => f.name === use.name);
    const test = fn && makeCase(use, fn, seed + i);
    if (fn === undefined || test === undefined) return;
    runFunction(fn, {
      buffers: test.buffers,
      scalars: test.scalars,
      range: { begin: test.begin, end: test.end },
    });
    expected[use.name] = resultDigest(use, fn, test.buffers);
  });
  return expected;
}

/** Runs every kernel on the executable; the names of those that gave other bytes than the interpreter. */
export async function findWrongKernels(
  executable: Executable,
  plan: Plan,
  functions: readonly LoopFunction[],
  test: Pick<SelfTest, 'seed' | 'kernels'>,
): Promise<readonly string[]> {
  const wrong: string[] = [];
  for (const [i, use] of plan.kernels.entries()) {
    const fn = functions.find((f) => f.name === use.name);
    const expected = test.kernels[use.name];
    const input = fn && makeCase(use, fn, test.seed + i);
    if (fn === undefined || expected === undefined || input === undefined) continue;
    await executable.callKernel({ kernel: use.name, ...input });
    if (resultDigest(use, fn, input.buffers) !== expected) wrong.push(use.name);
  }
  return wrong;
}

/** Tokens for two steps: several at once, then one, so that prefill and decode both run. */
export function stepTokens(vocab: number, context: number): number[][] {
  const next = randomUniform(vocab);
  const pick = (count: number) => Array.from({ length: count }, () => Math.floor(next() * vocab));
  return [pick(Math.min(5, context - 1)), pick(1)];
}

/** Digest of the logits of these steps, in a fresh KV cache. Throws `cancelled` between steps. */
export async function runSteps(
  executable: Executable,
  steps: readonly (readonly number[])[],
  signal?: AbortSignal,
): Promise<string> {
  const cache = executable.createCache();
  try {
    const parts: Uint8Array[] = [];
    let position = 0;
    for (const tokens of steps) {
      if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
      const logits = await executable.step({
        tokens: Int32Array.from(tokens),
        position,
        cache,
        logits: 'all',
      });
      parts.push(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
      position += tokens.length;
    }
    return digest(parts);
  } finally {
    cache.free();
  }
}
