/**
 * Times kernels alone, at the shapes of BitNet-b1.58-2B-4T, on one thread.
 *
 *   npm run build
 *   node bench/kernels.mjs                          the default schedule of every kernel, natively
 *   node bench/kernels.mjs --target wasm:relaxed    ... in this engine
 *   node bench/kernels.mjs --op lowbit.matmul --schedules      all schedules of an operator, best first
 *
 * Seconds are those the processor spent, the best of several rounds, so that other programs disturb little;
 * schedules take turns within a round, so that their ratios hold on a machine that is not quiet. Matrices for one
 * token are the model's in width but have more rows, so that they come from memory as a model's do.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import v8 from 'node:v8';
import { PART_TOKENS, partsSize } from '../dist/kernels/attention/parts.js';
import { CHUNK } from '../dist/kernels/attention/shape.js';
import { cacheParts } from '../dist/kernels/cache.js';
import { rowTables } from '../dist/kernels/lowbit-lut.js';
import { tableBytes } from '../dist/kernels/lut/tables.js';
import { KERNELS } from '../dist/kernels/registry.js';
import { kindBytes, MAIN_BUFFERS, MAIN_SCALARS } from '../dist/loops/ir.js';
import { legalize } from '../dist/loops/legalize.js';
import { nodePlatform } from '../dist/platform/node.js';
import { compileC, findCompiler } from '../dist/targets/c/compile.js';
import { emitC } from '../dist/targets/c/emit.js';
import { loadNative } from '../dist/targets/c/executable.js';
import { findMachine, runnableMachines } from '../dist/targets/c/machines.js';
import { detectCpu } from '../dist/targets/cpu.js';
import { emitWasm } from '../dist/targets/wasm/emit.js';
import { WASM_MACHINES } from '../dist/targets/wasm/machines.js';

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    op: { type: 'string' },
    schedules: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '9' },
  },
});

const ROUNDS = Number(options.rounds);
/** Seconds a measurement takes at least. */
const SHORTEST = 0.05;
/** Of bitnet-2b-4t, whose heads of keys and values four others share, and of Llama-2-7B, where each has its own. */
const SHARED = { heads: 20, kvHeads: 5, headDim: 128, context: 2048 };
const OWN = { heads: 32, kvHeads: 32, headDim: 128, context: 2048 };

/** As steps do it: chunks of few tokens are left to be merged. */
const isApart = (n, pos) => n <= PART_TOKENS && pos + n > CHUNK;

const attention = (n, pos, cacheElem = 'f32', heads = SHARED) => ({
  op: n === 1 ? 'attention.parts' : 'attention',
  label: `${n} token${n > 1 ? 's' : ''} at ${pos}, ${cacheElem}, ${heads.heads} heads of ${heads.kvHeads}`,
  shape: { ...heads, cacheElem },
  scalars: n === 1 ? [pos] : [n, pos, Number(isApart(n, pos))],
  rows: n,
  work: (n * (pos + n / 2) * heads.heads * heads.headDim * 4) / 1e9,
  unit: 'GFLOP/s',
});

/** Encoded as `bit-planes`, weights are looked up; what makes the tables is a kernel of its own. */
function lowbit(m, k, n, encoding = 'i2') {
  const shape = { m, k, residual: false, batch: n === 1 ? 'one' : 'many', encoding };
  const family = encoding === 'bit-planes' ? 'lut' : 'mad';
  const label = `${m} x ${k} ${family}, ${n} token${n > 1 ? 's' : ''}`;
  const kernel = { op: 'lowbit.matmul', family, label, shape };
  return n === 1
    ? { ...kernel, scalars: [1], rows: 1, work: (m * k) / 1e9, unit: 'G weights/s' }
    : {
        ...kernel,
        scalars: [n],
        rows: n,
        work: (2 * m * k * n) / 1e9,
        unit: 'GOP/s',
      };
}

/** Weights in groups of 128 columns, with scales in f16. */
function grouped(m, k, bits, to, n) {
  const batch = n === 1 ? 'one' : 'many';
  const groups = { group: 128, activationGroup: 128, zero: 2 ** (bits - 1), zeros: 'none', scales: 'f16' };
  const shape = { m, k, bits, ...groups, to, residual: false, batch, encoding: 'code-tiles' };
  const weightBytes = (m * k * bits) / 8 + (m * k * 2) / 128;
  return {
    op: 'lowbit.matmul.group',
    label: `${m} x ${k} u${bits} ${to}, ${n}`,
    shape,
    scalars: [n],
    rows: n,
    ...(n === 1 ? { work: weightBytes / 1e9, unit: 'GB/s' } : { work: (2 * m * k * n) / 1e9, unit: 'GOP/s' }),
  };
}

