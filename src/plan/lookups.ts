import { rowStride } from '../kernels/kernel.ts';
import { kindBytes, LINE, type ScalarKind, type Stmt } from '../loops/ir.ts';
import type { LookupTable } from '../targets/executable.ts';
import type { Plan } from './types.ts';

type Call = Extract<Stmt, { kind: 'call' }>;

function callsIn(body: readonly Stmt[]): readonly Call[] {
  return body.flatMap((s) => {
    switch (s.kind) {
      case 'call':
        return [s];
      case 'for':
        return callsIn(s.body);
      case 'if':
        return callsIn([...s.whenTrue, ...s.whenFalse]);
      default:
        return [];
    }
  });
}

/**
 * The tables of a plan of which a step reads only the rows of its tokens: what the embedding reads, unless
 * something else reads it too, as an output head that shares the embedding's weights does.
 */
export function lookupTables(plan: Pick<Plan, 'kernels' | 'main' | 'weights'>): readonly LookupTable[] {
  const uses = new Map(plan.kernels.map((use) => [use.name, use]));
  const regions = plan.weights.flatMap((slot) => slot.regions);
  const calls = callsIn(plan.main.body);
  const readers = new Map<number, Set<string>>();
  for (const { fn, buffers } of calls) {
    for (const { buffer, offset } of buffers) {
      if (buffer !== 'weights') continue;
      // Whose place is computed could be any.
      if (offset.kind !== 'const') return [];
      const at = offset.value * LINE;
      readers.set(at, (readers.get(at) ?? new Set()).add(fn));
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
