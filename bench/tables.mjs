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
import { lutTables, tableBytes } from '../dist/kernels/lut/tables.js';
import { kindBytes } from '../dist/loops/ir.js';
import { legalize } from '../dist/loops/legalize.js';
import { runnableMachines } from '../dist/targets/c/machines.js';
import { detectCpu } from '../dist/targets/cpu.js';
import { compileKernels, machineNamed } from '../dist/tune/kernels.js';

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
const SHORTEST = 0.008;

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

const build = (tables, vector) => {
  const shape = { k: K, activationGroup: GROUP, to: options.to, tables };
  return {
    name: `tables ${tables}${vector ? '' : ', one by one'}`,
    kernel: lutTables,
    shape,
    schedule: { vector },
  };
};

/** Bytes of each buffer, by name. */
function sizes({ shape }) {
  const planes = shape.to === 'int16' ? 2 : 1;
  const { m = 0, bits = 0 } = shape;
  return {
    q: planes * K,
    tables: shape.tables === undefined ? 0 : tableBytes(shape),
    tableScale: 256,
    scale: 256,
    sum: 256,
    weight: (m * K * bits) / 8,
    weightScale: ((m * K) / GROUP) * 2,
    out: m * 4,
  };
}

const extent = ({ kernel, shape }) => {
  if (kernel === lutTables)
    return shape.tables === 'exact' ? ((shape.to === 'int16' ? 2 : 1) * K) / 64 : K / GROUP;
  return shape.m / (kernel === groupLut ? 64 : 16);
};

function fill(bytes, elem, name) {
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
  const view = { f32: Float32Array, f16: Uint16Array, i32: Int32Array }[elem] ?? Uint8Array;
  const values = new view(bytes.buffer, bytes.byteOffset, bytes.length / kindBytes(elem));
  for (let i = 0; i < values.length; i++) {
    if (elem === 'f32') values[i] = random() / 2 ** 23 - 1;
    else if (elem === 'f16') values[i] = 0x3800 + (random() % 512);
    else values[i] = name === 'tables' ? random() % 32 : random() % 251;
  }
}

const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

/** Least seconds of each contender; all are fed by the same memory. */
async function measure(contenders) {
  const functions = contenders.map(({ kernel, shape, schedule }, i) =>
    legalize(kernel.build(`kernel${i}`, shape, schedule), machine),
  );
  const compiled = await compileKernels(machine.name, functions);
  const all = contenders.map(sizes);
  const names = Object.keys(all[0]);
  const most = names.map((name) => Math.max(...all.map((s) => s[name]), 64));
  const memory = Object.fromEntries(compiled.allocate(most).map((bytes, i) => [names[i], bytes]));
  for (const fn of functions) {
    for (const { name, elem } of fn.buffers) fill(memory[name], elem, name);
  }
  const best = contenders.map(() => Number.POSITIVE_INFINITY);
  const idle = contenders.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, fn] of functions.entries()) {
      const buffers = fn.buffers.map(({ name }) => memory[name]);
      const scalars = fn.scalars.map(() => 1);
      for (const [least, end] of [
        [best, extent(contenders[i])],
        [idle, 0],
      ]) {
        const from = cpuSeconds();
        let calls = 0;
        let spent = 0;
        while (spent < SHORTEST) {
          await compiled.run(fn.name, buffers, scalars, end);
          calls++;
          spent = cpuSeconds() - from;
        }
        least[i] = Math.min(least[i], spent / calls);
      }
    }
  }
  await compiled.close();
  return best.map((seconds, i) => seconds - idle[i]);
}

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
      const seconds = await measure(contenders);
      console.log(`${m} x ${K}, ${bits} bits`);
      for (const i of [...seconds.keys()].sort((a, b) => seconds[a] - seconds[b])) {
        const { lanes, rows, prefetchBytes } = contenders[i].schedule;
        print(JSON.stringify({ lanes, rows, prefetchBytes }), seconds[i], m * K, i === 0 ? 'default' : '');
      }
    }
  }
} else {
  for (const m of options.m.split(',').map(Number)) {
    for (const bits of bitsAsked) {
      const contenders = [mad(m, bits), ...['exact', 'int8', 'fast'].map((tables) => lut(m, bits, tables))];
      const seconds = await measure(contenders);
      console.log(`${m} x ${K}, ${bits} bit${bits > 1 ? 's' : ''}`);
      for (const [i, { name }] of contenders.entries()) {
        print(name, seconds[i], m * K, i === 0 ? '' : `${(seconds[0] / seconds[i]).toFixed(2)} of mad`);
      }
    }
  }
  const builds = ['exact', 'int8'].flatMap((tables) => [build(tables, false), build(tables, true)]);
  const seconds = await measure(builds);
  for (const [i, { name }] of builds.entries()) print(name, seconds[i], 0);
}
