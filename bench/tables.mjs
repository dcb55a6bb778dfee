/**
 * Times the table kernels (family `lut`) of lowbit.matmul.group beside family `mad`, at 4096 x 4096 in groups of 128,
 * one token, one thread.
 *
 *   npm run build
 *   node bench/tables.mjs                              from caches and from memory, and how time grows with the bits
 *   node bench/tables.mjs --target wasm:baseline
 *   node bench/tables.mjs --schedules exact            all schedules of `lut`, best first
 *   node bench/tables.mjs --errors                     what tables of bytes cost, of random and of trained weights
 *   node bench/tables.mjs --docs, --errors --docs      writes the table into docs/benchmarks.md, too
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { groupLut } from '../dist/kernels/group-lut.js';
import { groupMatmul } from '../dist/kernels/group-matmul.js';
import { groupPopcount } from '../dist/kernels/group-popcount.js';
import { lutTables } from '../dist/kernels/lut/tables.js';
import { runnableMachines } from '../dist/targets/c/machines.js';
import { detectCpu } from '../dist/targets/cpu.js';
import { machineNamed } from '../dist/tune/kernels.js';
import { fillSection } from './lib/report.mjs';
import { tableErrors } from './lib/table-errors.mjs';
import { measure, measureBursts } from './lib/tables.mjs';

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    schedules: { type: 'string' },
    bits: { type: 'string', default: '1,2,3,4' },
    m: { type: 'string', default: '4096,65536' },
    rounds: { type: 'string' },
    errors: { type: 'boolean', default: false },
    docs: { type: 'boolean', default: false },
    to: { type: 'string', default: 'int8' },
  },
});

const K = 4096;
const GROUP = 128;
/** Rows of which K columns of 4 bits, 512 KiB, stay in a second-level cache. */
const FEW_ROWS = 256;
const BURSTS = 100;
const ROUNDS = options.rounds === undefined ? undefined : Number(options.rounds);

const machine = machineNamed(options.target ?? runnableMachines(await detectCpu())[0].name);

function shapeOf(m, bits, more) {
  const groups = {
    group: GROUP,
    activationGroup: GROUP,
    zero: 2 ** (bits - 1),
    zeros: 'none',
    scales: 'f16',
  };
  return { m, k: K, bits, ...groups, to: options.to, residual: false, batch: 'one', ...more };
}

const mad = (m, bits, change = {}) => {
  const shape = shapeOf(m, bits, { encoding: 'code-tiles' });
  return {
    name: 'mad',
    kernel: groupMatmul,
    shape,
    schedule: { ...groupMatmul.defaultSchedule(shape, machine), ...change },
  };
};

/** Tables of bytes are of activations that fit them. */
const activationsFor = (tables) => (tables === 'int8' || tables === 'fast' ? 'sums' : options.to);

const lut = (m, bits, tables, change = {}) => {
  const shape = shapeOf(m, bits, { encoding: 'bit-planes', tables, to: activationsFor(tables) });
  return {
    name: `lut ${tables}`,
    kernel: groupLut,
    shape,
    schedule: { ...groupLut.defaultSchedule(shape, machine), ...change },
  };
};

const popcount = (m, bits) => {
  const shape = shapeOf(m, bits, { encoding: 'bit-planes', tables: 'bits' });
  return {
    name: 'popcount',
    kernel: groupPopcount,
    shape,
    schedule: groupPopcount.defaultSchedule(shape, machine),
  };
};

const build = (tables) => {
  const shape = { k: K, activationGroup: GROUP, to: activationsFor(tables), tables };
  return { kernel: lutTables, shape, schedule: lutTables.defaultSchedule(shape, machine) };
};

const extent = ({ kernel, shape }) => {
  if (kernel === lutTables && (shape.tables === 'int8' || shape.tables === 'fast')) return K / GROUP;
  if (kernel === lutTables) return ((shape.to === 'int16' ? 2 : 1) * K) / 64;
  return shape.m / (kernel === groupMatmul ? 16 : 64);
};

const measureAll = (contenders) =>
  measure(
    machine,
    contenders.map((one) => ({ ...one, extent: extent(one) })),
    ROUNDS,
  );

const print = (name, seconds, work, note) => {
  const rate = `${(work / seconds / 1e9).toFixed(1)} G weights/s`;
  const time = `${(seconds * 1e6).toFixed(1)} us`;
  console.log(`  ${name.padEnd(80)}${time.padStart(12)}${rate.padStart(22)}  ${note}`.trimEnd());
};

/** Writes a section of docs/benchmarks.md, where that is asked for. */
function document(section, text) {
  if (!options.docs) return;
  const page = fileURLToPath(new URL('../docs/benchmarks.md', import.meta.url));
  writeFileSync(page, fillSection(readFileSync(page, 'utf8'), section, text));
}

