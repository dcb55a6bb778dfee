import { rowStride } from '../kernels/kernel.ts';
import { kindBytes, LINE, type ScalarKind } from '../loops/ir.ts';
import { statements } from '../loops/walk.ts';
import type { LookupTable } from '../targets/executable.ts';
import type { Plan } from './types.ts';

/**
 * The tables of a plan of which a step reads only the rows of its tokens: what the embedding reads, unless
 * something else reads it too, as an output head that shares the embedding's weights does.
 */
export function lookupTables(plan: Pick<Plan, 'kernels' | 'main' | 'weights'>): readonly LookupTable[] {
  const uses = new Map(plan.kernels.map((use) => [use.name, use]));
  const regions = plan.weights.flatMap((slot) => slot.regions);
  const readers = new Map<number, Set<string>>();
  for (const s of statements(plan.main.body)) {
    if (s.kind !== 'call') continue;
    for (const { buffer, offset } of s.buffers) {
      if (buffer !== 'weights') continue;
      // Whose place is computed could be any.
      if (offset.kind !== 'const') return [];
      const at = offset.value * LINE;
      readers.set(at, (readers.get(at) ?? new Set()).add(s.fn));
    }
  }
  return regions.flatMap(({ offset, bytes }): LookupTable[] => {
    const [first, ...others] = readers.get(offset) ?? [];
    const use = first === undefined ? undefined : uses.get(first);
    if (use?.op !== 'embedding' || use.node !== undefined || others.length > 0) return [];
    const { hidden, elem } = use.shape as { hidden: number; elem: ScalarKind };
    return [{ offset, bytes, rowBytes: rowStride(hidden) * kindBytes(elem) }];
  });
}
