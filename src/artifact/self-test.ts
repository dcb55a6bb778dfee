/**
 * A wrong kernel never speaks. At compile time every kernel of a model is run by the interpreter on random
 * inputs made from a seed, and a digest of the result is stored; wherever the artifact is loaded, the
 * compiled kernels must give the same bytes. A digest of whole forward steps on the real weights follows:
 * it covers what kernels alone do not (main, threads, the weights file).
 */
import { z } from 'zod';
import { LutraError } from '../common/errors.ts';
import { randomUniform } from '../common/random.ts';
import { runFunction } from '../loops/interpret.ts';
import type { LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';
import { scheduleOwnKernels } from '../plan/lower.ts';
import type { Plan, TunedSchedule } from '../plan/types.ts';
import type { Executable, StepRequest } from '../targets/executable.ts';
import {
  type Fill,
  furtherExtent,
  type KernelCase,
  kernelCase,
  kernelCaseSchema,
  VOCABULARY,
} from './kernel-case.ts';

const kernelTestSchema = kernelCaseSchema.extend({
  digest: z.string(),
  /** The kernel's name, where the test has another: the second one of a kernel. */
  kernel: z.string().optional(),
});

export const selfTestSchema = z.object({
  /** By kernel name, a second test of one by a name of its own; a user-registered kernel without a case is covered by the steps only. */
  kernels: z.record(z.string(), kernelTestSchema),
  /** Tokens of two forward steps, and the digest of all their logits. */
  steps: z.object({ tokens: z.array(z.array(z.int())), digest: z.string() }),
});

export type SelfTest = z.infer<typeof selfTestSchema>;
export type KernelTests = SelfTest['kernels'];

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

const FILL_BYTES: Readonly<Record<Fill, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  i32: 4,
  i16: 2,
  ids: 4,
  halves: 4,
  i8: 1,
  trits: 1,
  trits5: 1,
  entries: 1,
};

/** Random elements: no zeros, no infinities. */
function fillBuffer(fill: Fill, elements: number, next: () => number): Uint8Array {
  const bytes = new Uint8Array(elements * FILL_BYTES[fill]);
  const between = (low: number, high: number) => low + Math.floor(next() * (high - low + 1));
  const each = (array: { [index: number]: number }, value: () => number) => {
    for (let i = 0; i < elements; i++) array[i] = value();
  };
  const words = new Uint16Array(bytes.buffer, 0, bytes.length >> 1);
  switch (fill) {
    case 'f32':
      each(new Float32Array(bytes.buffer), () => (next() - 0.5) * 4);
      break;
    case 'i32':
      each(new Int32Array(bytes.buffer), () => between(-999, 999));
      break;
    case 'ids':
      each(new Int32Array(bytes.buffer), () => between(0, VOCABULARY - 1));
      break;
    case 'halves': {
      let count = 0;
      each(new Int32Array(bytes.buffer), () => count++ >> 1);
      break;
    }
    case 'trits':
      each(bytes, () => between(0, 2) | (between(0, 2) << 2) | (between(0, 2) << 4) | (between(0, 2) << 6));
      break;
    case 'trits5':
      each(bytes, () => between(0, 3 ** 5 - 1));
      break;
    case 'entries':
      each(bytes, () => between(0, 31));
      break;
    case 'i16': // no more than rounded activations have
      each(new Int16Array(bytes.buffer), () => between(-16383, 16383));
      break;
    case 'i8':
      each(bytes, () => between(-127, 127));
      break;
    case 'bf16': // sign, exponents around 1, 7 bits of mantissa
      each(words, () => (between(0, 1) << 15) | (between(120, 128) << 7) | between(0, 127));
      break;
    case 'f16':
      each(words, () => (between(0, 1) << 15) | (between(8, 16) << 10) | between(0, 1023));
      break;
  }
  return bytes;
}

/** Random inputs, the same for the same case, and room for results. */
export function makeBuffers({ seed, buffers }: Pick<KernelCase, 'seed' | 'buffers'>): readonly Uint8Array[] {
  const next = randomUniform(seed);
  return buffers.map(({ fill, elements }) => fillBuffer(fill, elements, next));
}

/** Digest of the compared parts of what a kernel wrote. */
export function resultDigest(test: Pick<KernelCase, 'buffers'>, buffers: readonly Uint8Array[]): string {
  const parts: Uint8Array[] = [];
  test.buffers.forEach(({ compare }, i) => {
    if (compare === undefined) return;
    const bytes = buffers[i]!;
    for (let at = 0; at < bytes.length; at += compare.stride) {
      parts.push(bytes.subarray(at, at + compare.bytes));
    }
  });
  return digest(parts);
}

/**
 * The tests of all kernels of a plan for these machines, with what the interpreter computes. It runs them as
 * the last machine schedules them: the schedule must not matter.
 */
export function expectKernels(
  plan: Pick<Plan, 'kernels'>,
  machines: readonly Machine[],
  seed: number,
  tuned: readonly TunedSchedule[] = [],
): KernelTests {
  return Object.fromEntries(expectations(plan, machines, seed, tuned));
}

