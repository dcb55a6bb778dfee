/**
 * What each choice of the table kernels gains, one after the other, as T-MAC's breakdown has it: 4096 x 4096 in groups
 * of 128, one token, one thread, the tables of the token included.
 *
 *   npm run build
 *   node bench/ladder.mjs                 c:avx2, or --target NAME
 *   node bench/ladder.mjs --docs          writes its table into docs/benchmarks.md, too
 *
 * The first two rungs are not kernels of lutra: they read bits of weights as they come, row by row.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { groupParams } from '../dist/kernels/group/shape.js';
import { groupLut } from '../dist/kernels/group-lut.js';
import { groupMatmul } from '../dist/kernels/group-matmul.js';
import { lutTables } from '../dist/kernels/lut/tables.js';
import { FunctionBuilder } from '../dist/loops/builder.js';
import * as x from '../dist/loops/expr.js';
import { runnableMachines } from '../dist/targets/c/machines.js';
import { detectCpu } from '../dist/targets/cpu.js';
import { machineNamed } from '../dist/tune/kernels.js';
import { fillSection } from './lib/report.mjs';
import { measure } from './lib/tables.mjs';

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    rounds: { type: 'string' },
    docs: { type: 'boolean', default: false },
  },
});

const [M, K, GROUP] = [4096, 4096, 128];
const BITS = [2, 4];
const rounds = options.rounds === undefined ? undefined : Number(options.rounds);
const machine = machineNamed(options.target ?? runnableMachines(await detectCpu())[0].name);

/**
 * Exact tables by weights [row][bit][column / 8], a bit of 8 columns a byte: `lanes` rows at a time, their bytes loaded
 * one by one; of one row, entries are loaded from memory.
 */
const plain = (lanes) => ({
  build(name, shape) {
    const { bits } = shape;
    const b = new FunctionBuilder(name);
    const tables = b.buffer('tables', 'i8', 'read');
    const { scale, sum, weight, weightScale, out } = groupParams(b, shape);
    const rowBytes = (bits * K) / 8;
    b.thread('block', M / lanes, (block) => {
      const row = b.let('row', x.mul(block, lanes));
      const total = b.var('total', x.float(0, lanes));
      b.for('group', 0, K / GROUP, 1, (group) => {
        const dot = b.var('dot', x.constant(x.vector('i32', lanes), 0));
        b.for('eight', 0, GROUP / 8, 1, (eight) => {
          const at = b.let('at', x.add(x.mul(group, GROUP / 8), eight));
          for (let bit = 0; bit < bits; bit++) {
            const from = x.add(x.mul(row, rowBytes), x.add(at, (bit * K) / 8));
            const gathered = Array.from({ length: lanes }, (_, i) =>
              b.load(weight, x.add(from, i * rowBytes)),
            );
            const bytes = b.let('bytes', x.concat(gathered));
            for (const half of [0, 1]) {
              const index = b.let('index', half === 0 ? x.and(bytes, 15) : x.shift('right', bytes, 4));
              const found = [0, 16].map((kind) => {
                const entries = x.add(x.mul(at, 64), 32 * half + kind);
                if (lanes === 1) return x.cast(b.load(tables, x.add(entries, x.cast(index, 'i32'))), 'i32');
                const table = x.bitcast(b.load(tables, entries, 16), x.vector('u8', 16));
                return x.cast(x.lookup16(table, index), 'i32');
              });
              const entry = x.sub(x.add(found[0], x.shift('left', found[1], 5)), 512);
              b.set(dot, x.add(dot, x.shift('left', entry, bit)));
            }
          }
        });
        const less = x.repeat(x.mul(b.load(sum, group), shape.zero), lanes);
        const product = x.mul(x.cast(x.sub(dot, less), 'f32'), x.repeat(b.load(scale, group), lanes));
        const lane = x.add(x.mul(x.shift('right', row, 4), 16 * (K / GROUP)), x.and(row, 15));
        const weights = x.cast(b.load(weightScale, x.add(lane, x.mul(group, 16)), lanes), 'f32');
        b.set(total, x.add(total, x.mul(product, weights)));
      });
      b.store(out, row, total);
    });
    return b.build();
  },
});

/** Tables of bytes are of activations that fit them. */
const activationsFor = (tables) => (tables === 'int8' || tables === 'fast' ? 'sums' : 'int8');

