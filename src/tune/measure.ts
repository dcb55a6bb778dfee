/** Tests and times one schedule of a kernel against another, in this process. */
import { type KernelCase, kernelCase } from '../artifact/kernel-case.ts';
import { makeBuffers, resultDigest } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import { median } from '../common/math.ts';
import { kernelFor } from '../kernels/registry.ts';
import type { LoopFunction } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { MeasureJob, MeasureResult } from './job.ts';
import { type CompiledKernels, compileKernels, machineNamed } from './kernels.ts';

/** Matrices and caches of a model come from memory: copies of them take turns, of as many bytes as this. */
const COLD_BYTES = 96 << 20;
/** Inputs smaller than this are activations, which lie in cache. */
const LARGE_BYTES = 1 << 20;
const MOST_COPIES = 64;

function caseOf(job: MeasureJob, fn: LoopFunction, whole: boolean): KernelCase {
  const { op, family, shape, machine, n, position, test } = job;
  const use = { name: fn.name, op, family, shape };
  const scheduled = new Map([[machine, fn]]);
  const extent = { n, position, matrixRows: Infinity, comparedRows: Infinity };
  const found = kernelCase(use, scheduled, test.seed, ...(whole ? [extent] : []));
  if (found !== undefined) return found;
  throw new LutraError('unsupported', `no inputs are known for the operator ${op}`);
}

async function isRight(job: MeasureJob, kernels: CompiledKernels, fn: LoopFunction): Promise<boolean> {
  const test = caseOf(job, fn, false);
  const inputs = makeBuffers(test);
  const buffers = kernels.allocate(inputs.map(({ length }) => length));
  for (const [i, bytes] of inputs.entries()) buffers[i]!.set(bytes);
  await kernels.run(fn.name, buffers, test.scalars, test.iterations[job.machine]!);
  return resultDigest(test, buffers) === job.test.digest;
}

/** The buffers of one call after the other: where inputs are large, as many copies as do not fit a cache. */
function callBuffers(test: KernelCase, kernels: CompiledKernels): readonly (readonly Uint8Array[])[] {
  const inputs = makeBuffers(test);
  const large = inputs.map(
    ({ length }, i) => test.buffers[i]!.compare === undefined && length >= LARGE_BYTES,
  );
  const bytes = inputs.reduce((sum, { length }, i) => sum + (large[i] ? length : 0), 0);
  const copies = bytes === 0 ? 1 : Math.min(MOST_COPIES, Math.ceil(COLD_BYTES / bytes));
  const sizes = inputs.flatMap(({ length }, i) => Array<number>(large[i] ? copies : 1).fill(length));
  const memory = kernels.allocate(sizes).values();
  const perInput = inputs.map((input, i) =>
    Array.from({ length: large[i] ? copies : 1 }, () => {
      const own = memory.next().value!;
      own.set(input);
      return own;
    }),
  );
  return Array.from({ length: copies }, (_, c) => perInput.map((own) => own[c % own.length]!));
}

/** Seconds the processor spent in this process. */
function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

async function time(job: MeasureJob, kernels: CompiledKernels, functions: readonly LoopFunction[]) {
  const cases = functions.map((fn) => caseOf(job, fn, true));
  const calls = callBuffers(cases[0]!, kernels);
  let next = 0;
  const secondsOfCall = async (i: number): Promise<number> => {
    const { scalars, iterations } = cases[i]!;
    const from = cpuSeconds();
    for (let count = 1; ; count++) {
      const buffers = calls[next++ % calls.length]!;
      await kernels.run(functions[i]!.name, buffers, scalars, iterations[job.machine]!);
      const spent = cpuSeconds() - from;
      if (count > 1 && spent >= job.turnSeconds) return spent / count;
    }
  };
  for (const i of functions.keys()) await secondsOfCall(i);
  const turns: (readonly [number, number])[] = [];
  for (let turn = 0; turn < job.turns; turn++) {
    const own = await secondsOfCall(0);
    turns.push([own, await secondsOfCall(1)]);
  }
  return turns;
}

/**
 * Compiles the two schedules of a job, compares what the first computes with what it must, and only then times
 * them in turns. Failures to build or to run are an outcome, not an error.
 */
export async function measure(job: MeasureJob): Promise<MeasureResult> {
  let kernels: CompiledKernels | undefined;
  try {
    const machine = machineNamed(job.machine);
    const kernel = kernelFor(job.op, job.family);
    const functions = [job.schedule, job.against].map((schedule, i) =>
      legalize(kernel.build(i === 0 ? 'candidate' : 'incumbent', job.shape, schedule), machine),
    );
    kernels = await compileKernels(job.machine, functions);
    if (!(await isRight(job, kernels, functions[0]!))) {
      return { outcome: 'wrong', reason: 'its results are not those of the interpreter' };
    }
    const turns = await time(job, kernels, functions);
    return {
      outcome: 'ok',
      seconds: median(turns.map(([own]) => own)),
      againstSeconds: median(turns.map(([, against]) => against)),
      ratio: median(turns.map(([own, against]) => own / against)),
    };
  } catch (error) {
    return { outcome: 'failed', reason: error instanceof Error ? error.message : String(error) };
  } finally {
    await kernels?.close();
  }
}
