import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseGraph } from '../parse.ts';
import { smallModel } from '../testing.ts';
import { diagramOf, findRepeat } from './diagram.ts';
import { drawDot } from './dot.ts';
import { layoutGraph } from './layout.ts';
import { drawSvg } from './svg.ts';

const GRAPH = parseGraph(`graph "a \\"small\\" one" {
  input x: f32[tokens, 4]
  const w: f32[4] = tensor("w")
  y: f32[tokens, 4] = rmsNorm(x, w) {eps = 1}
  z: f32[tokens, 4] = add(y, x)
  return z
}`);

test('DOT has a box for each input, node and output, weights inside the boxes', () => {
  expect(drawDot(GRAPH)).toBe(`digraph "a \\"small\\" one" {
  node [fontname="monospace", fontsize=10];
  n0 [shape=ellipse, label="x\\nf32[tokens, 4]"];
  n1 [shape=box, label="rmsNorm\\neps = 1\\nw: f32[4]\\n= f32[tokens, 4]"];
  n2 [shape=box, label="add\\n= f32[tokens, 4]"];
  n3 [shape=ellipse, label="z\\nf32[tokens, 4]"];
  n0 -> n1;
  n1 -> n2;
  n0 -> n2;
  n2 -> n3;
}
`);
});

test('equal layers are found and drawn once', () => {
  const graph = smallModel(true, 5);
  // embedding, then ten nodes a layer, then selectOutputs and matmul.
  expect(graph.nodes).toHaveLength(1 + 5 * 10 + 2);
  expect(findRepeat(graph)).toEqual({ start: 1, period: 10, count: 5 });
  const { boxes, edges, repeat } = diagramOf(graph, true);
  expect(boxes).toHaveLength(1 + 1 + 10 + 2 + 1);
  expect(repeat).toEqual({ boxes: Array.from({ length: 10 }, (_, i) => i + 2), count: 5 });
  // The last layer's output is drawn as the first one's.
  expect(edges).toContainEqual({ from: 11, to: 12 });
  expect(drawDot(graph)).toContain('label="5 times";');
  expect(drawSvg(graph)).toContain('>5 times</text>');
  expect(diagramOf(graph, false).boxes).toHaveLength(graph.nodes.length + 2);
  expect(findRepeat(smallModel(true, 1))).toBeUndefined();
});

test('boxes never overlap, and arrows run downwards from box to box', () => {
  const sizes = fc.array(
    fc.record({ width: fc.integer({ min: 1, max: 90 }), height: fc.integer({ min: 1, max: 40 }) }),
    {
      minLength: 1,
      maxLength: 12,
    },
  );
  const drawing = sizes.chain((boxes) =>
    fc.record({
      boxes: fc.constant(boxes),
      edges: fc.array(
        fc
          .tuple(fc.nat(boxes.length - 1), fc.nat(boxes.length - 1))
          .filter(([a, b]) => a !== b)
          .map(([a, b]) => ({ from: Math.min(a, b), to: Math.max(a, b) })),
        { maxLength: boxes.length === 1 ? 0 : 20 },
      ),
    }),
  );
  fc.assert(
    fc.property(drawing, ({ boxes, edges }) => {
      const { size, centres, paths } = layoutGraph(boxes, edges);
      for (const [i, a] of boxes.entries()) {
        const p = centres[i]!;
        expect(p.x - a.width / 2).toBeGreaterThanOrEqual(0);
        expect(p.x + a.width / 2).toBeLessThanOrEqual(size.width);
        expect(p.y - a.height / 2).toBeGreaterThanOrEqual(0);
        expect(p.y + a.height / 2).toBeLessThanOrEqual(size.height);
        for (const [j, b] of boxes.entries()) {
          if (j <= i) continue;
          const q = centres[j]!;
          const apart =
            Math.abs(p.x - q.x) >= (a.width + b.width) / 2 ||
            Math.abs(p.y - q.y) >= (a.height + b.height) / 2;
          expect(apart).toBe(true);
        }
      }
      for (const [e, { from, to }] of edges.entries()) {
        const path = paths[e]!;
        expect(path[0]!.x).toBe(centres[from]!.x);
        expect(path.at(-1)!.x).toBe(centres[to]!.x);
        for (let i = 1; i < path.length; i++) expect(path[i]!.y).toBeGreaterThanOrEqual(path[i - 1]!.y);
      }
    }),
    { numRuns: 200, seed: 5 },
  );
});

test('SVG is well-formed whatever the names hold', () => {
  const text = '<&>"\u0000\ud800\n]]>';
  const graph = {
    ...GRAPH,
    name: text,
    inputs: [{ ...GRAPH.inputs[0]!, name: text }],
    nodes: [],
    outputs: [text],
  };
  const svg = drawSvg(graph);
  expect(svg).toContain('<title>&lt;&amp;&gt;"\ufffd\ufffd\ufffd]]&gt;</title>');
  // Every tag closes itself or is closed in turn.
  const open: string[] = [];
  for (const [, close, name, self] of svg.matchAll(/<(\/?)([a-z]+)(?:\s[^<>]*?)?(\/?)>/g)) {
    if (close === '/') expect(open.pop()).toBe(name);
    else if (self !== '/') open.push(name!);
  }
  expect(open).toEqual([]);
  expect(svg.replace(/<\/?[a-z]+(?:\s[^<>]*?)?\/?>/g, '')).not.toMatch(/[<>]/);
});
