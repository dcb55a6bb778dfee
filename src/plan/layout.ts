import { alignUp } from '../common/math.ts';
import { LINE } from '../loops/ir.ts';

/** A buffer of the arena: alive from the step that first writes it to the step that last reads it. */
export interface Interval {
  readonly name: string;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface Layout {
  /** Byte offset of each buffer, a multiple of LINE. */
  readonly offsets: ReadonlyMap<string, number>;
  readonly bytes: number;
}

/**
 * Places buffers so that no two that are alive at the same step overlap: largest first, each at the lowest
 * free offset ("greedy by size", Pisarchyk and Lee 2020).
 *
 * ```
 * step      0   1   2   3          offset 0        64       128
 * a  64 B   [===]                         |  a, c  |   b    |
 * b  64 B       [===]
 * c  64 B           [===]
 * ```
 */
export function placeBuffers(intervals: readonly Interval[]): Layout {
  const offsets = new Map<string, number>();
  const placed: { offset: number; end: number; interval: Interval }[] = [];
  let bytes = 0;
  const bySize = [...intervals].sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  for (const interval of bySize) {
    const size = alignUp(interval.bytes, LINE);
    const rivals = placed
      .filter((p) => p.interval.first <= interval.last && interval.first <= p.interval.last)
      .sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const rival of rivals) {
      if (offset + size <= rival.offset) break;
      offset = Math.max(offset, rival.end);
    }
    placed.push({ offset, end: offset + size, interval });
    offsets.set(interval.name, offset);
    bytes = Math.max(bytes, offset + size);
  }
  return { offsets, bytes };
}
