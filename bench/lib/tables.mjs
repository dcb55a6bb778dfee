/** Times kernels of lowbit.matmul.group and their tables, for `bench/tables.mjs` and `bench/ladder.mjs`. */
import { tableBytes } from '../../dist/kernels/lut/tables.js';
import { FunctionBuilder } from '../../dist/loops/builder.js';
import { float, int } from '../../dist/loops/expr.js';
import { kindBytes } from '../../dist/loops/ir.js';
import { legalize } from '../../dist/loops/legalize.js';
import { compileKernels, startTeam } from '../../dist/tune/kernels.js';

/** Of how many calls the least time counts: of so many, some are not disturbed. */
const CALLS = 100;

/** Bytes of each buffer, by name. */
function sizes({ shape }) {
  const planes = shape.to === 'int16' ? 2 : 1;
  const { m = 0, bits = 0, k, group = k } = shape;
  return {
    q: planes * k,
    tables: shape.tables === undefined ? 0 : tableBytes(shape),
    tableBias: 256,
    scale: 256,
    sum: 256,
    weight: (m * k * bits) / 8,
    weightScale: ((m * k) / group) * 2,
    out: m * 4,
  };
}

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
    else if (name === 'tables') values[i] = random() % 32;
    else values[i] = random() % 251;
  }
}

/**
 * Least seconds of a call of each contender, `{kernel, shape, schedule, extent}`, by the clock, in `rounds` rounds in which
 * they take turns, less those of a call that does nothing; all are fed by the same memory.
 */
export async function measure(machine, contenders, rounds = CALLS) {
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
  for (let round = 0; round < rounds; round++) {
    for (const [i, fn] of functions.entries()) {
      const buffers = fn.buffers.map(({ name }) => memory[name]);
      const scalars = fn.scalars.map(() => 1);
      for (const [least, end] of [
        [best, contenders[i].extent],
        [idle, 0],
      ]) {
        const from = performance.now();
        await compiled.run(fn.name, buffers, scalars, end);
        least[i] = Math.min(least[i], (performance.now() - from) / 1000);
      }
    }
  }
  await compiled.close();
  return best.map((seconds, i) => seconds - idle[i]);
}

/** Long enough a burst of calls for the clock, and short enough for a round of all to see one speed of the processor. */
const BURST_SECONDS = 0.003;

/** What calling a kernel costs, and waiting for its end. */
function idleKernel() {
  const b = new FunctionBuilder('idle');
  const out = b.buffer('out', 'f32', 'write');
  b.thread('i', 1, () => b.store(out, int(0), float(1)));
  return b.build();
}

/**
 * Seconds of a call of each contender, `{kernel, shape, schedule}`, in each of `rounds` rounds in which they take turns, many
 * calls at a time from native code, so that what fits a cache stays there; less the least of a kernel that does nothing.
 * Throws `unsupported` for WebAssembly.
 */
export async function measureBursts(machine, contenders, rounds) {
  const functions = [
    ...contenders.map(({ kernel, shape, schedule }, i) => kernel.build(`kernel${i}`, shape, schedule)),
    idleKernel(),
  ].map((fn) => legalize(fn, machine));
  const all = [...contenders.map(sizes), {}];
  const kernels = functions.map((fn, i) => ({
    fn,
    scalars: fn.scalars.map(() => 1),
    buffers: fn.buffers.map(({ name }) => ({ bytes: Math.max(all[i][name] ?? 0, 64), copies: 1 })),
  }));
  const team = await startTeam(
    machine.name,
    kernels.map((kernel) => [kernel]),
    1,
    (contender, _kernel, buffer, memory) => {
      const { elem, name } = functions[contender].buffers[buffer];
      fill(memory, elem, name);
    },
  );
  const found = [];
  for (let round = 0; round < rounds; round++) {
    const seconds = [];
    for (const i of kernels.keys()) seconds.push(await team.secondsOfCall(i, BURST_SECONDS));
    found.push(seconds);
  }
  await team.close();
  const idle = Math.min(...found.map((seconds) => seconds.at(-1)));
  return contenders.map((_, i) => found.map((seconds) => seconds[i] - idle));
}
