/**
 * How threads split the work of a kernel, in whatever family: iterations of its thread loop are taken singly, or
 * `grain` of them at a time. It is a field of schedules that tuning may add, for native code on several threads.
 */
import { coarsen, constantExtent } from '../loops/coarsen.ts';
import type { LoopFunction } from '../loops/ir.ts';
import { type AnyKernel, type PlainRecord, rowStride } from './kernel.ts';
import { kernelFor } from './registry.ts';

/** Rows of a matrix that are taken at a time at most: self-tests have no more. */
const MOST_ROWS = 512;
/** Parts of a thread's share to try: native threads take 8 where there are as many, so that others can take over. */
const PARTS = [4, 2, 1];

/** A schedule without what is said about threads: that of the kernel itself. */
export function withoutGrain({ grain: _, ...schedule }: PlainRecord): PlainRecord {
  return schedule;
}

/** The most iterations that may be taken at a time; 1 where the work is no fixed number of rows. */
function largestGrain(fn: LoopFunction, { m }: PlainRecord): number {
  const total = constantExtent(fn);
  if (total === undefined || m === undefined) return 1;
  return Math.max(1, Math.floor((MOST_ROWS * total) / rowStride(Number(m))));
}

/** Grains worth trying beside single iterations, for so many threads. */
export function grains(fn: LoopFunction, shape: PlainRecord, threads: number): readonly number[] {
  const share = Math.ceil((constantExtent(fn) ?? 0) / threads);
  const found = PARTS.map((parts) => Math.min(Math.ceil(share / parts), largestGrain(fn, shape)));
  return [...new Set(found)].filter((grain) => grain > 1);
}

/** A kernel by a schedule that may say how threads split it. Grains too large are cut. */
export function buildScheduled(
  { op, family, shape }: Pick<AnyKernel, 'op' | 'family'> & { readonly shape: PlainRecord },
  name: string,
  schedule: PlainRecord,
): LoopFunction {
  const fn = kernelFor(op, family).build(name, shape, withoutGrain(schedule));
  const grain = Number(schedule.grain ?? 1);
  return Number.isInteger(grain) && grain > 1 ? coarsen(fn, Math.min(grain, largestGrain(fn, shape))) : fn;
}
