import type { Node } from '../graph/ir.ts';
import type { GraphIndex } from '../graph/rewrite.ts';

/** Products of an output head: by a table of floats, or by codes as a file has them. */
const FLOATS = 'matmul';
const CODES: readonly string[] = ['lowbit.matmul.group', 'lowbit.matmul.blocks'];

/** An output head: the product that is an output of the graph. */
export interface Head {
  readonly node: Node;
  /** Whether its table is codes, which stay as they are, and its activations are quantized for them. */
  readonly ofCodes: boolean;
}

/** The head that computes a value; undefined where something else does. */
export function headOf({ producers }: Pick<GraphIndex, 'producers'>, output: string): Head | undefined {
  const node = producers.get(output);
  if (node?.op === FLOATS) return { node, ofCodes: false };
  return node !== undefined && CODES.includes(node.op) ? { node, ofCodes: true } : undefined;
}
