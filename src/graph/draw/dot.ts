import type { Graph } from '../ir.ts';
import { diagramOf } from './diagram.ts';

const SHAPES = { input: 'ellipse', node: 'box', output: 'ellipse' } as const;

function quoted(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n')}"`;
}

/** The graph in Graphviz' language: `dot -Tsvg`. Equal layers are drawn once unless `collapse` is false. */
export function drawDot(graph: Graph, collapse = true): string {
  const { title, boxes, edges, repeat } = diagramOf(graph, collapse);
  const inside = new Set(repeat?.boxes);
  const box = (i: number) => {
    const { kind, lines } = boxes[i]!;
    return `n${i} [shape=${SHAPES[kind]}, label=${quoted(lines.join('\n'))}];`;
  };
  const all = boxes.map((_, i) => i);
  return [
    `digraph ${quoted(title)} {`,
    '  node [fontname="monospace", fontsize=10];',
    ...all.filter((i) => !inside.has(i)).map((i) => `  ${box(i)}`),
    ...(repeat === undefined
      ? []
      : [
          '  subgraph cluster_repeat {',
          `    label="${repeat.count} times";`,
          ...repeat.boxes.map((i) => `    ${box(i)}`),
          '  }',
        ]),
    ...edges.map(({ from, to }) => `  n${from} -> n${to};`),
    '}',
    '',
  ].join('\n');
}
