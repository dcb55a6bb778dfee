import { LutraError } from '../common/errors.ts';
import type { Graph } from '../graph/ir.ts';
import { coreOperators } from '../graph/operators/core.ts';
import type { Registry } from '../graph/registry.ts';
import { verifyGraph } from '../graph/verify.ts';
import { chooseEncodings } from './choose-encodings.ts';
import { dropDead } from './drop-dead.ts';
import { dropHead } from './drop-head.ts';
import { foldConstants } from './fold-constants.ts';
import { fuseNormQuantize } from './fuse-norm-quantize.ts';
import { fuseProjections } from './fuse-projections.ts';
import { fuseResidual } from './fuse-residual.ts';
import { joinColumns } from './join-columns.ts';
import { packColumns } from './pack-columns.ts';
import type { Pass, PassOptions } from './pass.ts';
import { selectEarly } from './select-early.ts';
import { shareQuantize } from './share-quantize.ts';

/** What every model goes through, in this order. */
export const PIPELINE: readonly Pass[] = [
  dropHead,
  selectEarly,
  shareQuantize,
  fuseProjections,
  joinColumns,
  packColumns,
  foldConstants,
  fuseNormQuantize,
  fuseResidual,
  dropDead,
  chooseEncodings,
];

/** What one pass did to a graph. */
export interface PassReport {
  readonly pass: string;
  readonly changed: boolean;
  readonly graph: Graph;
  /** Operators of which there are now more or fewer nodes, and by how many. */
  readonly nodes: Readonly<Record<string, number>>;
  /** Difference in the number of constants. */
  readonly constants: number;
}

export interface PipelineOptions extends Partial<PassOptions> {
  /** Default: `PIPELINE`. */
  readonly passes?: readonly Pass[];
  readonly registry?: Registry;
  /** Verifies the graph after every pass, and blames the pass. Default: true. */
  readonly verify?: boolean;
  readonly onPass?: (report: PassReport) => void;
}

function countOps(graph: Graph): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { op } of graph.nodes) counts.set(op, (counts.get(op) ?? 0) + 1);
  return counts;
}

function compare(pass: string, before: Graph, after: Graph): PassReport {
  const [had, has] = [countOps(before), countOps(after)];
  const nodes: Record<string, number> = {};
  for (const op of new Set([...had.keys(), ...has.keys()])) {
    const difference = (has.get(op) ?? 0) - (had.get(op) ?? 0);
    if (difference !== 0) nodes[op] = difference;
  }
  return {
    pass,
    changed: after !== before,
    graph: after,
    nodes,
    constants: after.constants.length - before.constants.length,
  };
}

/** Sends a graph through the passes. Throws `internal`, naming the pass, when one leaves a graph that is not valid. */
export function runPasses(graph: Graph, options: PipelineOptions = {}): Graph {
  const { passes = PIPELINE, registry = coreOperators, verify = true, onPass } = options;
  const { head = 'stored', ternary = 'i2', lookup = [], encodings } = options;
  let current = graph;
  for (const pass of passes) {
    const before = current;
    current = pass.run(before, { head, ternary, lookup, ...(encodings && { encodings }) });
    if (verify && current !== before) {
      try {
        verifyGraph(current, registry);
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause);
        throw new LutraError('internal', `the pass ${pass.name} left an invalid graph: ${reason}`, { cause });
      }
    }
    onPass?.(compare(pass.name, before, current));
  }
  return current;
}
