/** Tests and times one way to compute a kernel against another, in this process. */
import { type KernelCase, kernelCase } from '../artifact/kernel-case.ts';
import { makeBuffers, resultDigest } from '../artifact/self-test.ts';
import { LutraError } from '../common/errors.ts';
import { median } from '../common/math.ts';
import { buildScheduled } from '../kernels/grain.ts';
import type { LoopFunction } from '../loops/ir.ts';
import { legalize } from '../loops/legalize.ts';
import type { Machine } from '../loops/machine.ts';
import type { Contender, KernelJob, MeasureJob, MeasureResult } from './job.ts';
import { type CompiledKernels, compileKernels, machineNamed, startTeam } from './kernels.ts';
import type { TeamKernel } from './team.ts';

/** Matrices and caches of a model come from memory: copies of them take turns, of as many bytes as this. */
const COLD_BYTES = 96 << 20;
/** Inputs smaller than this are activations, which lie in cache. */
const LARGE_BYTES = 1 << 20;
const MOST_COPIES = 64;
/** Random elements of a buffer to be timed; larger ones repeat them. */
const RANDOM_ELEMENTS = 1 << 18;
/** Of larger matrices, which are output heads, so many weights are timed: a row takes the time of any other. */
const MOST_WEIGHTS = 1 << 26;

/** A kernel that is measured. */
interface Built {
  readonly use: KernelJob;
  readonly fn: LoopFunction;
}

function buildKernel(name: string, use: KernelJob, machine: Machine): Built {
  return { use, fn: legalize(buildScheduled(use, name, use.schedule), machine) };
}

/** What a contender runs, in order. */
function buildContender(name: string, { before, ...use }: Contender, machine: Machine): readonly Built[] {
  const first = before === undefined ? [] : [buildKernel(`${name}_before`, before, machine)];
  return [...first, buildKernel(name, use, machine)];
}

/** The rows of a matrix that are timed, and how many there are in all for each of them. */
function timedRows({ op, shape }: KernelJob): { readonly comparedRows: number; readonly ofAll: number } {
  const [m, k] = [Number(shape.m), Number(shape.k)];
  const comparedRows = Math.floor(MOST_WEIGHTS / k);
  return op === 'matmul' && m > comparedRows
    ? { comparedRows, ofAll: m / comparedRows }
    : { comparedRows: Infinity, ofAll: 1 };
}

/** Of a call with `n` tokens; without these, of the self-test. */
function caseOf({ machine, position, test }: MeasureJob, { use, fn }: Built, n?: number): KernelCase {
  const scheduled = new Map([[machine, fn]]);
  const { comparedRows } = timedRows(use);
  const extent = n === undefined ? [] : [{ n, position, matrixRows: Infinity, comparedRows }];
  const found = kernelCase({ ...use, name: fn.name }, scheduled, test.seed, ...extent);
  if (found !== undefined) return found;
  throw new LutraError('unsupported', `no inputs are known for the operator ${use.op}`);
}

async function isRight(job: MeasureJob, kernels: CompiledKernels, built: Built): Promise<boolean> {
  const { fn } = built;
  const test = caseOf(job, built);
  const inputs = makeBuffers(test);
  const buffers = kernels.allocate(inputs.map(({ length }) => length));
  for (const [i, bytes] of inputs.entries()) buffers[i]!.set(bytes);
  await kernels.run(fn.name, buffers, test.scalars, test.iterations[job.machine]!);
  return resultDigest(test, buffers) === job.test.digest;
}

type Calls = readonly (readonly Uint8Array[])[];

/** Fills memory with an input, again and again. */
function repeatInto(memory: Uint8Array, input: Uint8Array): void {
  for (let at = 0; at < memory.length; at += input.length) {
    memory.set(input.subarray(0, Math.min(input.length, memory.length - at)), at);
  }
}

/** Memory for the buffers of one call after the other: where inputs are large, as many copies as do not fit a cache. */
function planCalls(test: KernelCase) {
  const capped = test.buffers.map((b) => ({ ...b, elements: Math.min(b.elements, RANDOM_ELEMENTS) }));
  const inputs = makeBuffers({ ...test, buffers: capped });
  const lengths = inputs.map(
    ({ length }, i) => (length / Math.max(1, capped[i]!.elements)) * test.buffers[i]!.elements,
  );
  const large = lengths.map((bytes, i) => test.buffers[i]!.compare === undefined && bytes >= LARGE_BYTES);
  const bytes = lengths.reduce((sum, length, i) => sum + (large[i] ? length : 0), 0);
  const copies = bytes === 0 ? 1 : Math.min(MOST_COPIES, Math.ceil(COLD_BYTES / bytes));
  const sizes = lengths.flatMap((length, i) => Array<number>(large[i] ? copies : 1).fill(length));
  const fill = (memory: ArrayIterator<Uint8Array>): Calls => {
    const perInput = inputs.map((input, i) =>
      Array.from({ length: large[i] ? copies : 1 }, () => {
        const own = memory.next().value!;
        repeatInto(own, input);
        return own;
      }),
    );
    return Array.from({ length: copies }, (_, c) => perInput.map((own) => own[c % own.length]!));
  };
  const buffers = lengths.map((length, i) => ({ bytes: length, copies: large[i] ? copies : 1 }));
  return { sizes, fill, inputs, buffers };
}