/** Llama.cpp's K-quants, by the bits of their codes. */
const K_QUANTS = {
  2: { bits: 2, group: 16, scaleCodes: 'u4', zeroCodes: 'u4', zero: 0 },
  4: { bits: 4, group: 32, scaleCodes: 'u8', zeroCodes: 'u8', zero: 0 },
  6: { bits: 6, group: 16, scaleCodes: 'i8', zeroCodes: 'none', zero: 32 },
};

/** Bytes of scales and minima of groups and of blocks. */
function blockBytes({ m, k, group, block, scaleCodes, zeroCodes }) {
  const ofGroups = (m * k) / group / (scaleCodes === 'u4' ? 2 : 1);
  const ofBlocks = (2 * m * k) / block;
  return zeroCodes === 'none' ? [ofBlocks, ofGroups] : [ofBlocks, ofGroups, ofBlocks, ofGroups];
}

function blocked(m, k, bits, to, n) {
  const batch = n === 1 ? 'one' : 'many';
  const shape = { m, k, ...K_QUANTS[bits], block: 256, to, residual: false, batch, encoding: 'code-tiles' };
  const weightBytes = (m * k * bits) / 8 + blockBytes(shape).reduce((a, b) => a + b);
  return {
    op: 'lowbit.matmul.blocks',
    label: `${m} x ${k} Q${bits}_K ${to}, ${n}`,
    shape,
    scalars: [n],
    rows: n,
    ...(n === 1 ? { work: weightBytes / 1e9, unit: 'GB/s' } : { work: (2 * m * k * n) / 1e9, unit: 'GOP/s' }),
  };
}

/** Rows of an output head by `n` tokens: from memory for one, arithmetic for many. */
const head = (shape, n, weightBytes) => ({
  op: 'matmul',
  shape,
  scalars: [n],
  rows: n,
  ...(n === 1
    ? { work: weightBytes / 1e9, unit: 'GB/s' }
    : { work: (2 * shape.m * shape.k * n) / 1e9, unit: 'GOP/s' }),
});

const storedHead = (m, elem, n) => ({
  ...head({ m, k: 2560, elem }, n, m * 2560 * kindBytes(elem)),
  family: elem === 'i8' ? 'int8' : 'default',
  label: `${m} x 2560 ${elem}, ${n}`,
});

/** `bounds`: the table that an exact head scans. */
const groupedHead = (m, bits, group, bounds, n) => ({
  ...head({ m, k: 2560, bits, group, planes: bounds ? 2 : 1, bounds }, n, m * (320 * bits + 5120 / group)),
  family: 'grouped',
  label: `${m} x 2560 int${bits}${bounds ? ' scan' : ''}, ${n}`,
});

const rowWise = (op, shape) => ({
  op,
  label: `${shape.k} x 64`,
  shape,
  scalars: [64],
  rows: 64,
  work: (64 * shape.k) / 1e9,
  unit: 'G elements/s',
});

const CASES = [
  ...['i2', 'bit-planes'].flatMap((encoding) => [
    lowbit(131072, 2560, 1, encoding),
    lowbit(49152, 6912, 1, encoding),
  ]),
  lowbit(2560, 2560, 64),
  lowbit(2560, 6912, 64),
  ...[2, 4, 8, 16].map((n) => lowbit(65536, 2560, n)),
  ...[1, 2, 3, 4, 8].flatMap((bits) => [
    grouped(65536, 4096, bits, 'int8', 1),
    grouped(65536, 4096, bits, 'int16', 1),
    grouped(4096, 4096, bits, 'int8', 64),
    grouped(4096, 4096, bits, 'int16', 64),
  ]),
  ...[2, 4, 6].flatMap((bits) => [
    blocked(65536, 4096, bits, 'int8', 1),
    blocked(65536, 4096, bits, 'int16', 1),
    blocked(4096, 4096, bits, 'int8', 64),
    blocked(4096, 4096, bits, 'int16', 64),
  ]),
  ...[1, 4, 16].flatMap((n) => [
    storedHead(16384, 'bf16', n),
    storedHead(16384, 'f16', n),
    storedHead(32768, 'i8', n),
    groupedHead(32768, 6, 64, false, n),
    groupedHead(32768, 4, 32, false, n),
    groupedHead(32768, 6, 64, true, n),
  ]),
  ...[SHARED, OWN].flatMap((heads) =>
    ['f32', 'f16', 'i8'].map((cacheElem) => attention(1, 1900, cacheElem, heads)),
  ),
  attention(64, 0),
  attention(32, 1900),
  rowWise('rmsNorm.quantize', { k: 2560, eps: 1e-5 }),
  rowWise('gate.packed', { k: 6912, act: 'relu2' }),
];

