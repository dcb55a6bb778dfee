/** What tables of bytes cost: normalized mean squared errors of products, of random weights and of trained ones. */
import { openCheckpoint } from '../../dist/checkpoint/open.js';
import { randomUniform } from '../../dist/common/random.js';
import { packBitPlanes } from '../../dist/encodings/bit-planes.js';
import { groupLanesLength, packCodeTiles, packGroupLanes } from '../../dist/encodings/code-tiles.js';
import { groupLut } from '../../dist/kernels/group-lut.js';
import { groupMatmul } from '../../dist/kernels/group-matmul.js';
import { rowStride } from '../../dist/kernels/kernel.js';
import { lutTables, tableBytes } from '../../dist/kernels/lut/tables.js';
import { quantizeGroup } from '../../dist/kernels/quantize-group.js';
import { legalize } from '../../dist/loops/legalize.js';
import { readCodes } from '../../dist/models/group/group.js';
import { toF32 } from '../../dist/models/tensors.js';
import { compileKernels } from '../../dist/tune/kernels.js';

const TRAINED = new URL('../../test/data/tiny-bitnet-bf16', import.meta.url).pathname;

/** Tokens, each with activations of its own. */
const N = 16;

/** Activations that products are of, and in which they are looked up. */
const FROM = ['f32', 'f16', 'int8'];

