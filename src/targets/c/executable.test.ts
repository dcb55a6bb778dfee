import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { randomUniform } from '../../common/random.ts';
import { embedding } from '../../kernels/embedding.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import { runProgram, walkMain } from '../../loops/interpret.ts';
import { LINE, MAIN_BUFFERS, MAIN_SCALARS, type Program } from '../../loops/ir.ts';
import { detectCpu } from '../cpu.ts';
import type { Executable } from '../executable.ts';
import { type Compiler, compileC, findCompilers } from './compile.ts';
import { emitC } from './emit.ts';
import { type LoadRequest, loadNative } from './executable.ts';
import { runnableMachines } from './machines.ts';
import { legalVariant, MIXER_INFO, mixer, withFolder, writeSource } from './testing.ts';

const NEEDS = MIXER_INFO.needs;
const { vocab: VOCAB, logitsStride: STRIDE } = NEEDS;
const random = randomUniform(7);
const weights = Uint8Array.from({ length: MIXER_INFO.weightsBytes }, () => random() * 256);
const STEPS = [
  { tokens: Int32Array.from([5]), position: 0, logits: 'last' },
  { tokens: Int32Array.from([3, 1, 4, 1, 5]), position: 1, logits: 'all' },
  { tokens: Int32Array.from([9, 2, 6]), position: 6, logits: 'last' },
] as const;

/** The logits of STEPS, one conversation, as the interpreter has them. */
function interpreted(program: Program): Float32Array[] {
  const [arena, cache] = [new Uint8Array(NEEDS.arenaBytes), new Uint8Array(NEEDS.cacheBytes)];
  return STEPS.map(({ tokens, position, logits }) => {
    const rows = logits === 'all' ? tokens.length : 1;
    const out = new Float32Array(rows * STRIDE);
    runProgram(program, {
      buffers: { weights, arena, cache, logits: new Uint8Array(out.buffer) },
      sequences: [{ tokens, position, cache: 0, logits }],
    });
    return Float32Array.from(
      { length: rows * VOCAB },
      (_, i) => out[Math.floor(i / VOCAB) * STRIDE + (i % VOCAB)]!,
    );
  });
}

async function native(executable: Executable): Promise<Float32Array[]> {
  const cache = executable.createCache();
  // Asked for at once: the executable runs them in this order.
  const logits = await Promise.all(STEPS.map((step) => executable.step([{ ...step, cache }])));
  cache.free();
  return logits.flat();
}

const cpu = await detectCpu();
const compiler: Compiler | undefined = (await findCompilers())[0];
const machines = runnableMachines(cpu);
const best = machines[0]!.name;

interface Built {
  readonly library: string;
  readonly weights: string;
}

/** Compiles the program for all machines of this processor. */
async function build(folder: string, program: Program, info = MIXER_INFO): Promise<Built> {
  const source = emitC(
    machines.map((machine) => legalVariant(machine, program)),
    info,
  );
  const library = join(folder, 'model.so');
  await compileC({ compiler: compiler!, source: await writeSource(folder, source), output: library });
  await writeFile(join(folder, 'weights'), weights);
  return { library, weights: join(folder, 'weights') };
}

