import { LINE } from '../loops/ir.ts';
import { statements } from '../loops/walk.ts';
import type { Plan, WeightRegion } from './types.ts';

/** Operators that read a few rows of their weights only. */
const LOOKUPS: ReadonlySet<string> = new Set(['embedding', 'rope.store', 'matmul.rows']);

/**
 * Which parts of the weights file every step reads as a whole, adjoining regions as one: all but tables of which
 * it looks up rows, and the table of a head that is scanned by another.
 */
export function streamedRanges({ kernels, main, weights }: Plan): readonly WeightRegion[] {
  const uses = new Map(kernels.map((use) => [use.name, use]));
  const scans = weights.some(({ encoding }) => encoding.endsWith('-scan'));
  const read = new Set<number>();
  for (const s of statements(main.body)) {
    if (s.kind !== 'call') continue;
    const { op, family } = uses.get(s.fn)!;
    if (LOOKUPS.has(op) || (scans && op === 'matmul' && family !== 'grouped')) continue;
    for (const { buffer, offset } of s.buffers) {
      if (buffer === 'weights' && offset.kind === 'const') read.add(offset.value * LINE);
    }
  }
  const ranges: WeightRegion[] = [];
  for (const region of weights.flatMap((slot) => slot.regions)) {
    if (!read.has(region.offset)) continue;
    const last = ranges.at(-1);
    // Regions start at lines: what lies between two of them is padding.
    if (last !== undefined && region.offset - (last.offset + last.bytes) < LINE) {
      ranges[ranges.length - 1] = { ...last, bytes: region.offset + region.bytes - last.offset };
    } else ranges.push(region);
  }
  return ranges;
}