const markdown = ([head, ...rows]) => {
  const line = head.map((_, i) => (i === 0 ? '---' : '---:'));
  return [head, line, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
};

async function printSchedules(sizes, bitsAsked) {
  for (const m of sizes) {
    for (const bits of bitsAsked) {
      const { shape } = lut(m, bits, options.schedules);
      const contenders = groupLut
        .schedules(shape, machine)
        .map((schedule) => lut(m, bits, options.schedules, schedule));
      const seconds = await measureAll(contenders);
      console.log(`${m} x ${K}, ${bits} bits`);
      for (const i of [...seconds.keys()].sort((a, b) => seconds[a] - seconds[b])) {
        const { lanes, rows, columns, sums, prefetchBytes } = contenders[i].schedule;
        const name = JSON.stringify({ lanes, rows, columns, sums, prefetchBytes });
        print(name, seconds[i], m * K, i === 0 ? 'default' : '');
      }
    }
  }
}

/** A table of all families of one size: us and G weights/s for each width, and how time grows with it. */
async function families(m, bitsAsked) {
  const rows = [
    '`mad`',
    '`lut` (the same bits)',
    '`lut-int8`',
    '`lut-fast`',
    '`popcount` (the same bits)',
  ].map((name) => ({ name, cells: [], seconds: [] }));
  for (const bits of bitsAsked) {
    const found = await measureAll([
      mad(m, bits),
      ...['exact', 'int8', 'fast'].map((tables) => lut(m, bits, tables)),
      popcount(m, bits),
    ]);
    for (const [i, seconds] of found.entries()) {
      rows[i].seconds.push(seconds);
      rows[i].cells.push(`${(seconds * 1e6).toFixed(0)}, ${((m * K) / seconds / 1e9).toFixed(0)}`);
    }
  }
  const widths = bitsAsked.map((bits) => `${bits} bit${bits > 1 ? 's' : ''}`);
  const growth = ({ seconds }) => seconds.map((s) => (s / seconds[0]).toFixed(1)).join(' : ');
  return [
    [`${m} x ${K}; us, G weights/s`, ...widths, `as ${bitsAsked.join(' : ')}`],
    ...rows.map((row) => [row.name, ...row.cells, growth(row)]),
  ];
}

const middle = (values, share = 0.5) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * (values.length - 1))];

/** How time grows with the bits, of weights that stay near the processor: every width against the first, round by round. */
async function growthInCache(bitsAsked) {
  const rows = [];
  for (const tables of ['exact', 'int8', 'fast']) {
    const found = await measureBursts(
      machine,
      bitsAsked.map((bits) => lut(FEW_ROWS, bits, tables)),
      BURSTS,
    );
    const cells = found.map((seconds, i) => {
      const growth = seconds.map((s, round) => s / found[0][round]);
      const linear = bitsAsked[i] / bitsAsked[0];
      const [low, ratio, high] = [0.1, 0.5, 0.9].map((share) => middle(growth, share));
      const off = `${(100 * (ratio / linear - 1)).toFixed(0)} %`;
      const grown = `${ratio.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)}), ${off}`;
      return `${(middle(seconds) * 1e6).toFixed(1)}${i === 0 ? '' : `; ${grown}`}`;
    });
    rows.push([{ exact: '`lut`', int8: '`lut-int8`', fast: '`lut-fast`' }[tables], ...cells]);
  }
  const widths = bitsAsked.map((bits) => `${bits} bit${bits > 1 ? 's' : ''}`);
  const head = `${FEW_ROWS} x ${K}; us; times that of ${widths[0]} (10 % to 90 % of rounds), off linear`;
  return markdown([[head, ...widths], ...rows]);
}

async function printFamilies(sizes, bitsAsked) {
  const tables = [];
  if (machine.name.startsWith('c:')) {
    tables.push(await growthInCache(bitsAsked));
    console.log(`${tables.at(-1)}\n`);
  }
  for (const m of sizes) {
    tables.push(markdown(await families(m, bitsAsked)));
    console.log(`${tables.at(-1)}\n`);
  }
  const forms = ['exact', 'int8', 'bits'];
  const builds = forms.map(build);
  const seconds = await measureAll(builds);
  const making = forms.map((form, i) => `${form} ${(seconds[i] * 1e6).toFixed(1)} us`).join(', ');
  const note = `Making tables of ${K} columns for a token: ${making}.`;
  console.log(note);
  const command = `On ${machine.name}, one thread, by \`node bench/tables.mjs --docs\`; the least time of a call of 100, of ${FEW_ROWS} rows medians of ${BURSTS} rounds of many calls:`;
  document('tables', [command, ...tables, note].join('\n\n'));
}

async function printErrors() {
  const table = markdown(await tableErrors(machine, (done) => console.error(done)));
  console.log(table);
  const command = `By \`node bench/tables.mjs --errors --docs\` (the same bits on every target), of 1, 2, 3 and 4 bits:`;
  document('table-errors', `${command}\n\n${table}`);
}

const [sizes, bitsAsked] = [options.m, options.bits].map((list) => list.split(',').map(Number));
if (options.errors) await printErrors();
else {
  console.log(`${machine.name}, one thread, activations ${options.to}\n`);
  if (options.schedules !== undefined) await printSchedules(sizes, bitsAsked);
  else await printFamilies(sizes, bitsAsked);
}