describe.skipIf(compiler === undefined)('a compiled program', () => {
  const program = mixer(3, 11);
  const open = (built: Built, threads = 1, machine = best, more: Partial<LoadRequest> = {}) =>
    loadNative({ ...built, machine, needs: NEEDS, threads, ...more });

  test.each([
    ['all', 0, 2],
    ['a part that begins within a huge page', 64, 1],
  ])('reads weights of which %s is in huge pages', async (_, offset, threads) => {
    await withFolder(async (folder) => {
      const bytes = 10 << 20;
      const streamed = [{ offset, bytes: bytes - offset }];
      const built = await build(folder, program, { ...MIXER_INFO, weightsBytes: bytes, streamed });
      await truncate(built.weights, bytes);
      const mappings = async () => {
        const maps = await readFile('/proc/self/maps', 'utf8').catch(() => '');
        return maps.split('\n').filter((line) => line.endsWith(built.weights)).length;
      };
      const setting = await readFile('/sys/kernel/mm/transparent_hugepage/enabled', 'utf8').catch(() => '');
      const copies = /\[(always|madvise)\]/.test(setting);
      for (const [allowed, hugePages] of [
        ['1', undefined],
        ['0', undefined],
        ['0', true],
        ['1', false],
      ] as const) {
        process.env.LUTRA_HUGE_PAGES = allowed;
        const asked = hugePages === undefined ? {} : { hugePages };
        const executable = await open(built, threads, best, asked);
        expect(process.env.LUTRA_HUGE_PAGES).toBe(allowed);
        delete process.env.LUTRA_HUGE_PAGES;
        if (process.platform === 'linux') {
          expect(await mappings()).toBe(copies && (hugePages ?? allowed === '1') && offset === 0 ? 0 : 1);
        }
        expect(await native(executable)).toEqual(interpreted(program));
        await executable.close();
        expect(await mappings()).toBe(0);
      }
    });
  });

  test('reads rows of a table as tokens ask for them, and forgets them when there are many', async () => {
    await withFolder(async (folder) => {
      // Rows of 64 KiB that begin within a page: of the first and the last only a part is not mapped.
      const [rows, hidden, offset] = [200, 16384, 4096];
      const table = Float32Array.from({ length: rows * hidden }, (_, i) => Math.fround(Math.sin(i)));
      const k = new FunctionBuilder('main');
      const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => k.buffer(name, elem, access));
      const [n] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind));
      const arg = (name: string, at = 0) => ({
        buffer: buffers.find((buffer) => buffer.name === name)!,
        offset: at / LINE,
      });
      k.call('embedding', [arg('tokens'), arg('weights', offset), arg('logits')], [n!]);
      const functions = [embedding.build('embedding', { hidden, elem: 'f32' }, {})];
      const lookup: Program = { functions, main: k.build() };
      const needs = { ...NEEDS, vocab: hidden, logitsStride: hidden };
      const bytes = offset + table.byteLength;
      const lookups = [{ offset, bytes: table.byteLength, rowBytes: 4 * hidden }];
      const built = await build(folder, lookup, { ...MIXER_INFO, needs, weightsBytes: bytes, lookups });
      await writeFile(built.weights, Buffer.concat([Buffer.alloc(offset), Buffer.from(table.buffer)]));
      const executable = await loadNative({ ...built, machine: best, needs, threads: 2 });
      const cache = executable.createCache();
      const steps = [
        [0, 1, 1, 199, 7],
        [7],
        ...Array.from({ length: 40 }, (_, i) => [5 * i, 5 * i + 3]),
        [0, 199],
      ];
      let position = 0;
      for (const tokens of steps) {
        const [logits] = await executable.step([
          { tokens: Int32Array.from(tokens), position: position++, cache, logits: 'all' },
        ]);
        tokens.forEach((token, i) => {
          const row = logits!.subarray(i * hidden, (i + 1) * hidden);
          const expected = Buffer.from(table.buffer, 4 * token * hidden, 4 * hidden);
          expect(expected.equals(Buffer.from(row.buffer, row.byteOffset, row.byteLength))).toBe(true);
        });
      }
      const mapped = await readFile('/proc/self/smaps', 'utf8').catch(() => '');
      for (const part of mapped.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
        if (!part.split('\n')[0]!.endsWith(built.weights)) continue;
        // What is left of the mapping are its two ends.
        expect(Number(/^Size:\s*(\d+)/m.exec(part)![1])).toBeLessThanOrEqual(64);
      }
      await executable.close();
    });
  });

  test.each([1, 2])('notes when %i threads come to barriers and leave them', async (threads) => {
    await withFolder(async (folder) => {
      const executable = await open(await build(folder, program), threads);
      const cache = executable.createCache();
      const request = { ...STEPS[0], cache };
      let barriers = 0;
      const [arena, logits] = [new Uint8Array(NEEDS.arenaBytes), new Uint8Array(4 * STRIDE)];
      walkMain(
        program.main,
        {
          buffers: { weights, arena, cache: new Uint8Array(NEEDS.cacheBytes), logits },
          sequences: [{ ...STEPS[0], cache: 0 }],
        },
        { call: () => undefined, barrier: () => barriers++ },
      );
      const [count, room] = [1 + 2 * barriers, 2 * barriers + 9];
      for (let step = 0; step < 2; step++) {
        const times = new Float64Array(threads * room).fill(Number.NaN);
        const before = performance.now();
        await executable.step([request], times);
        const ends = [before - 0.01, performance.now() + 0.01];
        for (let thread = 0; thread < threads; thread++) {
          const all = [ends[0]!, ...times.subarray(thread * room, thread * room + count), ends[1]!];
          expect(all).toEqual([...all].sort((a, b) => a - b));
          const rest = [...times.subarray(thread * room + count, (thread + 1) * room)];
          expect(rest.every(Number.isNaN)).toBe(true);
        }
      }
      const short = new Float64Array(threads * 3).fill(-1);
      await executable.step([request], short);
      expect(short.every((time) => time > 0)).toBe(true);
      await executable.step([request]);
      await executable.close();
    });
  });

  test('gives the logits of the interpreter on every variant at 1, 2 and 3 threads', () =>
    withFolder(async (folder) => {
      const built = await build(folder, program);
      const expected = interpreted(program);
      for (const { name } of machines) {
        for (const threads of [1, 2, 3]) {
          const executable = await open(built, threads, name);
          expect(executable).toMatchObject({ target: name, threads });
          expect(await native(executable)).toEqual(expected);
          await executable.close();
        }
      }
    }));

  test('two libraries and two models of one of them do not touch each other', () =>
    withFolder((one) =>
      withFolder(async (two) => {
        const other = mixer(2, 99);
        const [first, second] = [await build(one, program), await build(two, other)];
        const models = await Promise.all([open(first, 2), open(second, 2), open(first, 3)]);
        const logits = await Promise.all(models.map(native));
        expect(logits).toEqual([interpreted(program), interpreted(other), interpreted(program)]);
        expect(logits[0]).not.toEqual(logits[1]);
        await models[0]!.close();
        // The other models live on.
        expect(await native(models[2]!)).toEqual(logits[2]);
        expect(await native(models[1]!)).toEqual(logits[1]);
        await Promise.all(models.map((m) => m.close()));
      }),
    ));

  test('hundreds of barriers among more threads than cores, and steps after a pause', () =>
    withFolder(async (folder) => {
      const long = mixer(100, 3);
      const executable = await open(await build(folder, long), 4);
      const expected = interpreted(long);
      let turns = 0;
      let done = false;
      const loop = (async () => {
        for (; !done; turns++) await setImmediate();
      })();
      for (let i = 0; i < 3; i++) {
        expect(await native(executable)).toEqual(expected);
        // Long enough for the threads to fall asleep.
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      done = true;
      await loop;
      // The event loop was free all the time.
      expect(turns).toBeGreaterThan(10);
      await executable.close();
    }));

  test('conversations keep their own cache, which frees itself once', () =>
    withFolder(async (folder) => {
      const executable = await open(await build(folder, program), 2);
      const [a, b] = [executable.createCache(), executable.createCache()];
      expect(a.bytes).toBe(NEEDS.cacheBytes);
      const step = STEPS[0];
      const first = await executable.step([{ ...step, cache: a }]);
      const second = await executable.step([{ ...step, cache: a }]);
      expect(second).not.toEqual(first);
      expect(await executable.step([{ ...step, cache: b }])).toEqual(first);
      a.free();
      a.free();
      await expect(executable.step([{ ...step, cache: a }])).rejects.toThrow(/cache/);
      const none = { ...step, tokens: new Int32Array(), cache: b };
      await expect(executable.step([none])).rejects.toThrow(/at least one token/);
      await executable.close();
      await executable.close();
      await expect(executable.step([{ ...step, cache: b }])).rejects.toThrow(/closed/);
      expect(() => executable.createCache()).toThrow(/closed/);
      b.free();
    }));

  test('what does not fit is refused with a reason', () =>
    withFolder(async (folder) => {
      const built = await build(folder, program);
      const refusal = (change: object) =>
        loadNative({ ...built, machine: best, needs: NEEDS, threads: 1, ...change }).then(
          () => 'accepted',
          (error) => `${error.code}: ${error.message}`,
        );
      expect(await refusal({ threads: 0 })).toMatch(/^usage: threads must be/);
      expect(await refusal({ threads: 1000 })).toMatch(/^environment: .*threads must be 1 to 256/);
      expect(await refusal({ machine: 'c:none' })).toMatch(/^invalid: .*no code for c:none/);
      expect(await refusal({ needs: { ...NEEDS, vocab: 21 } })).toMatch(/^invalid: .*vocab is 20, not 21/);
      expect(await refusal({ weights: join(folder, 'none') })).toMatch(/cannot open .*none: No such file/);
      expect(await refusal({ library: join(folder, 'none.so') })).toMatch(
        /^invalid: .*none.so cannot be loaded/,
      );
      expect(await refusal({ library: join(folder, 'model.c') })).toMatch(
        /^invalid: .*model.c cannot be loaded/,
      );
      await truncate(built.weights, MIXER_INFO.weightsBytes - 1);
      expect(await refusal({})).toMatch(/weights has 255 bytes instead of 256/);
      const lacking = { ...built, machine: best, needs: NEEDS, threads: 1 };
      const { weights: _, ...kernelsAlone } = lacking;
      const executable = await loadNative(kernelsAlone);
      const cache = executable.createCache();
      await expect(executable.step([{ ...STEPS[0], cache }])).rejects.toThrow(/needs weights/);
      const call = { kernel: 'mix', buffers: [], scalars: [], begin: 0, end: 1 };
      await expect(executable.callKernel(call)).rejects.toThrow(/no kernel mix with 0 buffers/);
      await expect(executable.callKernel({ ...call, kernel: 'x' })).rejects.toThrow(/no kernel x/);
      await executable.close();
    }));
});