function normal(seed) {
  const random = randomUniform(seed);
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function randomWeights(rows, cols) {
  const draw = normal(7);
  const bytes = bytesOf(Float32Array.from({ length: rows * cols }, () => draw()));
  const info = { name: 'w', dtype: 'f32', shape: [rows, cols], bytes: bytes.length };
  const read = async () => bytes;
  return { path: 'random', config: {}, textFiles: new Map(), tensors: new Map([['w', info]]), read };
}

/** One bit is a sign: with a zero of its own, hardly a weight is not that. */
const isSymmetric = (bits) => bits === 1;

/** Codes, scales and zeros as `lutra compile --bits` makes them, packed for both families. */
async function packed(checkpoint, tensor, bits, group) {
  const source = { format: 'round', tensor, bits, group, symmetric: isSymmetric(bits) };
  const { rows, cols, codes, scales, zeros } = await readCodes(source, checkpoint);
  const groups = Math.ceil(cols / group);
  const steps = toF32(scales);
  const weight = { kind: 'codes', bits, rows, cols, blocks: [{ rows, codes }] };
  const length = groupLanesLength(rows, groups);
  const value = (row, col) => {
    const at = row * groups + Math.floor(col / group);
    return (codes[row * cols + col] - (zeros?.[at] ?? 0.5)) * steps[at];
  };
  return {
    rows,
    cols,
    values: Float64Array.from({ length: rows * cols }, (_, i) => value(Math.floor(i / cols), i % cols)),
    planes: packBitPlanes(weight),
    tiles: packCodeTiles(weight),
    scales: packGroupLanes(steps, rows, groups, new Float32Array(length)),
    zeros: packGroupLanes(zeros ?? new Uint8Array(rows * groups), rows, groups, new Uint8Array(length)),
  };
}

/** Compiles lists of kernels; runs one, kernel after kernel, on named buffers, which keep what was written. */
async function runner(machine, lists) {
  const all = lists.map((kernels, l) =>
    kernels.map(({ kernel, shape, ...call }, i) => {
      const built = kernel.build(`kernel${l}_${i}`, shape, kernel.defaultSchedule(shape, machine));
      return { ...call, fn: legalize(built, machine) };
    }),
  );
  const compiled = await compileKernels(
    machine.name,
    all.flatMap((calls) => calls.map(({ fn }) => fn)),
  );
  return {
    async run(list, contents) {
      const names = Object.keys(contents);
      const memory = compiled.allocate(names.map((name) => contents[name].byteLength));
      const named = new Map(names.map((name, i) => [name, memory[i]]));
      for (const name of names) named.get(name).set(bytesOf(contents[name]));
      for (const { fn, extent, buffers } of all[list]) {
        const used = fn.buffers.map(({ name }) => named.get(buffers[name] ?? name));
        await compiled.run(fn.name, used, [N], extent);
      }
      return (name, view) => new view(named.get(name).slice().buffer);
    },
    close: () => compiled.close(),
  };
}

/** What is computed of a matrix of this size: kernels, room for what they write, and where results are. */
function computations(m, k, bits, group) {
  const stride = rowStride(k);
  const parts = Math.ceil(k / group);
  const zero = isSymmetric(bits) ? { zero: 0.5, zeros: 'none' } : { zero: 0, zeros: 'u8' };
  const shape = { m, k, bits, group, activationGroup: group, scales: 'f32', ...zero };
  const form = (to, more) => ({ ...shape, to, residual: false, batch: 'one', ...more });
  const [kernels, contents, results] = [[], {}, []];
  const add = (suffix, to, from, forms) => {
    const values = Object.fromEntries(['q', 'scale', 'sum'].map((name) => [name, `${name}.${suffix}`]));
    contents[values.q] = new Int8Array(N * stride);
    contents[values.scale] = new Float32Array(N * rowStride(parts));
    contents[values.sum] = new Int32Array(N * rowStride(parts));
    const rounding = { k, group, to, ordered: false, ...(from && { from }) };
    kernels.push({ kernel: quantizeGroup, shape: rounding, extent: N * parts, buffers: values });
    for (const tables of forms) {
      const name = `out.${suffix}.${tables}`;
      contents[name] = new Float32Array(N * rowStride(m));
      results.push({ suffix, tables, name });
      if (tables === 'mad') {
        const buffers = { ...values, weight: 'tiles', out: name };
        const product = form(to, { encoding: 'code-tiles' });
        kernels.push({ kernel: groupMatmul, shape: product, extent: rowStride(m) / 16, buffers });
        continue;
      }
      const building = { k, activationGroup: group, to, tables };
      const made = { tables: `tables.${name}`, tableBias: `bias.${name}` };
      contents[made.tables] = new Int8Array(N * tableBytes(building));
      contents[made.tableBias] = new Int32Array(N * rowStride(parts));
      const jobs = tables === 'exact' ? stride / 64 : parts;
      kernels.push({ kernel: lutTables, shape: building, extent: N * jobs, buffers: { ...values, ...made } });
      const buffers = { ...values, ...made, weight: 'planes', out: name };
      const product = form(to, { encoding: 'bit-planes', tables });
      kernels.push({ kernel: groupLut, shape: product, extent: rowStride(m) / 64, buffers });
    }
  };
  add('plain', 'int8', undefined, ['mad', 'exact']);
  for (const from of FROM) add(from, 'sums', from, ['int8', 'fast']);
  return { kernels, contents, results };
}

const squares = (values) => values.reduce((sum, x) => sum + x * x, 0);

/** Errors of one matrix: of exact tables, then of `int8` and `fast` ones for every kind of activations. */
async function errorsOf(run, { contents, results }, w, group, seed) {
  const { rows: m, cols: k } = w;
  const stride = rowStride(k);
  const draw = normal(seed);
  const x = new Float32Array(N * stride);
  for (let t = 0; t < N; t++) for (let i = 0; i < k; i++) x[t * stride + i] = draw();
  const given = { x, weightScale: w.scales, zeros: w.zeros, tiles: w.tiles, planes: w.planes };
  const read = await run({ ...contents, ...given });

  /** The products of activations x [N, k], in float64. */
  const products = (values) =>
    Float64Array.from({ length: N * m }, (_, i) => {
      const [t, row] = [Math.floor(i / m), i % m];
      let sum = 0;
      for (let c = 0; c < k; c++) sum += values(t, c) * w.values[row * k + c];
      return sum;
    });
  const outputs = (name) => {
    const out = read(name, Float32Array);
    return Float64Array.from({ length: N * m }, (_, i) => out[Math.floor(i / m) * rowStride(m) + (i % m)]);
  };
  const [q, scale] = [read('q.plain', Int8Array), read('scale.plain', Float32Array)];
  const parts = rowStride(Math.ceil(k / group));
  const integer = (t, c) => q[t * stride + c] * scale[t * parts + Math.floor(c / group)];
  const float = products((t, c) => x[t * stride + c]);
  // Of int8 activations, what is lost beyond these.
  const expected = { plain: outputs('out.plain.mad'), f32: float, f16: float, int8: products(integer) };
  const errors = results
    .filter(({ tables }) => tables !== 'mad')
    .map(({ suffix, tables, name }) => {
      const right = expected[suffix];
      const found = outputs(name);
      return [`${suffix} ${tables}`, squares(found.map((y, i) => y - right[i])) / squares(right)];
    });
  return new Map(errors);
}

const BITS = [1, 2, 3, 4];
const COLUMNS = ['plain exact', ...['int8', 'fast'].flatMap((form) => FROM.map((from) => `${from} ${form}`))];
const text = (nmse) => (nmse === 0 ? '0' : nmse.toExponential(1));

/** The errors of some matrices of one size: for each column of the table the means, of 1 to 4 bits. */
async function sizeErrors(machine, matrices, group) {
  const { checkpoint, tensor } = matrices[0];
  const [m, k] = checkpoint.tensors.get(tensor).shape;
  const all = BITS.map((bits) => computations(m, k, bits, group));
  const { run, close } = await runner(
    machine,
    all.map(({ kernels }) => kernels),
  );
  const cells = COLUMNS.map(() => BITS.map(() => 0));
  for (const [b, bits] of BITS.entries()) {
    for (const [i, matrix] of matrices.entries()) {
      const w = await packed(matrix.checkpoint, matrix.tensor, bits, group);
      const errors = await errorsOf((contents) => run(b, contents), all[b], w, group, 10 * i + bits);
      for (const [c, column] of COLUMNS.entries()) cells[c][b] += errors.get(column) / matrices.length;
    }
  }
  await close();
  return cells;
}

/** Rows of a table, its head first. A cell has the errors of 1, 2, 3 and 4 bits. */
export async function tableErrors(machine, log) {
  const trained = await openCheckpoint(TRAINED);
  const random = { checkpoint: randomWeights(256, 1024), tensor: 'w' };
  const sources = [
    ['normal distribution, 256 x 1024', [random]],
    ...['mlp.down_proj', 'self_attn.q_proj'].map((name) => {
      const layers = [...trained.tensors.keys()].filter((tensor) => tensor.endsWith(`${name}.weight`));
      const matrices = layers.map((tensor) => ({ checkpoint: trained, tensor }));
      return [`trained, \`${name}\`, ${layers.length} layers`, matrices];
    }),
  ];
  const rows = [];
  for (const group of [64, 128]) {
    for (const [name, matrices] of sources) {
      const cells = await sizeErrors(machine, matrices, group);
      log(`${name}, groups of ${group}`);
      const texts = cells.map((errors) => (Math.max(...errors) === 0 ? '0' : errors.map(text).join(', ')));
      rows.push([`${name}, groups of ${group}`, ...texts]);
    }
  }
  await trained.close();
  const titles = COLUMNS.map((column) => {
    const [from, tables] = column.split(' ');
    return from === 'plain' ? '`lut`' : `\`lut-${tables}\`, ${from}`;
  });
  return [['weights', ...titles], ...rows];
}
