/**
 * Draws plots of a benchmark's results and writes its tables into docs/benchmarks.md.
 *
 *   npm run bench:docs -- [bench-results.json] [bench-peers.json and other results of the same machine]
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { barPlot, linePlot } from '../dist/common/plot.js';
import { fillSection, latestFigures, markdownReport } from './lib/report.mjs';

const DOCS = fileURLToPath(new URL('../docs', import.meta.url));

const files = process.argv.slice(2);
if (files.length === 0) files.push('bench-results.json');
const [results, ...more] = files.map((file) => JSON.parse(readFileSync(file, 'utf8')));
if (results.format !== 'lutra-bench' || results.version !== 1) {
  throw new Error(`${files[0]} holds no results of npm run bench that this version can read`);
}
const figures = latestFigures([results, ...more]);
const point = (x, { median, min, max }) => ({ x, y: median, low: min, high: max });

/** Series of the figures that match, split by a name and placed by a number. */
function series(match, label, x) {
  const found = new Map();
  for (const figure of figures) {
    const hit = match.exec(figure.id);
    if (hit === null) continue;
    const name = label(hit, figure);
    found.set(name, [...(found.get(name) ?? []), point(x(hit, figure), figure)]);
  }
  return [...found].map(([name, points]) => ({ label: name, points }));
}

const subtitle = `${results.machine.cpu}, ${results.machine.physicalCores} cores; median, whiskers from the slowest to the fastest`;
const plots = [
  [
    'decode-threads.svg',
    {
      title: 'Decode against threads: bitnet-2b-4t, native',
      x: 'threads',
      y: 'tokens/s',
      series: series(
        /^native\.decode\.\d+t\.(\w+)$/,
        ([, head]) => `head ${head}`,
        (_, f) => f.threads,
      ),
    },
  ],
  [
    'prefill-threads.svg',
    {
      title: 'Prefill against threads: bitnet-2b-4t',
      x: 'threads',
      y: 'tokens/s',
      series: [
        ...series(
          /^native\.prefill(\d+)\./,
          ([, n]) => `native, ${n} tokens`,
          (_, f) => f.threads,
        ),
        ...series(
          /^wasm\.node(\d+)\.prefill(\d+)\./,
          ([, v, n]) => `wasm, Node ${v}, ${n}`,
          (_, f) => f.threads,
        ),
      ],
    },
  ],
  [
    'decode-context.svg',
    {
      title: 'Decode against position in the context: bitnet-2b-4t, native',
      x: 'position',
      y: 'tokens/s',
      series: series(
        /^context\.(\w+)\.(\d+)$/,
        ([, cache]) => `cache ${cache}`,
        ([, , at]) => Number(at),
      ),
    },
  ],
  [
    'batch.svg',
    {
      title: 'Decode of several sequences in one step: bitnet-2b-4t, native',
      x: 'sequences',
      y: 'tokens/s in total',
      series: series(
        /^batch\.(\d+)$/,
        () => 'all together',
        ([, n]) => Number(n),
      ),
    },
  ],
];
const drawn = [];
for (const [file, plot] of plots) {
  if (plot.series.length === 0) continue;
  writeFileSync(join(DOCS, file), linePlot({ ...plot, subtitle }));
  drawn.push([file, plot.title]);
}
const bars = figures
  .filter(({ predictionShare }) => predictionShare !== undefined)
  .map(({ id, title, predictionShare, median, boundBy }) => ({
    label: title.length > 40 ? `${title.slice(0, 39)}…` : title,
    value: Math.round(100 * predictionShare),
    note: `${median >= 100 ? median.toFixed(0) : median.toFixed(1)} tok/s (${boundBy})`,
    group: id.split('.')[0],
  }));
if (bars.length > 0) {
  const title = 'Share of what memory and arithmetic allow';
  const under = 'of the tokens/s that the bandwidth or multiply-adds measured in the same run would give';
  writeFileSync(join(DOCS, 'roofline.svg'), barPlot({ title, subtitle: under, bars, max: 100, unit: ' %' }));
  drawn.push(['roofline.svg', title]);
}
const page = join(DOCS, 'benchmarks.md');
const images = drawn.map(([file, title]) => `![${title}](${file})\n`).join('\n');
const text = `${markdownReport(results, more)}\n${images}`;
writeFileSync(page, fillSection(readFileSync(page, 'utf8'), 'results', text));
console.log(`${drawn.length} plots and the tables of ${figures.length} figures are in docs/`);
