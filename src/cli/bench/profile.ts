/** Where the time of a forward step goes: from the times that threads noted to kernels and to a timeline. */
import { LutraError } from '../../common/errors.ts';
import type { CallTraffic } from '../../plan/traffic.ts';

/** A step that ran while threads noted times; all times are in milliseconds. */
export interface TimedStep {
  readonly phase: 'prefill' | 'decode';
  /** Of all its sequences, of which there are so many. */
  readonly tokens: number;
  readonly sequences: number;
  /** Of the first token of the first sequence. */
  readonly position: number;
  /** When it was asked for and when its logits were there. */
  readonly start: number;
  readonly end: number;
  /** [threads][room], as `Executable.step` fills it. */
  readonly times: Float64Array;
  readonly threads: number;
  /** The kernel calls between barriers, as `stepTraffic` gives them. */
  readonly groups: readonly (readonly CallTraffic[])[];
}

/** A thread's own work between two barriers. */
export interface Slice {
  readonly thread: number;
  readonly calls: readonly CallTraffic[];
  readonly start: number;
  readonly end: number;
  /** Waiting for the other threads after it, until here. */
  readonly released: number;
}

/** What the calls of one kernel took, over all steps of a phase. */
export interface KernelProfile {
  readonly kernel: string;
  readonly calls: number;
  /** From the barrier before to the barrier after; those of all kernels do not overlap. */
  readonly milliseconds: number;
  /** The share of its time that a thread waited for the slowest one, on average. */
  readonly waiting: number;
  readonly weightBytes: number;
  readonly cacheBytes: number;
  readonly activationBytes: number;
  readonly operations: number;
  readonly floatOperations: number;
}

export interface PhaseProfile {
  readonly phase: 'prefill' | 'decode';
  readonly steps: number;
  readonly tokens: number;
  /** Of the steps as their caller sees them, what is not kernels included. */
  readonly milliseconds: number;
  /** By time. */
  readonly kernels: readonly KernelProfile[];
}

/** The work of every thread of a step. Throws `environment` where times are missing. */
export function slicesOf({ times, threads, groups }: TimedStep): readonly Slice[] {
  const room = times.length / threads;
  return Array.from({ length: threads }, (_, thread) => {
    const own = times.subarray(thread * room, (thread + 1) * room);
    return groups.map((calls, i): Slice => {
      const [start, end, released] = [own[2 * i], own[2 * i + 1], own[2 * i + 2]] as [number, number, number];
      if (!(start <= end && end <= released)) {
        throw new LutraError('environment', 'this compiled model cannot be profiled: it notes no times', {
          hint: 'Compile it again with this version of lutra; WebAssembly needs shared memory.',
        });
      }
      return { thread, calls, start, end, released };
    });
  }).flat();
}

type Sums = { -readonly [K in Exclude<keyof KernelProfile, 'kernel' | 'waiting'>]: number } & {
  waited: number;
};

const AMOUNTS = ['weightBytes', 'cacheBytes', 'activationBytes', 'operations', 'floatOperations'] as const;

function newSums(): Sums {
  return {
    calls: 0,
    milliseconds: 0,
    waited: 0,
    weightBytes: 0,
    cacheBytes: 0,
    activationBytes: 0,
    operations: 0,
    floatOperations: 0,
  };
}

/** Adds up the steps of a phase by kernel. */
export function profilePhase(phase: TimedStep['phase'], steps: readonly TimedStep[]): PhaseProfile {
  const own = steps.filter((step) => step.phase === phase);
  const kernels = new Map<string, Sums>();
  for (const step of own) {
    const slices = slicesOf(step);
    // Before all threads are awake there is no kernel to blame.
    const awake = Math.max(
      ...slices.filter(({ calls }) => calls === step.groups[0]).map(({ start }) => start),
    );
    for (const slice of slices) {
      const [first] = slice.calls;
      if (first === undefined) continue;
      let sums = kernels.get(first.kernel);
      if (sums === undefined) {
        sums = newSums();
        kernels.set(first.kernel, sums);
      }
      sums.waited += (slice.released - Math.max(slice.end, awake)) / step.threads;
      // The clock of one thread for all: its intervals follow each other without gap or overlap.
      if (slice.thread > 0) continue;
      sums.milliseconds += slice.released - Math.max(slice.start, awake);
      sums.calls += slice.calls.length;
      for (const call of slice.calls) for (const key of AMOUNTS) sums[key] += call[key];
    }
  }
  return {
    phase,
    steps: own.length,
    tokens: own.reduce((sum, { tokens }) => sum + tokens, 0),
    milliseconds: own.reduce((sum, { start, end }) => sum + end - start, 0),
    kernels: [...kernels]
      .map(([kernel, { waited, ...sums }]) => ({
        kernel,
        ...sums,
        waiting: sums.milliseconds > 0 ? Math.min(1, waited / sums.milliseconds) : 0,
      }))
      .sort((a, b) => b.milliseconds - a.milliseconds),
  };
}

/** An event of the Chrome trace format; times in microseconds. */
interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly args: Readonly<Record<string, unknown>>;
}

const PID = 1;

/**
 * The steps as a trace that chrome://tracing and ui.perfetto.dev open: a lane for the steps, and one for each
 * thread with the kernels it runs. Gaps are waiting at barriers.
 */
export function traceOf(
  facts: { readonly model: string; readonly target: string },
  steps: readonly TimedStep[],
): { readonly displayTimeUnit: 'ms'; readonly traceEvents: readonly TraceEvent[] } {
  const origin = steps[0]?.start ?? 0;
  const threads = Math.max(1, ...steps.map((step) => step.threads));
  const micro = (ms: number) => Number((1000 * ms).toFixed(3));
  const meta = (tid: number, name: string, value: string): TraceEvent => ({
    name,
    ph: 'M',
    pid: PID,
    tid,
    args: { name: value },
  });
  const events: TraceEvent[] = [
    meta(0, 'process_name', `${facts.model} on ${facts.target}`),
    meta(0, 'thread_name', 'steps'),
    ...Array.from({ length: threads }, (_, i) => meta(i + 1, 'thread_name', `thread ${i}`)),
  ];
  const complete = (
    tid: number,
    name: string,
    cat: string,
    [start, end]: readonly [number, number],
    args: TraceEvent['args'],
  ) => {
    events.push({
      name,
      cat,
      ph: 'X',
      pid: PID,
      tid,
      ts: micro(start - origin),
      dur: micro(end - start),
      args,
    });
  };
  for (const step of steps) {
    const { phase, tokens, sequences, position, start, end } = step;
    const args = { tokens, ...(sequences > 1 && { sequences }), position };
    complete(0, phase, 'step', [start, end], args);
    for (const slice of slicesOf(step)) {
      const [first] = slice.calls;
      if (first === undefined) continue;
      const total = (key: (typeof AMOUNTS)[number]) => slice.calls.reduce((sum, call) => sum + call[key], 0);
      complete(slice.thread + 1, first.kernel, first.op, [slice.start, slice.end], {
        rows: first.rows,
        ...(slice.calls.length > 1 && { calls: slice.calls.length }),
        // Of the whole call, of which this thread has its share.
        ...Object.fromEntries(AMOUNTS.map((key) => [key, total(key)]).filter(([, amount]) => amount !== 0)),
      });
    }
  }
  return { displayTimeUnit: 'ms', traceEvents: events };
}
