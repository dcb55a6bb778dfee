import type { Graph, Node } from '../ir.ts';
import { attrText } from '../print.ts';
import { indexGraph } from '../rewrite.ts';
import { typeText } from '../types.ts';

export interface Box {
  readonly kind: 'input' | 'node' | 'output';
  /** The operator or name, then details. */
  readonly lines: readonly string[];
}

/** A graph as boxes and arrows, by index; weights are written into the boxes that read them. */
export interface Diagram {
  readonly title: string;
  readonly boxes: readonly Box[];
  readonly edges: readonly { readonly from: number; readonly to: number }[];
  /** Boxes that stand for several like them: the layers of a model. */
  readonly repeat?: { readonly boxes: readonly number[]; readonly count: number };
}

/** Nodes start .. start + period, `count` times one after the other. */
export interface Repeat {
  readonly start: number;
  readonly period: number;
  readonly count: number;
}

/** Shorter stretches are clearer drawn out. */
const SHORTEST_PERIOD = 4;

/**
 * The repetition that saves most boxes. What must agree between copies: operators, attributes other than
 * `layer`, types, and from how many nodes back each input comes.
 */
export function findRepeat(graph: Graph): Repeat | undefined {
  const { producers, types } = indexGraph(graph);
  const position = new Map(graph.nodes.map((node, i) => [node, i]));
  const signatures = graph.nodes.map((node, i) => {
    const inputs = node.inputs.map((name) => {
      const producer = producers.get(name);
      return producer === undefined ? typeText(types.get(name)!) : i - position.get(producer)!;
    });
    const outputs = node.outputs.map((value) => typeText(value.type));
    return JSON.stringify([node.op, { ...node.attrs, layer: 0 }, inputs, outputs]);
  });
  let best: Repeat | undefined;
  let saved = 0;
  for (let period = SHORTEST_PERIOD; 2 * period <= signatures.length; period++) {
    let run = 0;
    for (let i = period; i <= signatures.length; i++) {
      if (i < signatures.length && signatures[i] === signatures[i - period]) {
        run++;
        continue;
      }
      const copies = Math.floor(run / period);
      if (copies * period > saved) {
        saved = copies * period;
        best = { start: i - run - period, period, count: copies + 1 };
      }
      run = 0;
    }
  }
  return best;
}

function nodeLines(
  node: Node,
  isConstant: (name: string) => boolean,
  typeOf: (name: string) => string,
): string[] {
  const attrs = Object.entries(node.attrs).map(([name, value]) => `${name} = ${attrText(value)}`);
  return [
    node.op,
    ...(attrs.length === 0 ? [] : [attrs.join(', ')]),
    ...node.inputs.filter(isConstant).map((name) => `${name}: ${typeOf(name)}`),
    `= ${node.outputs.map((value) => typeText(value.type)).join(', ')}`,
  ];
}

/** What to draw: with `collapse`, a model's equal layers are drawn once. */
export function diagramOf(graph: Graph, collapse: boolean): Diagram {
  const { constants, types } = indexGraph(graph);
  const repeat = collapse ? findRepeat(graph) : undefined;
  const typeOf = (name: string) => {
    const type = types.get(name);
    return type === undefined ? 'undefined' : typeText(type);
  };
  const boxes: Box[] = [];
  const boxOfValue = new Map<string, number>();
  for (const input of graph.inputs) {
    boxOfValue.set(input.name, boxes.push({ kind: 'input', lines: [input.name, typeOf(input.name)] }) - 1);
  }
  // A node of a later copy is drawn as its counterpart in the first.
  const drawn = (i: number) => {
    if (repeat === undefined || i < repeat.start || i >= repeat.start + repeat.period * repeat.count)
      return i;
    return repeat.start + ((i - repeat.start) % repeat.period);
  };
  const boxOfNode = new Map<number, number>();
  graph.nodes.forEach((node, i) => {
    if (drawn(i) === i) {
      const lines = nodeLines(node, (name) => constants.has(name), typeOf);
      boxOfNode.set(i, boxes.push({ kind: 'node', lines }) - 1);
    }
    for (const value of node.outputs) boxOfValue.set(value.name, boxOfNode.get(drawn(i))!);
  });
  const edges = new Map<string, { from: number; to: number }>();
  const connect = (name: string, to: number) => {
    const from = boxOfValue.get(name);
    if (from !== undefined && from !== to) edges.set(`${from} ${to}`, { from, to });
  };
  graph.nodes.forEach((node, i) => {
    if (drawn(i) === i) for (const name of node.inputs) connect(name, boxOfNode.get(i)!);
  });
  for (const name of graph.outputs) {
    connect(name, boxes.push({ kind: 'output', lines: [name, typeOf(name)] }) - 1);
  }
  const diagram = { title: graph.name, boxes, edges: [...edges.values()] };
  if (repeat === undefined) return diagram;
  const inside = Array.from({ length: repeat.period }, (_, i) => boxOfNode.get(repeat.start + i)!);
  return { ...diagram, repeat: { boxes: inside, count: repeat.count } };
}
