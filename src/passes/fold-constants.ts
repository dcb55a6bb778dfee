/**
 * Folds what is known before any token: constants with one recipe become one, a concatenation is flat, and
 * a slice of everything is the value itself.
 *
 * ```
 * const a: f32[8] = scale("s", multiply, rows = 8)
 * const b: f32[8] = scale("s", multiply, rows = 8)    ->    const a: f32[8] = scale("s", multiply, rows = 8)
 * const c = concat(concat(data(1), data(2)))          ->    const c = data(1, 2)
 * y = slice(x) {start = 0, length = all}              ->    readers of y read x
 * z = slice(slice(x) {start = 8, ...}) {start = 4, length = 2}    ->    z = slice(x) {start = 12, length = 2}
 * ```
 */
import type { Constant, Graph, Node, WeightSource } from '../graph/ir.ts';
import { indexGraph, replaceNodes } from '../graph/rewrite.ts';
import type { Pass } from './pass.ts';

/** A source with its concatenations flat, neighbouring data joined, and none of a single part. */
function flatten(source: WeightSource): WeightSource {
  if (source.kind !== 'concat') return source;
  const parts: WeightSource[] = [];
  for (const part of source.parts.map(flatten)) {
    for (const piece of part.kind === 'concat' ? part.parts : [part]) {
      const last = parts.at(-1);
      if (piece.kind === 'data' && last?.kind === 'data') {
        parts[parts.length - 1] = { kind: 'data', values: [...last.values, ...piece.values] };
      } else {
        parts.push(piece);
      }
    }
  }
  if (parts.length === 1) return parts[0]!;
  const same = parts.length === source.parts.length && parts.every((part, i) => part === source.parts[i]);
  return same ? source : { kind: 'concat', parts };
}

function foldSources(graph: Graph): Graph {
  let changed = false;
  const constants = graph.constants.map((constant): Constant => {
    const source = flatten(constant.source);
    if (source === constant.source) return constant;
    changed = true;
    return { ...constant, source };
  });
  return changed ? { ...graph, constants } : graph;
}

function mergeConstants(graph: Graph): Graph {
  const first = new Map<string, string>();
  const rename = new Map<string, string>();
  for (const { name, type, source, encoding } of graph.constants) {
    const key = JSON.stringify([type.dtype, type.shape, source, encoding]);
    const same = first.get(key);
    if (same === undefined) first.set(key, name);
    else rename.set(name, same);
  }
  if (rename.size === 0) return graph;
  const kept = graph.constants.filter((constant) => !rename.has(constant.name));
  return replaceNodes({ ...graph, constants: kept }, { rename });
}

/** The value a slice is taken from after all, and where in it. */
function origin(node: Node, producers: ReadonlyMap<string, Node>): { name: string; start: number } {
  const name = node.inputs[0]!;
  const start = node.attrs.start as number;
  const below = producers.get(name);
  if (below?.op !== 'slice') return { name, start };
  const from = origin(below, producers);
  return { name: from.name, start: from.start + start };
}

function foldSlices(graph: Graph): Graph {
  const { producers, types } = indexGraph(graph);
  const remove: Node[] = [];
  const insert: Node[] = [];
  const rename = new Map<string, string>();
  for (const node of graph.nodes) {
    if (node.op !== 'slice') continue;
    const { name, start } = origin(node, producers);
    const output = node.outputs[0]!;
    if (types.get(name)?.shape[1] === node.attrs.length) {
      remove.push(node);
      rename.set(output.name, name);
    } else if (name !== node.inputs[0]) {
      remove.push(node);
      insert.push({ ...node, inputs: [name], attrs: { ...node.attrs, start } });
    }
  }
  return remove.length === 0 ? graph : replaceNodes(graph, { remove, insert, rename });
}

export const foldConstants: Pass = {
  name: 'fold-constants',
  run: (graph) => foldSlices(mergeConstants(foldSources(graph))),
};
