/**
 * Adds biases and norms heads of a fused product in one go, where its slices would each be treated alike.
 *
 * ```
 * q = slice(p) {start = 0, length = 8}           b = bias(p, concat(x, y))
 * k = slice(p) {start = 8, length = 4}     ->    c = slice(b) {start = 0, length = 8}
 * c = bias(q, x)                                 d = slice(b) {start = 8, length = 4}
 * d = bias(k, y)
 *
 * and rmsNorm.heads likewise, where slices behind the last norm may be without.
 * ```
 */
import type { Constant, Graph, Node, Value } from '../graph/ir.ts';
import { freshNames, type GraphIndex, indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

/** By operator: whether slices at the end may be left as they are. */
const JOINED: Readonly<Record<string, boolean>> = { bias: false, 'rmsNorm.heads': true };

interface Part {
  readonly slice: Node;
  /** What becomes of the slice, if nothing else reads it. */
  readonly user: Node | undefined;
  readonly weight: Constant | undefined;
}

/** The slices of a value from the first column to the last; undefined if they overlap or leave any out. */
function slicesOf(index: GraphIndex, whole: Value): readonly Node[] | undefined {
  const users = index.usersOf(whole.name);
  if (users.length < 2 || index.isOutput(whole.name) || users.some(({ op }) => op !== 'slice'))
    return undefined;
  const slices = [...users].sort((a, b) => (a.attrs.start as number) - (b.attrs.start as number));
  let end = 0;
  for (const { attrs } of slices) {
    if (attrs.start !== end) return undefined;
    end += attrs.length as number;
  }
  return end === whole.type.shape[1] ? slices : undefined;
}

function partOf(index: GraphIndex, slice: Node): Part {
  const { name } = slice.outputs[0]!;
  const users = index.usersOf(name);
  const user = users.length === 1 && !index.isOutput(name) ? users[0] : undefined;
  const weight = user === undefined ? undefined : index.constants.get(user.inputs[1] ?? '');
  const fits = user !== undefined && weight !== undefined && weight.type.shape[0] === slice.attrs.length;
  return fits && Object.hasOwn(JOINED, user.op) && user.inputs[0] === name
    ? { slice, user, weight }
    : { slice, user: undefined, weight: undefined };
}

/** How many of the parts, from the first, are treated alike; 0 if they cannot be joined. */
function countAlike(parts: readonly Part[]): number {
  const first = parts[0]?.user;
  if (first === undefined) return 0;
  const key = ({ op, attrs }: Node) => JSON.stringify([op, Object.entries(attrs).sort()]);
  const differs = parts.findIndex(({ user }) => user === undefined || key(user) !== key(first));
  const count = differs < 0 ? parts.length : differs;
  if (count === parts.length) return count;
  const restIsPlain = parts.slice(count).every(({ user }) => user === undefined);
  return JOINED[first.op] === true && restIsPlain && count > 1 ? count : 0;
}

function joinOnce(graph: Graph): Graph {
  const index = indexGraph(graph);
  const fresh = freshNames(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  const constants: Constant[] = [];
  for (const node of graph.nodes) {
    const whole = node.outputs.length === 1 ? node.outputs[0]! : undefined;
    const slices = whole === undefined ? undefined : slicesOf(index, whole);
    const parts = slices?.map((slice) => partOf(index, slice)) ?? [];
    const count = countAlike(parts);
    if (whole === undefined || count === 0) continue;
    const { op, attrs } = parts[0]!.user!;
    const name = fresh(`${whole.name}.${op}`);
    const weights = parts.slice(0, count).map(({ weight }) => weight!);
    const length = weights.reduce((sum, { type }) => sum + (type.shape[0] as number), 0);
    const joined: Constant = {
      name: fresh(`${name}.weight`),
      type: { dtype: 'f32', shape: [length] },
      source: { kind: 'concat', parts: weights.map(({ source }) => source) },
    };
    constants.push(joined);
    insert.push({ op, inputs: [whole.name, joined.name], outputs: [{ name, type: whole.type }], attrs });
    for (const { slice, user } of parts) {
      remove.push(slice);
      if (user !== undefined) remove.push(user);
      insert.push({ ...slice, inputs: [name], outputs: (user ?? slice).outputs });
    }
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert, constants });
}

/** Once for every operator, as one may follow another. */
function run(graph: Graph): Graph {
  let current = graph;
  for (let again = true; again; ) {
    const next = joinOnce(current);
    again = next !== current;
    current = next;
  }
  return current;
}

export const joinColumns: Pass = { name: 'join-columns', run };