/** Bytes of each buffer. */
function bufferBytes({ op, family, shape, rows }) {
  const pad = (width) => Math.ceil(width / 64) * 64;
  const { m, k } = shape;
  switch (op) {
    case 'lowbit.matmul':
      if (family === 'lut') return [rows * tableBytes(rowTables(k)), ...bufferBytes({ op, shape, rows })];
      return [rows * pad(k), rows * 4, rows * 4, (pad(m) * pad(k)) / 4, pad(m) * 4, rows * pad(m) * 4];
    case 'lowbit.matmul.group': {
      const planes = shape.to === 'int16' ? 2 : 1;
      const groups = k / shape.group;
      const q = [planes * rows * pad(k), rows * pad(groups) * 4, rows * pad(groups) * 4];
      return [...q, (m * k * shape.bits) / 8, m * groups * 2, rows * pad(m) * 4];
    }
    case 'lowbit.matmul.blocks': {
      const planes = shape.to === 'int16' ? 2 : 1;
      const q = [planes * rows * k, rows * pad(k / shape.block) * 4, rows * pad(k / shape.group) * 4];
      return [...q, (m * k * shape.bits) / 8, ...blockBytes(shape), rows * pad(m) * 4];
    }
    case 'matmul': {
      if (shape.bits !== undefined) {
        const groups = k / shape.group;
        const table = m * groups * ((shape.group * shape.bits) / 8 + 2);
        const parts = rows * pad(groups) * 4;
        const norms = shape.bounds ? [rows * pad(2) * 4] : [];
        const rowNorms = shape.bounds ? [2 * pad(m) * 4] : [];
        const out = rows * pad(m) * 4;
        const outs = shape.bounds ? [out, out] : [out];
        return [shape.planes * rows * pad(k), parts, parts, ...norms, table, ...rowNorms, ...outs];
      }
      const table = m * pad(k) * kindBytes(shape.elem);
      const out = rows * pad(m) * 4;
      if (shape.elem === 'i8') return [rows * pad(k) * 2, rows * 4, table, pad(m) * 4, out];
      return [rows * pad(k) * 4, table, out];
    }
    case 'attention':
    case 'attention.parts': {
      const cache = cacheParts(shape).map(([, bytes]) => bytes);
      const width = pad(shape.heads * shape.headDim) * 4;
      const parts = PART_TOKENS * partsSize(shape) * 4;
      return [rows * width, ...cache, parts, ...(op === 'attention' ? [rows * width] : [])];
    }
    case 'rmsNorm.quantize':
      return [rows * pad(k) * 4, pad(k) * 4, rows * pad(k), rows * 4, rows * 4];
    case 'gate.packed':
      return [rows * pad(2 * k) * 4, rows * pad(k) * 4];
    default:
      throw new Error(`bench: no buffers for ${op}`);
  }
}

/** Plausible contents: codes 0 to 2, floats of order 1; no subnormals, which are slow. */
function fill(bytes, elem, codes) {
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
  if (codes) {
    for (let i = 0; i < bytes.length; i++) {
      const r = random();
      bytes[i] = (r % 3) | (((r >> 4) % 3) << 2) | (((r >> 9) % 3) << 4) | (((r >> 14) % 3) << 6);
    }
  } else if (elem === 'f32') {
    const floats = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (let i = 0; i < floats.length; i++) floats[i] = random() / 2 ** 23 - 1;
  } else if (elem === 'f16') {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    for (let i = 0; i < halves.length; i++) halves[i] = 0x3800 + (random() % 512);
  } else if (elem === 'bf16') {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    for (let i = 0; i < halves.length; i++) halves[i] = 0x3c00 + (random() % 512);
  } else {
    for (let i = 0; i < bytes.length; i++) bytes[i] = random() % 251;
  }
}

const program = (functions) => ({
  functions,
  main: { name: 'main', buffers: MAIN_BUFFERS, scalars: MAIN_SCALARS, locals: [], body: [] },
});

const NEEDS = { arenaBytes: 0, cacheBytes: 0, vocab: 1, logitsStride: 16 };

/** { memory(bytes), run(kernel, buffers, scalars, end) } of a C variant. */
async function nativeRunner(machine, functions) {
  const folder = mkdtempSync(join(tmpdir(), 'lutra-bench-'));
  const source = join(folder, 'kernels.c');
  const library = join(folder, 'kernels.so');
  const scalar = { machine: findMachine('c:scalar'), program: program([]) };
  const variants = machine.isa === 'scalar' ? [] : [scalar];
  const info = { name: 'bench', needs: NEEDS, weightsBytes: 0 };
  writeFileSync(source, emitC([{ machine, program: program(functions) }, ...variants], info));
  await compileC({ compiler: await findCompiler(), source, output: library });
  const executable = await loadNative({ library, machine: machine.name, needs: NEEDS, threads: 1 });
  rmSync(folder, { recursive: true });
  return {
    memory: (bytes) => new Uint8Array(new ArrayBuffer(bytes)),
    run: (kernel, buffers, scalars, end) =>
      executable.callKernel({ kernel, buffers, scalars, begin: 0, end }),
  };
}

