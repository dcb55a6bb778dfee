/**
 * Selects the tokens whose logits are wanted as early as rows are computed one by one: after the last attention,
 * a prompt's other tokens need no more work.
 *
 * ```
 * h = add(x, y)                             xs = selectOutputs(x)
 * hs = selectOutputs(h)              ->     ys = selectOutputs(y)
 *                                           hs = add(xs, ys)
 * ```
 *
 * and so on upwards, through every operator that treats rows alike and whose results nothing else reads.
 */
import type { Graph, Node, TensorType } from '../graph/ir.ts';
import { coreOperators } from '../graph/operators/core.ts';
import { freshNames, type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

/** Operators whose schema lets the rows be all tokens or only some of them compute each row from its own inputs. */
function isRowWise({ op }: Node): boolean {
  const shapes = coreOperators.operators.get(op)?.inputs.map(({ shape }) => shape[0]) ?? [];
  return shapes.includes('t') && !shapes.includes('tokens') && !shapes.includes('outputs');
}

function overOutputs(type: TensorType): TensorType {
  return { ...type, shape: type.shape.map((dim) => (dim === 'tokens' ? 'outputs' : dim)) };
}

/** Whether `selectOutputs` can take a value, or need not: it is no value of tokens. */
function isSelectable({ dtype, shape }: TensorType): boolean {
  return shape[0] !== 'tokens' || (dtype === 'f32' && shape.length === 2);
}

/**
 * The row-wise nodes that nothing but `select` reads, directly or through others of them, and that read nothing
 * from outside that cannot be selected.
 */
function movable(graph: Graph, index: GraphIndex, select: Node): ReadonlySet<Node> {
  const candidates = new Set(graph.nodes.filter(isRowWise));
  const stays = (node: Node) =>
    node.outputs.some(
      ({ name }) =>
        index.isOutput(name) || !index.usersOf(name).every((user) => user === select || candidates.has(user)),
    ) ||
    node.inputs.some(
      (name) => !candidates.has(index.producers.get(name) ?? select) && !isSelectable(index.types.get(name)!),
    );
  // Dropping one may make others stay that it reads, or that read it.
  for (let before = -1; before !== candidates.size; ) {
    before = candidates.size;
    for (const node of [...candidates].reverse()) if (stays(node)) candidates.delete(node);
  }
  return candidates;
}

function run(graph: Graph): Graph {
  const index = indexGraph(graph);
  const select = graph.nodes.find(({ op }) => op === 'selectOutputs');
  if (select === undefined) return graph;
  const free = movable(graph, index, select);
  const moved = graph.nodes.filter((node) => free.has(node));
  if (moved.length === 0) return graph;
  const fresh = freshNames(graph);
  const [selected] = select.outputs;
  const [last] = select.inputs;
  // Inside, every value keeps its name, but the last, which takes that of the selection.
  const inside = new Set(moved.flatMap(({ outputs }) => outputs.map(({ name }) => name)));
  const names = new Map([...inside].map((name) => [name, name === last ? selected!.name : name]));
  const selections: Node[] = [];
  for (const name of new Set(moved.flatMap(({ inputs }) => inputs))) {
    const type = index.types.get(name)!;
    if (inside.has(name) || type.shape[0] !== 'tokens') continue;
    const own = fresh(`${name}.selected`);
    names.set(name, own);
    const outputs = [{ name: own, type: overOutputs(type) }];
    selections.push({ op: 'selectOutputs', inputs: [name], outputs, attrs: {} });
  }
  const renamed = moved.map(
    (node): Node => ({
      ...node,
      inputs: node.inputs.map((name) => names.get(name) ?? name),
      outputs: node.outputs.map(({ name, type }) => ({ name: names.get(name)!, type: overOutputs(type) })),
    }),
  );
  return replaceNodes(graph, { remove: [select, ...moved], insert: [...selections, ...renamed] });
}

export const selectEarly: Pass = { name: 'select-early', run };