/** The buffers of the calls of all kernels; those with equal cases share theirs. */
function allBuffers(cases: readonly KernelCase[], kernels: CompiledKernels): readonly Calls[] {
  const keyOf = ({ buffers }: KernelCase) => JSON.stringify(buffers);
  const plans = new Map(cases.map((test) => [keyOf(test), planCalls(test)]));
  const memory = kernels.allocate([...plans.values()].flatMap(({ sizes }) => sizes)).values();
  const calls = new Map([...plans].map(([key, { fill }]) => [key, fill(memory)]));
  return cases.map((test) => calls.get(keyOf(test))!);
}

/** Seconds the processor spent in this process. */
function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

type Contenders = readonly (readonly Built[])[];

/** Seconds of a call of each contender, turn by turn. */
async function takeTurns(
  { turns }: MeasureJob,
  secondsOfCall: (contender: number) => Promise<number>,
): Promise<readonly (readonly [number, number])[]> {
  for (const i of [0, 1]) await secondsOfCall(i);
  const taken: (readonly [number, number])[] = [];
  for (let turn = 0; turn < turns; turn++) taken.push([await secondsOfCall(0), await secondsOfCall(1)]);
  return taken;
}

/** With so many tokens, on this thread, by the time the processor spent. */
async function time(job: MeasureJob, n: number, kernels: CompiledKernels, contenders: Contenders) {
  const cases = contenders.map((parts) => parts.map((built) => caseOf(job, built, n)));
  const calls = allBuffers(cases.flat(), kernels).values();
  const runs = contenders.map((parts, i) =>
    parts.map(({ fn }, p) => {
      const { scalars, iterations } = cases[i]![p]!;
      return { name: fn.name, scalars, end: iterations[job.machine]!, calls: calls.next().value! };
    }),
  );
  let next = 0;
  const secondsOfCall = async (i: number): Promise<number> => {
    const from = cpuSeconds();
    for (let count = 1; ; count++, next++) {
      for (const { name, scalars, end, calls } of runs[i]!) {
        await kernels.run(name, calls[next % calls.length]!, scalars, end);
      }
      const spent = cpuSeconds() - from;
      if (count > 1 && spent >= job.turnSeconds) return spent / count;
    }
  };
  return takeTurns(job, secondsOfCall);
}

/** With so many tokens, on a team of threads, by the clock. */
async function timeTeam(job: MeasureJob, n: number, contenders: Contenders) {
  const cases = contenders.map((parts) => parts.map((built) => caseOf(job, built, n)));
  const calls = cases.map((own) => own.map(planCalls));
  const kernels = contenders.map((parts, c) =>
    parts.map(({ fn }, k): TeamKernel => {
      const { scalars } = cases[c]![k]!;
      return { fn, scalars, buffers: calls[c]![k]!.buffers };
    }),
  );
  const team = await startTeam(job.machine, kernels, job.threads, (c, k, b, memory) =>
    repeatInto(memory, calls[c]![k]!.inputs[b]!),
  );
  try {
    return await takeTurns(job, (contender) => team.secondsOfCall(contender, job.turnSeconds));
  } finally {
    await team.close();
  }
}

/** More than this, and a schedule is slower for some number of tokens; less is noise. */
const HARMLESS = 1.02;

/** What a schedule is judged by: its geometric mean, or where it loses the most. */
export function ratioOf(ratios: readonly number[]): number {
  const worst = Math.max(...ratios);
  if (worst > HARMLESS) return worst;
  return ratios.reduce((product, ratio) => product * ratio, 1) ** (1 / ratios.length);
}

/**
 * Compiles the two contenders of a job, compares what the first computes with what it must, and only then times
 * them in turns. Failures to build or to run are an outcome, not an error.
 */
export async function measure(job: MeasureJob): Promise<MeasureResult> {
  let kernels: CompiledKernels | undefined;
  try {
    const machine = machineNamed(job.machine);
    const candidate = buildContender('candidate', job.candidate, machine);
    const incumbent = buildContender('incumbent', job.against, machine);
    const functions = [...candidate, ...incumbent].map(({ fn }) => fn);
    kernels = await compileKernels(job.machine, functions);
    if (!(await isRight(job, kernels, candidate.at(-1)!))) {
      return { outcome: 'wrong', reason: 'its results are not those of the interpreter' };
    }
    const ratios: number[] = [];
    let first: readonly (readonly [number, number])[] = [];
    for (const n of job.tokens) {
      const both = [candidate, incumbent];
      const turns = await (job.threads === 1 ? time(job, n, kernels, both) : timeTeam(job, n, both));
      ratios.push(median(turns.map(([own, against]) => own / against)));
      if (first.length === 0) first = turns;
    }
    const { ofAll } = timedRows(job.candidate);
    return {
      outcome: 'ok',
      seconds: ofAll * median(first.map(([own]) => own)),
      againstSeconds: ofAll * median(first.map(([, against]) => against)),
      ratio: ratioOf(ratios),
      ratios,
    };
  } catch (error) {
    return { outcome: 'failed', reason: error instanceof Error ? error.message : String(error) };
  } finally {
    await kernels?.close();
  }
}