/** The same of a WebAssembly machine, on this thread. */
function wasmRunner(machine, functions) {
  // Besides relaxed SIMD in Node 20, the optimizing compiler at once.
  nodePlatform.unlockEngine();
  v8.setFlagsFromString('--no-liftoff');
  const memory = new WebAssembly.Memory({ initial: 6000, maximum: 65536 });
  const module = new WebAssembly.Module(emitWasm(program(functions), machine, { shared: false }));
  const { exports } = new WebAssembly.Instance(module, { env: { memory, scratch: 1 << 20 } });
  const start = 32 << 20;
  let next = start;
  return {
    memory(bytes) {
      const at = next;
      next += Math.ceil(bytes / 64) * 64;
      if (next > memory.buffer.byteLength) throw new Error('bench: too little memory');
      return new Uint8Array(memory.buffer, at, bytes);
    },
    reset: () => {
      next = start;
    },
    run: (kernel, buffers, scalars, end) =>
      exports[kernel](...buffers.map((b) => b.byteOffset), ...scalars, 0, end),
  };
}

/** Iterations of the thread loop. */
function extent(c, schedule) {
  const { m } = c.shape;
  const n = c.rows;
  switch (c.op) {
    case 'lowbit.matmul':
    case 'lowbit.matmul.group':
    case 'lowbit.matmul.blocks':
      if (c.shape.batch === 'many' && schedule.multiply !== 'scalar') return m / schedule.rowBlock;
      return m / (c.family === 'lut' ? 64 : 16);
    case 'matmul':
      return c.shape.bits === undefined ? m / 64 : m / 16;
    case 'attention':
      return (
        c.shape.kvHeads *
        Math.ceil(n / schedule.tokens) *
        (c.scalars[2] === 1 ? Math.ceil((c.scalars[1] + n) / CHUNK) : 1)
      );
    case 'attention.parts':
      return c.shape.kvHeads * Math.ceil((c.scalars[0] + 1) / CHUNK);
    case 'gate.packed':
      return n * Math.ceil(c.shape.k / 512);
    default:
      return n;
  }
}

const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

/** The least seconds a call took, of each schedule. */
async function measure(runner, c, entries) {
  const { buffers: params } = entries[0].fn;
  runner.reset?.();
  const buffers = bufferBytes(c).map((bytes, i) => {
    const memory = runner.memory(bytes);
    if (params[i].access === 'read') fill(memory, params[i].elem, params[i].name === 'weight');
    return memory;
  });
  const best = entries.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, { fn, schedule }] of entries.entries()) {
      const end = extent(c, schedule);
      let calls = 0;
      const from = cpuSeconds();
      let spent = 0;
      while (spent < SHORTEST) {
        await runner.run(fn.name, buffers, c.scalars, end);
        calls++;
        spent = cpuSeconds() - from;
      }
      best[i] = Math.min(best[i], spent / calls);
    }
  }
  return best;
}

const machine =
  WASM_MACHINES.find((m) => m.name === options.target) ??
  (options.target === undefined ? runnableMachines(await detectCpu())[0] : findMachine(options.target));
if (machine === undefined) throw new Error(`no target is called ${options.target}`);
console.log(`${machine.name}, one thread`);
for (const c of CASES.filter(({ op }) => options.op === undefined || op === options.op)) {
  const kernel = KERNELS.find(({ op, family }) => op === c.op && (c.family ?? family) === family);
  const chosen = kernel.defaultSchedule(c.shape, machine);
  const schedules = options.schedules ? kernel.schedules(c.shape, machine) : [chosen];
  const entries = schedules.map((schedule, i) => ({
    schedule,
    fn: legalize(kernel.build(`kernel${i}`, c.shape, schedule), machine),
  }));
  const functions = entries.map(({ fn }) => fn);
  const runner = machine.name.startsWith('wasm')
    ? wasmRunner(machine, functions)
    : await nativeRunner(machine, functions);
  const seconds = await measure(runner, c, entries);
  const order = [...seconds.keys()].sort((a, b) => seconds[a] - seconds[b]);
  for (const i of order) {
    const rate = `${(c.work / seconds[i]).toFixed(1)} ${c.unit}`;
    const time = `${(seconds[i] * 1e6).toFixed(0)} us`;
    const note = options.schedules
      ? `${(seconds[0] / seconds[i]).toFixed(2)} of the default  ${JSON.stringify(entries[i].schedule)}`
      : '';
    console.log(
      `${c.op.padEnd(18)}${c.label.padEnd(26)}${time.padStart(10)}${rate.padStart(20)}  ${note}`.trimEnd(),
    );
  }
}
