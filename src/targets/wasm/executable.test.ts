import { open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { randomUniform } from '../../common/random.ts';
import { type BufferRef, FunctionBuilder } from '../../loops/builder.ts';
import { add, bitcast, cast, div, float, int, mul, rem, sub, vector } from '../../loops/expr.ts';
import { runFunction, runProgram } from '../../loops/interpret.ts';
import { type Expr, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { legalize } from '../../loops/legalize.ts';
import { nodePlatform } from '../../platform/node.ts';
import type { Platform } from '../../platform/platform.ts';
import type { Executable, MemoryNeeds } from '../executable.ts';
import { emitWasm } from './emit.ts';
import { createWasmExecutable, type WasmExecutableOptions } from './executable.ts';
import { WASM_MACHINES } from './machines.ts';

const machine = WASM_MACHINES.find(({ name }) => name === 'wasm:baseline')!;
const unshared: Platform = { ...nodePlatform, sharedMemory: false };

/** Floats of the vector that a step works on; not a multiple of the number of threads. */
const SIZE = 250;
const VOCAB = 7;
const STRIDE = 16;
const ROUNDS = 5;

const needs: MemoryNeeds = { arenaBytes: 4096, cacheBytes: 4096, vocab: VOCAB, logitsStride: STRIDE };

function mainBuilder() {
  const m = new FunctionBuilder('main');
  const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => m.buffer(name, elem, access));
  const scalars = MAIN_SCALARS.map(({ name, kind }) => m.scalar(name, kind));
  const [weights, arena, cache, tokens, sequences, outputs, logits] = buffers as [
    BufferRef,
    BufferRef,
    BufferRef,
    BufferRef,
    BufferRef,
    BufferRef,
    BufferRef,
  ];
  const n = scalars[0]!;
  // Of the only sequence.
  const [pos, line] = [2, 3].map((i) => m.load(sequences, i)) as [Expr, Expr];
  const rows = m.load(outputs, n);
  return { m, weights, arena, cache: { buffer: cache, offset: line }, tokens, logits, n, pos, rows };
}

/**
 * A little of everything a model does: weights and tokens go into the arena, the arena is mixed again and
 * again so that every thread needs what the others have just written, the cache remembers the sum of all
 * steps, and logits come out. Two halves of the arena take turns, with a barrier between.
 */
function mixingProgram(): Program {
  const start = new FunctionBuilder('start');
  {
    const weights = start.buffer('weights', 'f32', 'read');
    const tokens = start.buffer('tokens', 'i32', 'read');
    const out = start.buffer('out', 'f32', 'write');
    const n = start.scalar('n');
    const pos = start.scalar('pos');
    start.thread('i', SIZE, (i) => {
      const token = start.load(tokens, rem(i, n));
      start.store(out, i, mul(start.load(weights, i), cast(add(token, pos), 'f32')));
    });
  }
  const mix = new FunctionBuilder('mix');
  {
    const from = mix.buffer('from', 'f32', 'read');
    const to = mix.buffer('to', 'f32', 'write');
    const size = mix.scalar('size');
    const factor = mix.scalar('factor', 'f32');
    const copy = mix.local('copy', 'f32', 3);
    const last = mix.let('last', sub(size, 1));
    mix.thread('i', add(last, 1), (i) => {
      mix.store(copy, 0, mix.load(from, sub(last, i)));
      mix.store(copy, 1, mul(mix.load(from, i), factor));
      mix.store(copy, 2, add(mix.load(copy, 0), mix.load(copy, 1)));
      mix.store(to, i, mul(mix.load(copy, 2), float(0.5)));
    });
  }
  const finish = new FunctionBuilder('finish');
  {
    const from = finish.buffer('from', 'f32', 'read');
    const cache = finish.buffer('cache', 'f32', 'readwrite');
    const logits = finish.buffer('logits', 'f32', 'write');
    const rows = finish.scalar('rows');
    finish.thread('v', VOCAB, (v) => {
      finish.store(cache, v, add(finish.load(cache, v), finish.load(from, v)));
      finish.for('row', 0, rows, 1, (row) =>
        finish.store(logits, add(mul(row, STRIDE), v), add(finish.load(cache, v), cast(row, 'f32'))),
      );
    });
  }

  const { m, weights, arena, cache, tokens, logits, n, pos, rows } = mainBuilder();
  const halves = [0, 16].map((offset) => ({ buffer: arena, offset: int(offset) }));
  const whole = (buffer: typeof arena) => ({ buffer, offset: 0 });
  m.call('start', [whole(weights), whole(tokens), halves[0]!], [n, pos]);
  m.barrier();
  m.for('round', 0, ROUNDS, 1, (round) => {
    // 16 lines of 64 bytes to the other half, and back.
    const odd = m.let('odd', mul(rem(round, int(2)), 16));
    const [from, to] = [odd, sub(int(16), odd)].map((offset) => ({ buffer: arena, offset }));
    m.call('mix', [from!, to!], [int(SIZE), float(0.75)]);
    m.barrier();
  });
  m.call('finish', [halves[ROUNDS % 2]!, cache, whole(logits)], [rows]);
  m.barrier();
  return { functions: [start.build(), mix.build(), finish.build()], main: m.build() };
}

/** Logits are the row that each token has in the weights, from their second line on. */
function lookupProgram(): Program {
  const take = new FunctionBuilder('take');
  const tokens = take.buffer('tokens', 'i32', 'read');
  const table = take.buffer('table', 'f32', 'read');
  const out = take.buffer('out', 'f32', 'write');
  const n = take.scalar('n');
  take.thread('row', n, (row) => {
    const from = take.let('from', mul(take.load(tokens, row), STRIDE));
    take.for('v', 0, VOCAB, 1, (v) =>
      take.store(out, add(mul(row, STRIDE), v), take.load(table, add(from, v))),
    );
  });
  const main = mainBuilder();
  const places = [
    { buffer: main.tokens, offset: 0 },
    { buffer: main.weights, offset: 1 },
    { buffer: main.logits, offset: 0 },
  ];
  main.m.call('take', places, [main.n]);
  main.m.barrier();
  return { functions: [take.build()], main: main.m.build() };
}

function compile(program: Program): Uint8Array {
  const functions = program.functions.map((fn) => legalize(fn, machine));
  return emitWasm({ functions, main: legalize(program.main, machine) }, machine, { shared: true });
}

const random = randomUniform(5);
const weightBytes = new Uint8Array(Float32Array.from({ length: SIZE }, () => random() * 2 - 1).buffer);

const loaded: Executable[] = [];
afterEach(async () => {
  await Promise.all(loaded.splice(0).map((executable) => executable.close()));
});

async function load(
  program: Program,
  threads: number,
  options: Partial<WasmExecutableOptions> = {},
): Promise<Executable> {
  const platform = options.platform ?? nodePlatform;
  const executable = await createWasmExecutable({
    module: compile(program),
    target: machine.name,
    needs,
    weights: {
      bytes: weightBytes.length,
      read: async (offset, into) => into.set(weightBytes.subarray(offset, offset + into.length)),
    },
    threads,
    platform,
    ...options,
  });
  loaded.push(executable);
  return executable;
}

const teams: [string, number, Platform][] = [
  ['1 thread', 1, nodePlatform],
  ['2 threads', 2, nodePlatform],
  ['3 threads', 3, nodePlatform],
  ['unshared memory', 1, unshared],
];

describe.each(teams)('%s', (_, threads, platform) => {
  test('steps give what the interpreter gives, the cache persists, sessions are apart', async () => {
    const program = mixingProgram();
    const executable = await load(program, threads, { platform });
    const sessions = [0, 1].map(() => ({
      cache: executable.createCache(),
      memory: {
        weights: weightBytes,
        arena: new Uint8Array(needs.arenaBytes),
        cache: new Uint8Array(needs.cacheBytes),
        logits: new Uint8Array(STRIDE * 4 * 16),
      },
    }));
    for (let step = 0; step < 12; step++) {
      const { cache, memory } = sessions[step % 3 === 0 ? 1 : 0]!;
      const tokens = Int32Array.from({ length: 1 + (step % 4) }, (_, i) => i * 3 + step);
      const request = { tokens, position: step, logits: step % 2 === 0 ? 'all' : 'last' } as const;
      runProgram(program, { buffers: memory, sequences: [{ ...request, cache: 0 }] });
      const rows = request.logits === 'all' ? tokens.length : 1;
      const expected = Array.from({ length: rows }, (_, row) => [
        ...new Float32Array(memory.logits.buffer, row * STRIDE * 4, VOCAB),
      ]).flat();

      const [logits] = await executable.step([{ ...request, cache }]);
      expect([...logits!]).toEqual(expected);
    }
    expect(executable.threads).toBe(threads);
  });

  test.skipIf(platform === unshared)('notes when threads come to barriers and leave them', async () => {
    const executable = await load(mixingProgram(), threads, { platform });
    const cache = executable.createCache();
    const request = { tokens: Int32Array.of(1), position: 0, cache, logits: 'last' } as const;
    // Its start, and two times for each of the barriers; then room that nothing needs.
    const [count, room] = [1 + 2 * (ROUNDS + 2), 20];
    for (let step = 0; step < 2; step++) {
      const times = new Float64Array(threads * room).fill(Number.NaN);
      const before = performance.now();
      await executable.step([request], times);
      // Clocks of threads are set by each other to within a microsecond.
      const ends = [before - 0.01, performance.now() + 0.01];
      for (let thread = 0; thread < threads; thread++) {
        const own = [...times.subarray(thread * room, thread * room + count)];
        const all = [ends[0]!, ...own, ends[1]!];
        expect(all).toEqual([...all].sort((a, b) => a - b));
        expect([...times.subarray(thread * room + count, (thread + 1) * room)]).toEqual(
          Array(room - count).fill(Number.NaN),
        );
      }
    }
    const short = new Float64Array(threads * 3).fill(-1);
    await executable.step([request], short);
    expect(short.every((time) => time > 0)).toBe(true);
    await executable.step([request]);
  });

  test('rows of a lookup table are read when a step wants them, once', async () => {
    const rows = Float32Array.from({ length: 102 * STRIDE }, () => random());
    const bytes = new Uint8Array(rows.buffer);
    const reads: [offset: number, bytes: number][] = [];
    const executable = await load(lookupProgram(), threads, {
      platform,
      weights: {
        bytes: bytes.length,
        read: async (offset, into) => {
          reads.push([offset, into.length]);
          into.set(bytes.subarray(offset, offset + into.length));
        },
        lookups: [{ offset: 64, bytes: 100 * 64, rowBytes: 64 }],
      },
    });
    expect(reads.splice(0)).toEqual([
      [0, 64],
      [101 * 64, 64],
    ]);
    const cache = executable.createCache();
    for (const [tokens, wanted] of [
      [
        [7, 99, 7],
        [7, 99],
      ],
      [[99, 0], [0]],
    ] as const) {
      const request = { tokens: Int32Array.from(tokens), position: 0, cache, logits: 'all' } as const;
      const [logits] = await executable.step([request]);
      const expected = tokens.flatMap((token) => [...rows.subarray((1 + token) * STRIDE).subarray(0, VOCAB)]);
      expect([...logits!]).toEqual(expected);
      expect(reads.splice(0)).toEqual(wanted.map((token) => [64 + 64 * token, 64]));
    }
  });

  test('a kernel runs alone on bytes, in place', async () => {
    const program = mixingProgram();
    const executable = await load(program, threads, { platform });
    const make = () => [Float32Array.from({ length: 20 }, (_, i) => i), new Float32Array(20).fill(-1)];
    const bytes = (arrays: Float32Array[]) => arrays.map((array) => new Uint8Array(array.buffer));
    const [expected, actual] = [make(), make()];
    const scalars = [20, 0.5];
    runFunction(program.functions[1]!, {
      buffers: bytes(expected),
      scalars,
      range: { begin: 3, end: 11 },
    });
    await executable.callKernel({ kernel: 'mix', buffers: bytes(actual), scalars, begin: 3, end: 11 });
    expect(actual).toEqual(expected);
    expect(actual[1]![3]).not.toBe(-1);
    expect(actual[1]![11]).toBe(-1);
  });

  test('a trap rejects the step, and all that follow', async () => {
    const executable = await load(trappingProgram(), threads, { platform });
    const cache = executable.createCache();
    const step = (position: number) =>
      executable.step([{ tokens: Int32Array.of(1), position, cache, logits: 'last' }]);
    await step(1);
    const results = await Promise.allSettled([step(1), step(0), step(1)]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected']);
    await expect(step(1)).rejects.toMatchObject({ code: 'internal', message: /divide by zero/ });
  });

  test('closing rejects what is running and does not hang', async () => {
    const executable = await load(endlessProgram(), threads, { platform });
    const cache = executable.createCache();
    const request = { tokens: Int32Array.of(1), position: 0, cache, logits: 'last' } as const;
    const steps = Promise.allSettled([executable.step([request]), executable.step([request])]);
    await sleep(20);
    await executable.close();
    const cancelled = { status: 'rejected', reason: { code: 'cancelled' } };
    expect(await steps).toMatchObject([cancelled, cancelled]);
    await expect(executable.step([request])).rejects.toMatchObject({ code: 'cancelled' });
  });
});

/** Divides by the position in the middle of a step, on the last thread only; the others wait in a barrier. */
function trappingProgram(): Program {
  const k = new FunctionBuilder('divide');
  const out = k.buffer('out', 'i32', 'write');
  const by = k.scalar('by');
  k.thread('i', 1, (i) => k.store(out, i, div(int(100), by)));
  const { m, arena, pos } = mainBuilder();
  m.call('divide', [{ buffer: arena, offset: 0 }], [pos]);
  m.barrier();
  return { functions: [k.build()], main: m.build() };
}

function endlessProgram(): Program {
  const k = new FunctionBuilder('endless');
  const out = k.buffer('out', 'i32', 'readwrite');
  k.thread('i', 64, (i) =>
    k.for('j', 0, 2 ** 31 - 1, 1, (j) => {
      k.for('l', 0, 2 ** 31 - 1, 1, (l) => k.store(out, i, add(k.load(out, i), add(j, l))));
    }),
  );
  const { m, arena } = mainBuilder();
  m.call('endless', [{ buffer: arena, offset: 0 }], []);
  m.barrier();
  return { functions: [k.build()], main: m.build() };
}

/** Threads pass a number on, `rounds` times, through a barrier each: any slip changes the result. */
function relayProgram(rounds: number): Program {
  const k = new FunctionBuilder('pass');
  const from = k.buffer('from', 'i32', 'read');
  const to = k.buffer('to', 'i32', 'write');
  const round = k.scalar('round');
  k.thread('i', 3, (i) => {
    const next = k.let('next', rem(add(i, 1), int(3)));
    k.store(to, i, add(mul(k.load(from, next), 3), add(i, round)));
  });
  const { m, arena, logits } = mainBuilder();
  const line = (offset: Parameters<typeof add>[0]) => ({ buffer: arena, offset });
  m.for('round', 0, rounds, 1, (round) => {
    const odd = m.let('odd', rem(round, int(2)));
    m.call('pass', [line(odd), line(sub(int(1), odd))], [round]);
    m.barrier();
  });
  const copy = new FunctionBuilder('copy');
  const source = copy.buffer('source', 'i32', 'read');
  const target = copy.buffer('target', 'f32', 'write');
  copy.thread('i', 3, (i) => copy.store(target, i, bitcast(copy.load(source, i), vector('f32', 1))));
  m.call(
    'copy',
    [
      { buffer: arena, offset: 0 },
      { buffer: logits, offset: 0 },
    ],
    [],
  );
  m.barrier();
  return { functions: [k.build(), copy.build()], main: m.build() };
}

describe('barrier', () => {
  test.each([2, 3])('twenty thousand of them on %i threads', async (threads) => {
    const rounds = 20_000;
    let state = [0, 0, 0];
    for (let round = 0; round < rounds; round++) {
      state = state.map((_, i) => (Math.imul(state[(i + 1) % 3]!, 3) + i + round) | 0);
    }
    const executable = await load(relayProgram(rounds), threads);
    const cache = executable.createCache();
    const request = { tokens: Int32Array.of(0), position: 0, cache, logits: 'last' } as const;
    const [logits] = await executable.step([request]);
    expect([...new Int32Array(logits!.buffer, 0, 3)]).toEqual(state);
  });
});

describe('memory', () => {
  const step = (executable: Executable, cache = executable.createCache()) =>
    executable.step([{ tokens: Int32Array.of(2), position: 1, cache, logits: 'last' }]);

  test.each([
    ['shared', nodePlatform],
    ['unshared', unshared],
  ])('a new cache is empty, also where an old one was (%s)', async (_, platform) => {
    const executable = await load(mixingProgram(), 1, { platform });
    const cache = executable.createCache();
    const first = await step(executable, cache);
    expect(await step(executable, cache)).not.toEqual(first);
    cache.free();
    cache.free();
    expect(await step(executable)).toEqual(first);
    await expect(step(executable, cache)).rejects.toMatchObject({ message: /freed/ });
  });

  test('a cache freed while its step runs stays until that has ended', async () => {
    const executable = await load(mixingProgram(), 2);
    const cache = executable.createCache();
    const expected = await step(executable);
    const running = step(executable, cache);
    cache.free();
    executable.createCache();
    expect(await running).toEqual(expected);
  });

  test('weights come from a file straight into memory, in pieces', async () => {
    const path = join(tmpdir(), `lutra-weights-${process.pid}`);
    // More than a piece: what the kernel reads comes first, the rest only has to arrive.
    const bytes = new Uint8Array(17 << 20);
    bytes.set(weightBytes);
    await writeFile(path, bytes);
    const file = await open(path);
    const reads: number[] = [];
    try {
      const executable = await load(mixingProgram(), 2, {
        weights: {
          bytes: bytes.length,
          read: async (offset, into) => {
            reads.push(offset);
            await file.read(into, 0, into.length, offset);
          },
        },
      });
      const small = await load(mixingProgram(), 1);
      expect(await step(executable)).toEqual(await step(small));
      expect(reads).toEqual([0, 16 << 20]);
    } finally {
      await file.close();
      await rm(path);
    }
  });

  test('what does not fit is refused with what to do', async () => {
    const huge = { ...needs, cacheBytes: 3 * 2 ** 30 };
    const tooLarge = load(mixingProgram(), 1, { needs: { ...huge, arenaBytes: 2 ** 30 } });
    await expect(tooLarge).rejects.toMatchObject({ code: 'environment', message: /needs 4.0 GiB/ });

    const executable = await load(mixingProgram(), 1, { needs: huge });
    executable.createCache();
    expect(() => executable.createCache()).toThrow(/no room for 3072 MiB/);
  });

  test('a failing read of weights is passed on', async () => {
    const read = async () => {
      throw new Error('disk on fire');
    };
    await expect(load(mixingProgram(), 2, { weights: { bytes: 100, read } })).rejects.toThrow('disk on fire');
  });
});

describe('modules', () => {
  test('code that the engine does not know is refused', async () => {
    const module = compile(mixingProgram());
    module[8] = 0x7f;
    await expect(load(mixingProgram(), 1, { module })).rejects.toMatchObject({ code: 'environment' });
  });

  test.each([0, 8, 20, 30])(
    'what is no module is refused where memory is not shared (%i bytes)',
    async (bytes) => {
      const module = compile(mixingProgram()).slice(0, bytes);
      const loading = load(mixingProgram(), 1, { module, platform: unshared });
      await expect(loading).rejects.toMatchObject({ code: 'environment' });
    },
  );

  test('plain code is not what the platform has the engine make', async () => {
    const optimizing = async () => {
      throw new Error('broken');
    };
    const platform = { ...nodePlatform, optimizing };
    await expect(load(mixingProgram(), 1, { platform })).rejects.toMatchObject({ code: 'environment' });
    const executable = await load(mixingProgram(), 1, { platform, plain: true });
    const step = async ({ createCache, step }: Executable) =>
      step([{ tokens: Int32Array.of(1, 2), position: 0, cache: createCache(), logits: 'last' }]);
    expect(await step(executable)).toEqual(await step(await load(mixingProgram(), 1)));
  });

  test('a kernel that does not exist is named', async () => {
    const executable = await load(mixingProgram(), 1);
    const call = { kernel: 'mux', buffers: [], scalars: [], begin: 0, end: 0 };
    await expect(executable.callKernel(call)).rejects.toMatchObject({ message: /mux/ });
  });
});
