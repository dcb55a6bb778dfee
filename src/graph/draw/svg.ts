import type { Graph } from '../ir.ts';
import { type Box, diagramOf } from './diagram.ts';
import { layoutGraph, type Point, type Size } from './layout.ts';

const FONT = 11;
const LINE = 15;
const CHARACTER = 0.61 * FONT;
const PADDING = 8;
const FRAME = 12;
const FILL: Readonly<Record<Box['kind'], string>> = { input: '#e3ecf7', node: '#ffffff', output: '#e6f3e4' };

function sizeOf({ lines }: Box): Size {
  const longest = Math.max(...lines.map((line) => line.length));
  return { width: Math.ceil(longest * CHARACTER) + 2 * PADDING, height: lines.length * LINE + PADDING };
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };

/** Text for XML, which cannot hold control characters and halves of surrogate pairs at all. */
function escaped(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}\ufffe\uffff]/gu, '\ufffd').replace(/[&<>]/g, (c) => ENTITIES[c]!);
}

function round(value: number): string {
  return String(Math.round(value * 10) / 10);
}

/** Vertical at both ends of every piece. */
function curve(points: readonly Point[]): string {
  const at = ({ x, y }: Point) => `${round(x)},${round(y)}`;
  return points
    .map((point, i) => {
      const before = points[i - 1];
      if (before === undefined) return `M${at(point)}`;
      const y = (before.y + point.y) / 2;
      return `C${at({ x: before.x, y })} ${at({ x: point.x, y })} ${at(point)}`;
    })
    .join(' ');
}

function boxText(box: Box, size: Size, centre: Point): string {
  const left = centre.x - size.width / 2;
  const top = centre.y - size.height / 2;
  const lines = box.lines.map((line, i) => {
    const weight = i === 0 ? ' font-weight="bold"' : ' fill="#555"';
    return `<text x="${round(left + PADDING)}" y="${round(top + LINE * (i + 1) - 2)}"${weight}>${escaped(line)}</text>`;
  });
  const rect = `<rect x="${round(left)}" y="${round(top)}" width="${size.width}" height="${size.height}" rx="4" fill="${FILL[box.kind]}" stroke="#667"/>`;
  return [rect, ...lines].join('\n');
}

/** A picture of the graph that needs nothing else to be shown. Equal layers are drawn once unless `collapse` is false. */
export function drawSvg(graph: Graph, collapse = true): string {
  const { title, boxes, edges, repeat } = diagramOf(graph, collapse);
  const sizes = boxes.map(sizeOf);
  const { size, centres, paths } = layoutGraph(sizes, edges);
  const frame: string[] = [];
  if (repeat !== undefined) {
    const edge = (pick: (...values: number[]) => number, side: 1 | -1, axis: 'x' | 'y') =>
      pick(
        ...repeat.boxes.map((i) => {
          const extent = axis === 'x' ? sizes[i]!.width : sizes[i]!.height;
          return centres[i]![axis] + side * (extent / 2 + FRAME);
        }),
      );
    const [left, top] = [edge(Math.min, -1, 'x'), edge(Math.min, -1, 'y')];
    const [right, bottom] = [edge(Math.max, 1, 'x'), edge(Math.max, 1, 'y')];
    frame.push(
      `<rect x="${round(left)}" y="${round(top)}" width="${round(right - left)}" height="${round(bottom - top)}" rx="8" fill="#f6f6f2" stroke="#997" stroke-dasharray="5 4"/>`,
      `<text x="${round(left + 6)}" y="${round(bottom - 5)}" fill="#774">${repeat.count} times</text>`,
    );
  }
  const width = Math.ceil(size.width);
  const height = Math.ceil(size.height);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="${FONT}">`,
    `<title>${escaped(title)}</title>`,
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0,0 8,4 0,8z" fill="#667"/></marker></defs>',
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...frame,
    ...paths.map(
      (points) => `<path d="${curve(points)}" fill="none" stroke="#667" marker-end="url(#arrow)"/>`,
    ),
    ...boxes.map((box, i) => boxText(box, sizes[i]!, centres[i]!)),
    '</svg>',
    '',
  ].join('\n');
}