const shapeOf = (bits, tables) => ({
  ...{ m: M, k: K, bits, group: GROUP, activationGroup: GROUP, zero: 2 ** (bits - 1), zeros: 'none' },
  ...{ scales: 'f16', residual: false, batch: 'one', encoding: 'bit-planes', tables },
  to: activationsFor(tables),
});

const tablesOf = (tables, schedule) => {
  const shape = { k: K, activationGroup: GROUP, to: activationsFor(tables), tables };
  return { kernel: lutTables, shape, schedule, extent: tables === 'exact' ? K / 64 : K / GROUP };
};

const lut = (bits, tables, change) => {
  const shape = shapeOf(bits, tables);
  const schedule = { ...groupLut.defaultSchedule(shape, machine), columns: 32, sums: 'words', ...change };
  return { kernel: groupLut, shape, schedule, extent: M / 64 };
};

const oneByOne = { vector: false, mirror: false };
const small = { lanes: Math.max(16, machine.vectorBytes), rows: Math.max(16, machine.vectorBytes) };

/** Name, then its product and its tables. */
const RUNGS = [
  ['entries in memory, weights row by row', (bits) => ({ ...plainOf(1, bits) }), ['exact', oneByOne]],
  ['tables in registers, 16 rows gathered', (bits) => ({ ...plainOf(16, bits) }), ['exact', oneByOne]],
  [
    'weights permuted and interleaved, a register of rows at a time',
    (bits) => lut(bits, 'exact', small),
    ['exact', oneByOne],
  ],
  ['64 rows by one table (tiles)', (bits) => lut(bits, 'exact', {}), ['exact', oneByOne]],
  ['tables built in registers', (bits) => lut(bits, 'exact', {}), ['exact', { vector: true, mirror: false }]],
  ['tables of 8 bits', (bits) => lut(bits, 'int8', {}), ['int8', { vector: true, mirror: false }]],
  ['half of a table mirrored', (bits) => lut(bits, 'int8', {}), ['int8', { vector: true, mirror: true }]],
  ['averages for sums (fast)', (bits) => lut(bits, 'fast', {}), ['fast', { vector: true, mirror: true }]],
];

function plainOf(lanes, bits) {
  return { kernel: plain(lanes), shape: shapeOf(bits, 'exact'), schedule: {}, extent: M / lanes };
}

const rows = RUNGS.map(([name]) => [name]);
const mad = ['`mad`, for comparison'];
for (const bits of BITS) {
  const shape = { ...shapeOf(bits), encoding: 'code-tiles' };
  const schedule = groupMatmul.defaultSchedule(shape, machine);
  const contenders = [
    ...RUNGS.map(([, product]) => product(bits)),
    { kernel: groupMatmul, shape, schedule, extent: M / 16 },
  ];
  const seconds = await measure(machine, contenders, rounds);
  const builds = RUNGS.map(([, , tables]) => tablesOf(...tables));
  const building = await measure(machine, builds, rounds);
  const micros = (s) => (1e6 * s).toFixed(0);
  for (const [i, row] of rows.entries()) {
    const total = seconds[i] + building[i];
    const gain = i === 0 ? '' : `${((seconds[i - 1] + building[i - 1]) / total).toFixed(2)}x`;
    row.push(micros(total), (1e6 * building[i]).toFixed(1), ((M * K) / total / 1e9).toFixed(1), gain);
  }
  mad.push(micros(seconds.at(-1)), '', ((M * K) / seconds.at(-1) / 1e9).toFixed(1), '');
}
const head = ['', ...BITS.flatMap((bits) => [`W${bits}, us`, 'of it tables', 'G weights/s', 'gain'])];
const table = [head, head.map((_, i) => (i === 0 ? '---' : '---:')), ...rows, mad]
  .map((cells) => `| ${cells.join(' | ')} |`)
  .join('\n');
console.log(`${machine.name}, one thread\n\n${table}`);
if (options.docs) {
  const page = fileURLToPath(new URL('../docs/benchmarks.md', import.meta.url));
  const text = `On ${machine.name}, by \`node bench/ladder.mjs --docs\`:\n\n${table}`;
  writeFileSync(page, fillSection(readFileSync(page, 'utf8'), 'ladder', text));
}
