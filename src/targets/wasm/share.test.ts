import { expect, test } from 'vitest';
import { type BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, int } from '../../loops/expr.ts';
import { MAIN_BUFFERS, MAIN_SCALARS } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import { emitWasm } from './emit.ts';
import { engine } from './engine.ts';
import { BUFFERS_AT } from './layout.ts';
import { WASM_MACHINES } from './machines.ts';

const machine = WASM_MACHINES.find(({ name }) => name === 'wasm:baseline')!;
const ARENA_AT = BUFFERS_AT + 4096;
const SIZE = 100;

/** A main that counts up every element of the arena, `calls` times without a barrier; and the arena. */
function counting(calls: number) {
  const count = new FunctionBuilder('count');
  const arena = count.buffer('arena', 'i32', 'readwrite');
  const size = count.scalar('size');
  count.thread('i', size, (i) => count.store(arena, i, add(count.load(arena, i), 1)));
  const m = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => m.buffer(name, elem, access));
  const [n] = MAIN_SCALARS.map(({ name, kind }) => m.scalar(name, kind));
  const place = { buffer: buffers[1] as BufferRef, offset: int(0) };
  for (let i = 0; i < calls; i++) m.call('count', [place], [n!]);
  const [kernel, main] = [count.build(), m.build()].map((fn) => legalize(fn, machine));
  const program = { functions: [kernel!], main: main! };
  const memory = new engine.Memory({ initial: 20, maximum: 65536, shared: true });
  const module = new engine.Module(emitWasm(program, machine, { shared: true }));
  const { exports } = new engine.Instance(module, {
    env: { memory, scratch: BUFFERS_AT, mark: () => undefined },
  });
  const run = (n: number, tid: number, threads: number) =>
    exports.main!(BUFFERS_AT, ARENA_AT, ...new Array<number>(5).fill(BUFFERS_AT), n, 1, tid, threads);
  return { run, counts: new Int32Array(memory.buffer, ARENA_AT, SIZE) };
}

const all = (value: number, n = SIZE) => [...Array(SIZE).keys()].map((i) => (i < n ? value : 0));

test('whoever comes first does the work of those who do not come, and nothing is done twice', () => {
  const { run, counts } = counting(3);
  for (const [step, order] of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
  ].entries()) {
    run(SIZE, order[0]!, 3);
    expect([...counts]).toEqual(all(3 * (step + 1)));
    for (const tid of order.slice(1)) run(SIZE, tid, 3);
    expect([...counts]).toEqual(all(3 * (step + 1)));
  }
});

test('shares of any number of iterations and threads are whole', () => {
  for (const threads of [1, 2, 5, 64]) {
    for (const n of [0, 1, 2, 7, 63, 64, 99]) {
      const { run, counts } = counting(2);
      for (let tid = threads - 1; tid >= 0; tid--) run(n, tid, threads);
      expect([...counts], `${n} by ${threads}`).toEqual(all(2, n));
    }
  }
});
