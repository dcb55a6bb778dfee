// @ts-check
/** Figures as text: a table for the terminal, tables for Markdown. */
import { reaches } from './goals.mjs';
import { spread } from './statistics.mjs';

/**
 * @typedef {{
 *   id: string, title: string, unit: string, median: number, min: number, max: number, repetitions: number,
 *   bytesPerToken?: number, gigabytesPerSecond?: number, bandwidthShare?: number, arithmeticShare?: number,
 *   prediction?: number, predictionShare?: number, boundBy?: string, stolen?: number | null,
 *   goal?: number, peer?: number, atMost?: true,
 *   [fact: string]: unknown,
 * }} Figure
 * @typedef {{ target: string, threads: number, node: string, bandwidths: readonly number[], rates: readonly number[] }} MachineLimit
 *   what meters read, in GB/s and GOP/s
 * @typedef {{
 *   format: string, version: number, started: string, seconds: number, quick: boolean, command: string,
 *   machine: any, limits: readonly MachineLimit[], figures: readonly Figure[],
 *   skipped: readonly { suite: string, reason: string }[],
 * }} Results
 */

/** Three digits or a little more: what a reader can use. @param {number} value */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** @param {number | null | undefined} share */
const percent = (share) => (share == null ? '' : `${Math.round(100 * share)} %`);

const COLUMNS = /** @type {const} */ ([
  'figure',
  'median',
  'range',
  'n',
  'unit',
  'MB/token',
  'of bandwidth',
  'of arithmetic',
  'predicted',
  'of it',
  'goal',
]);

/** @param {Figure} f @returns {string[]} */
function cells(f) {
  const goal =
    f.goal === undefined
      ? ''
      : `${f.atMost ? '<=' : '>='} ${short(f.goal)} ${reaches({ goal: f.goal, ...(f.atMost && { atMost: true }) }, f.median) ? 'yes' : 'no'}`;
  return [
    f.title,
    short(f.median),
    f.repetitions === 1 ? '' : `${short(f.min)}-${short(f.max)}`,
    String(f.repetitions),
    f.unit,
    f.bytesPerToken === undefined ? '' : short(f.bytesPerToken / 1e6),
    percent(f.bandwidthShare),
    percent(f.arithmeticShare),
    f.prediction === undefined ? '' : short(f.prediction),
    percent(f.predictionShare),
    goal,
  ];
}