/** The same, one kernel after the other. */
export function* expectations(
  plan: Pick<Plan, 'kernels'>,
  machines: readonly Machine[],
  seed: number,
  tuned: readonly TunedSchedule[] = [],
): Generator<readonly [kernel: string, test: KernelTests[string]]> {
  const byMachine = machines.map(
    (machine) =>
      [machine.name, new Map(scheduleOwnKernels(plan, machine, tuned).map((fn) => [fn.name, fn]))] as const,
  );
  for (const [i, use] of plan.kernels.entries()) {
    const scheduled = new Map<string, LoopFunction>();
    for (const [machine, functions] of byMachine) {
      const fn = functions.get(use.name);
      if (fn !== undefined) scheduled.set(machine, fn);
    }
    const test = kernelCase(use, scheduled, seed + i);
    if (test === undefined) continue;
    yield [use.name, expected(test, scheduled)];
    const extent = furtherExtent(use);
    const further = extent && kernelCase(use, scheduled, seed + i, extent);
    if (further) yield [`${use.name} (2)`, { ...expected(further, scheduled), kernel: use.name }];
  }
}

/** With what the interpreter computes. */
function expected(test: KernelCase, scheduled: ReadonlyMap<string, LoopFunction>): KernelTests[string] {
  const buffers = makeBuffers(test);
  const [machine, fn] = [...scheduled].at(-1)!;
  runFunction(fn, { buffers, scalars: test.scalars, range: { begin: 0, end: test.iterations[machine]! } });
  return { ...test, digest: resultDigest(test, buffers) };
}

/** Runs every kernel on the executable; the names of those that gave other bytes than the interpreter. */
export async function findWrongKernels(
  executable: Executable,
  tests: KernelTests,
  signal?: AbortSignal,
): Promise<readonly string[]> {
  const wrong = new Set<string>();
  for (const [name, test] of Object.entries(tests)) {
    const { kernel = name } = test;
    if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
    const end = test.iterations[executable.target];
    if (end === undefined) {
      throw new LutraError('invalid', `the self-test does not cover ${kernel} on ${executable.target}`, {
        hint: 'The artifact is damaged: compile the model again.',
      });
    }
    const buffers = makeBuffers(test);
    await executable.callKernel({ kernel, buffers, scalars: test.scalars, begin: 0, end });
    if (resultDigest(test, buffers) !== test.digest) wrong.add(kernel);
  }
  return [...wrong];
}

/** Tokens for two steps: several at once, then one, so that prefill and decode both run. */
export function stepTokens(vocab: number, context: number): number[][] {
  const next = randomUniform(vocab);
  const pick = (count: number) => Array.from({ length: count }, () => Math.floor(next() * vocab));
  return context === 1 ? [pick(1)] : [pick(Math.min(5, context - 1)), pick(1)];
}

/** Rows whose logits a test selects. */
const SELECTED = 64;

/** Whether the bounds of a step's logits hold, and selected ones have the bits of `logits`. */
async function selectsTheSame(
  executable: Executable,
  request: StepRequest,
  logits: Float32Array,
): Promise<boolean> {
  const vocab = logits.length / request.tokens.length;
  let held = true;
  const [rows] = await executable.stepSelected([
    {
      ...request,
      select(low, high, output) {
        const own = logits.subarray(output * vocab, (output + 1) * vocab);
        held &&= own.every((value, id) => low[id]! <= value && value <= high[id]!);
        const every = Math.ceil(vocab / SELECTED);
        return Int32Array.from({ length: Math.floor(vocab / every) }, (_, i) => i * every);
      },
    },
  ]);
  return rows!.every((found, output) => {
    const own = logits.subarray(output * vocab, (output + 1) * vocab);
    if (found instanceof Float32Array) return found.every((value, id) => Object.is(value, own[id]));
    return held && found.values.every((value, i) => Object.is(value, own[found.ids[i]!]));
  });
}

/**
 * Digest of the logits of these steps, in a fresh KV cache. Throws `cancelled` between steps, `internal` when
 * logits that a step selects by bounds are not the same.
 */
export async function runSteps(
  executable: Executable,
  steps: readonly (readonly number[])[],
  signal?: AbortSignal,
): Promise<string> {
  const cache = executable.createCache();
  try {
    const parts: Uint8Array[] = [];
    let last: { readonly request: StepRequest; readonly logits: Float32Array } | undefined;
    let position = 0;
    for (const tokens of steps) {
      if (signal?.aborted) throw new LutraError('cancelled', 'cancelled');
      const request = { tokens: Int32Array.from(tokens), position, cache, logits: 'all' } as const;
      for (const logits of await executable.step([request])) {
        last = { request, logits };
        parts.push(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
      }
      position += tokens.length;
    }
    if (last !== undefined && !(await selectsTheSame(executable, last.request, last.logits))) {
      throw new LutraError(
        'internal',
        `${executable.target}: wrong bounds of logits, or wrong selected ones`,
      );
    }
    return digest(parts);
  } finally {
    cache.free();
  }
}
