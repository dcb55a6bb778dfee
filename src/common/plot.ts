/**
 * Small SVG plots: lines over an axis, and horizontal bars. One file serves light and dark pages: a style
 * sheet inside follows the reader's scheme, and the ground is opaque, so that it is readable anywhere.
 */

export interface Series {
  readonly label: string;
  /** Series of one group have one colour; without it each has its own. */
  readonly group?: string;
  /** `low` and `high`: the spread, drawn as a whisker. */
  readonly points: readonly {
    readonly x: number;
    readonly y: number;
    readonly low?: number;
    readonly high?: number;
  }[];
}

export interface LinePlot {
  readonly title: string;
  readonly subtitle?: string;
  /** What the axes are, with units. */
  readonly x: string;
  readonly y: string;
  readonly series: readonly Series[];
  /** Places marked on the horizontal axis; default: those of all points. */
  readonly ticks?: readonly number[];
}

export interface Bar {
  readonly label: string;
  readonly value: number;
  /** Text after the value. */
  readonly note: string;
  readonly group?: string;
}

export interface BarPlot {
  readonly title: string;
  readonly subtitle?: string;
  readonly bars: readonly Bar[];
  /** The value of a full bar. */
  readonly max: number;
  readonly unit: string;
}

const WIDTH = 720;
const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif';
/** Apart in hue and in lightness, for colour-blind readers too; on white, and on near-black. */
const COLOURS = [
  ['#0b62c4', '#6cb2ff'],
  ['#c2410c', '#ff9d66'],
  ['#15803d', '#63d68b'],
  ['#7e22ce', '#cf9bff'],
  ['#0e7490', '#5ad0e6'],
  ['#a16207', '#e8c14d'],
];

const STYLE = `
  svg { font-family: ${FONT}; }
  .ground { fill: #ffffff; } .text { fill: #1f2328; } .faint { fill: #59636e; }
  .grid { stroke: #d1d9e0; } .axis { stroke: #818b98; } .track { fill: #eaeef2; }
${COLOURS.map(([light], i) => `  .s${i} { stroke: ${light}; } .f${i} { fill: ${light}; }`).join('\n')}
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
    .grid { stroke: #2b313a; } .axis { stroke: #656c76; } .track { fill: #21262d; }
${COLOURS.map(([, dark], i) => `    .s${i} { stroke: ${dark}; } .f${i} { fill: ${dark}; }`).join('\n')}
  }`;

const escapeText = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const number = (value: number) => String(Number(value.toFixed(2)));

interface Look {
  readonly anchor?: 'start' | 'middle' | 'end';
  readonly size?: number;
  readonly style?: string;
  readonly bold?: boolean;
}

function textAt(x: number, y: number, text: string, look: Look = {}): string {
  const { anchor = 'start', size = 13, style = 'text', bold = false } = look;
  const weight = bold ? ' font-weight="600"' : '';
  return `<text class="${style}" x="${number(x)}" y="${number(y)}" font-size="${size}" text-anchor="${anchor}"${weight}>${escapeText(text)}</text>`;
}

function frame(height: number, title: string, content: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escapeText(title)}">`,
    `<style>${STYLE}\n</style>`,
    `<rect class="ground" width="${WIDTH}" height="${height}" rx="8"/>`,
    ...content,
    '</svg>\n',
  ].join('\n');
}

/** Round numbers from 0 to at least `max`, about `count` of them. */
export function niceTicks(max: number, count = 5): readonly number[] {
  if (!(max > 0)) return [0, 1];
  const rough = max / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999) ?? 10 * power;
  const ticks: number[] = [];
  for (let i = 0; ; i++) {
    const tick = Number((i * step).toPrecision(12));
    ticks.push(tick);
    if (tick >= max * 0.999) return ticks;
  }
}

function heading(title: string, subtitle: string | undefined): string[] {
  return [
    textAt(24, 34, title, { size: 17, bold: true }),
    ...(subtitle === undefined ? [] : [textAt(24, 54, subtitle, { size: 12, style: 'faint' })]),
  ];
}

/**
 * Lines over a linear axis from 0 up, with the spread of each point as a whisker and the series named at
 * their right ends.
 */