/** @param {readonly Figure[]} figures */
export function textTable(figures) {
  const rows = [[...COLUMNS], ...figures.map(cells)];
  const widths = COLUMNS.map((_, i) => Math.max(...rows.map((row) => (row[i] ?? '').length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => (i === 0 || i === 4 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** @param {readonly (readonly string[])[]} rows the first is the head */
export function markdownTable(rows) {
  const line = (/** @type {readonly string[]} */ row) =>
    `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`;
  const [head = [], ...body] = rows;
  return line(head) + line(head.map(() => '---')) + body.map(line).join('');
}

/** @param {Results} results */
export function machineText({ machine, started, command, quick, seconds }) {
  const { code } = machine;
  const changed = code.changed ? `, ${code.changed} files changed since` : '';
  return [
    `${machine.cpu}, ${machine.physicalCores} cores${machine.virtual ? ', virtual' : ''} (${machine.features.join(' ')}), ` +
      `${Math.round(machine.memoryBytes / 2 ** 30)} GiB, caches ${[machine.caches.l1d, machine.caches.l2, machine.caches.l3].map((b) => `${Math.round(b / 1024)} KiB`).join(' / ')}; ` +
      `${machine.system}; Node ${machine.node}; ${machine.compiler ?? 'no C compiler'}`,
    `code ${code.commit ?? 'unknown'} of ${code.date ?? 'unknown'}${changed}`,
    `measured ${started} in ${Math.round(seconds / 60)} minutes by \`${command}\`${quick ? ' (quick: few repetitions)' : ''}`,
  ];
}

/** Readings of one suite added to those of others. @param {readonly MachineLimit[]} limits @param {readonly MachineLimit[]} more */
export function mergeLimits(limits, more) {
  /** @type {Map<string, MachineLimit>} */
  const merged = new Map();
  for (const limit of [...limits, ...more]) {
    const key = `${limit.target} ${limit.threads} ${limit.node}`;
    const { bandwidths = [], rates = [] } = merged.get(key) ?? {};
    merged.set(key, {
      ...limit,
      bandwidths: [...bandwidths, ...limit.bandwidths],
      rates: [...rates, ...limit.rates],
    });
  }
  return [...merged.values()];
}

/** @param {readonly number[]} values */
function medianAndRange(values) {
  const { median, min, max } = spread(values);
  return `${short(median)} (${short(min)}-${short(max)})`;
}

/** @param {readonly MachineLimit[]} limits @returns {string[][]} */
function limitRows(limits) {
  return limits.map(({ target, node, threads, bandwidths, rates }) => [
    target.startsWith('wasm') ? `${target}, Node ${node}` : target,
    String(threads),
    medianAndRange(bandwidths),
    medianAndRange(rates),
    String(rates.length),
  ]);
}

/** @param {Results} results */
export function textReport(results) {
  const limits = limitRows(results.limits).map(
    ([target, threads, bandwidth, rate]) =>
      `  ${target}, ${threads} threads: reads ${bandwidth} GB/s, multiplies and adds ${rate} GOP/s\n`,
  );
  if (limits.length > 0) {
    limits.unshift(
      '\nlimits measured in this run, each time right before what is held against them: median and range\n',
    );
  }
  return [
    ...machineText(results).map((line) => `${line}\n`),
    ...limits,
    '\n',
    textTable(results.figures),
    ...results.skipped.map(({ suite, reason }) => `left out: ${suite}: ${reason}\n`),
  ].join('');
}

/** Sections of a page, in order: title and the ids that belong to it. */
const SECTIONS = /** @type {const} */ ([
  ['Decode and prefill, native', /^native\./],
  ['WebAssembly', /^wasm\./],
  ['Long context', /^context\./],
  ['Several sequences in one step', /^batch\./],
  ['bitnet_b1_58-3B', /^bitnet-3b\./],
  ['Llama-2-7B, 8 of 32 layers, in 2 and 4 bits', /^llama2-/],
  ['With a core taken by another program', /^busy\./],
  ['Speculation by prompt lookup', /^speculation\./],
  ['Memory, loading, compiling', /^(memory|load|compile)\./],
  ['Defaults beside what the tuner finds', /^defaults\./],
  ['Beside node-llama-cpp', /^peers\./],
]);

/** The figures of several runs: of those with the same id the last. @param {readonly Results[]} runs */
export function latestFigures(runs) {
  return [...new Map(runs.flatMap(({ figures }) => figures.map((figure) => [figure.id, figure]))).values()];
}

/**
 * @param {Results} results whose limits are told
 * @param {readonly Results[]} more other runs, on the same machine, whose figures are listed too: instead of those of
 *   the same id, where a suite was measured again
 */
export function markdownReport(results, more = []) {
  const [machine = '', ...run] = machineText(results);
  const runs = [run, ...more.map((one) => machineText(one).slice(1))].map((lines) => lines.join(', '));
  const figures = latestFigures([results, ...more]);
  const parts = [
    [machine, ...runs].map((line) => `- ${line}\n`).join(''),
    '\n',
    'Limits that the bench measured in the same run, each time right before what is held against them (median and\nrange; the shares below are medians of rounds, each against its own limits):\n\n',
    markdownTable([
      ['target', 'threads', 'reads, GB/s', 'multiply-adds, GOP/s', 'n'],
      ...limitRows(results.limits),
    ]),
  ];
  for (const [title, match] of SECTIONS) {
    const own = figures.filter(({ id }) => match.test(id));
    if (own.length === 0) continue;
    const rows = [[...COLUMNS], ...own.map(cells)];
    const used = COLUMNS.map((_, i) => rows.slice(1).some((row) => row[i] !== ''));
    parts.push(`\n### ${title}\n\n`, markdownTable(rows.map((row) => row.filter((_, i) => used[i]))));
  }
  for (const { suite, reason } of results.skipped) parts.push(`\nLeft out: ${suite}: ${reason}\n`);
  return parts.join('');
}

/**
 * The text between two comments of a page, replaced.
 * @param {string} page
 * @param {string} name
 * @param {string} text
 */
export function fillSection(page, name, text) {
  const [begin, end] = [`<!-- ${name}: written by npm run bench:docs -->`, `<!-- end of ${name} -->`];
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`the page has no section between "${begin}" and "${end}"`);
  return `${page.slice(0, from + begin.length)}\n\n${text.trim()}\n\n${page.slice(to)}`;
}
