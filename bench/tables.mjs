/**
 * Times the table kernels (family `lut`) of lowbit.matmul.group beside family `mad`, at 4096 x 4096 in groups of 128,
 * one token, one thread.
 *
 *   npm run build
 *   node bench/tables.mjs                              from a matrix that stays in the cache, and from memory
 *   node bench/tables.mjs --target wasm:baseline
 *   node bench/tables.mjs --schedules exact            all schedules of `lut`, best first
 *
 * Seconds are those the processor spent, less those of a call that does nothing, the least of several rounds in which
 * contenders take turns.
 */
import { parseArgs } from 'node:util';
import { groupLut } from '../dist/kernels/group-lut.js';
import { groupMatmul } from '../dist/kernels/group-matmul.js';
import { groupPopcount } from '../dist/kernels/group-popcount.js';
import { lutTables } from '../dist/kernels/lut/tables.js';
import { runnableMachines } from '../dist/targets/c/machines.js';
import { detectCpu } from '../dist/targets/cpu.js';
import { machineNamed } from '../dist/tune/kernels.js';
import { measure } from './lib/tables.mjs';

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    schedules: { type: 'string' },
    bits: { type: 'string', default: '1,2,3,4' },
    m: { type: 'string', default: '4096,65536' },
    rounds: { type: 'string', default: '15' },
    to: { type: 'string', default: 'int8' },
  },
});

const K = 4096;
const GROUP = 128;
const ROUNDS = Number(options.rounds);

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

const lut = (m, bits, tables, change = {}) => {
  const shape = shapeOf(m, bits, { encoding: 'bit-planes', tables });
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

const build = (tables, vector) => {
  const shape = { k: K, activationGroup: GROUP, to: options.to, tables };
  return {
    name: `tables ${tables}${vector ? '' : ', one by one'}`,
    kernel: lutTables,
    shape,
    schedule: { ...lutTables.defaultSchedule(shape, machine), vector },
  };
};

const extent = ({ kernel, shape }) => {
  if (kernel === lutTables)
    return shape.tables === 'exact' ? ((shape.to === 'int16' ? 2 : 1) * K) / 64 : K / GROUP;
  return shape.m / (kernel === groupMatmul ? 16 : 64);
};

const measureAll = (contenders) =>
  measure(
    machine,
    contenders.map((one) => ({ ...one, extent: extent(one) })),
    ROUNDS,
  );

const print = (name, seconds, work, note = '') => {
  const rate = work === 0 ? '' : `${(work / seconds / 1e9).toFixed(1)} G weights/s`;
  console.log(
    `  ${name.padEnd(44)}${(seconds * 1e6).toFixed(1).padStart(10)} us${rate.padStart(22)}  ${note}`.trimEnd(),
  );
};

console.log(`${machine.name}, one thread, activations ${options.to}`);
const bitsAsked = options.bits.split(',').map(Number);
if (options.schedules !== undefined) {
  for (const m of options.m.split(',').map(Number)) {
    for (const bits of bitsAsked) {
      const { shape } = lut(m, bits, options.schedules);
      const contenders = groupLut
        .schedules(shape, machine)
        .map((schedule) => lut(m, bits, options.schedules, schedule));
      const seconds = await measureAll(contenders);
      console.log(`${m} x ${K}, ${bits} bits`);
      for (const i of [...seconds.keys()].sort((a, b) => seconds[a] - seconds[b])) {
        const { lanes, rows, columns, sums, prefetchBytes } = contenders[i].schedule;
        print(
          JSON.stringify({ lanes, rows, columns, sums, prefetchBytes }),
          seconds[i],
          m * K,
          i === 0 ? 'default' : '',
        );
      }
    }
  }
} else {
  for (const m of options.m.split(',').map(Number)) {
    for (const bits of bitsAsked) {
      const contenders = [
        mad(m, bits),
        ...['exact', 'int8', 'fast'].map((tables) => lut(m, bits, tables)),
        popcount(m, bits),
      ];
      const seconds = await measureAll(contenders);
      console.log(`${m} x ${K}, ${bits} bit${bits > 1 ? 's' : ''}`);
      for (const [i, { name }] of contenders.entries()) {
        print(name, seconds[i], m * K, i === 0 ? '' : `${(seconds[0] / seconds[i]).toFixed(2)} of mad`);
      }
    }
  }
  const builds = ['exact', 'int8'].flatMap((tables) => [build(tables, false), build(tables, true)]);
  const seconds = await measureAll(builds);
  for (const [i, { name }] of builds.entries()) print(name, seconds[i], 0);
}