export function linePlot({ title, subtitle, x: xLabel, y: yLabel, series, ticks }: LinePlot): string {
  const height = 420;
  const box = { left: 68, right: WIDTH - 190, top: 96, bottom: height - 58 };
  const points = series.flatMap((one) => one.points);
  if (points.length === 0) throw new Error(`${title}: nothing to plot`);
  const xs = ticks ?? [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const low = Math.min(0, ...xs);
  const high = Math.max(...xs, ...points.map(({ x }) => x));
  const yTicks = niceTicks(Math.max(...points.map((p) => p.high ?? p.y)));
  const top = yTicks.at(-1)!;
  const px = (v: number) => box.left + ((v - low) / (high - low || 1)) * (box.right - box.left);
  const py = (v: number) => box.bottom - (v / top) * (box.bottom - box.top);
  const out = heading(title, subtitle);
  for (const tick of yTicks) {
    const at = number(py(tick));
    out.push(
      `<line class="${tick === 0 ? 'axis' : 'grid'}" x1="${box.left}" x2="${box.right}" y1="${at}" y2="${at}"/>`,
    );
    out.push(textAt(box.left - 8, py(tick) + 4, number(tick), { anchor: 'end', size: 12, style: 'faint' }));
  }
  for (const tick of xs) {
    const at = number(px(tick));
    out.push(`<line class="axis" x1="${at}" x2="${at}" y1="${box.bottom}" y2="${box.bottom + 5}"/>`);
    out.push(textAt(px(tick), box.bottom + 20, number(tick), { anchor: 'middle', size: 12, style: 'faint' }));
  }
  out.push(textAt((box.left + box.right) / 2, height - 16, xLabel, { anchor: 'middle', size: 13 }));
  out.push(textAt(box.left - 44, box.top - 12, yLabel, { size: 12 }));
  const labels: { y: number; index: number; label: string }[] = [];
  const groups = [...new Set(series.map(({ group }, i) => group ?? `${i}`))];
  series.forEach((one, i) => {
    const index = groups.indexOf(one.group ?? `${i}`);
    const colour = index % COLOURS.length;
    const dash = index >= COLOURS.length ? ' stroke-dasharray="6 4"' : '';
    const sorted = [...one.points].sort((a, b) => a.x - b.x);
    const last = sorted.at(-1);
    if (last === undefined) return;
    const path = sorted
      .map(({ x, y }, i) => `${i === 0 ? 'M' : 'L'}${number(px(x))} ${number(py(y))}`)
      .join(' ');
    out.push(
      `<path class="s${colour}" fill="none" stroke-width="2.5" stroke-linejoin="round"${dash} d="${path}"/>`,
    );
    for (const { x, y, low: from = y, high: to = y } of sorted) {
      const at = number(px(x));
      out.push(
        `<line class="s${colour}" stroke-width="1" x1="${at}" x2="${at}" y1="${number(py(from))}" y2="${number(py(to))}"/>`,
      );
      out.push(`<circle class="f${colour}" cx="${at}" cy="${number(py(y))}" r="4"/>`);
    }
    labels.push({ y: py(last.y), index, label: `${one.label}` });
  });
  for (const { y, index, label } of apart(labels, 17, box.bottom)) {
    const colour = index % COLOURS.length;
    out.push(`<circle class="f${colour}" cx="${box.right + 16}" cy="${number(y)}" r="4"/>`);
    out.push(textAt(box.right + 26, y + 4, label, { size: 12 }));
  }
  return frame(height, title, out);
}

/** Moves labels down until none covers another, and the whole stack up where it would leave the plot. */
export function apart<T extends { y: number }>(
  labels: readonly T[],
  distance: number,
  bottom: number,
): readonly T[] {
  const sorted = [...labels].sort((a, b) => a.y - b.y).map((label) => ({ ...label }));
  for (let i = 1; i < sorted.length; i++) {
    const [above, here] = [sorted[i - 1]!, sorted[i]!];
    here.y = Math.max(here.y, above.y + distance);
  }
  let limit = bottom;
  for (const label of sorted.reverse()) {
    label.y = Math.min(label.y, limit);
    limit = label.y - distance;
  }
  return sorted.reverse();
}

/** Horizontal bars of a common scale, under headings where they are grouped. */
export function barPlot({ title, subtitle, bars, max, unit }: BarPlot): string {
  if (bars.length === 0) throw new Error(`${title}: nothing to plot`);
  const row = 26;
  const left = 290;
  const right = WIDTH - 190;
  const out = heading(title, subtitle);
  let y = 84;
  let group: string | undefined;
  let colour = -1;
  for (const bar of bars) {
    if (bar.group !== group || colour < 0) {
      group = bar.group;
      colour = (colour + 1) % COLOURS.length;
      if (group !== undefined) {
        out.push(textAt(24, y + 4, group, { size: 12, bold: true }));
        y += 22;
      }
    }
    const width = Math.max(0, Math.min(1, bar.value / max)) * (right - left);
    out.push(textAt(left - 10, y + 5, bar.label, { anchor: 'end', size: 12 }));
    out.push(`<rect class="track" x="${left}" y="${y - 8}" width="${right - left}" height="17" rx="3"/>`);
    out.push(
      `<rect class="f${colour}" x="${left}" y="${y - 8}" width="${number(width)}" height="17" rx="3"/>`,
    );
    out.push(textAt(right + 10, y + 5, `${number(bar.value)}${unit}  ${bar.note}`.trimEnd(), { size: 12 }));
    y += row;
  }
  return frame(y + 8, title, out);
}
