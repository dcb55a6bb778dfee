/** Models for devices without Node: built with CMake, run, and compared with what lutra itself computes. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { load } from '../src/api/load.ts';
import { compileStandalone } from '../src/api/standalone.ts';
import type { Standalone } from '../src/artifact/standalone.ts';
import { kernelFor } from '../src/kernels/registry.ts';
import { findCompilers } from '../src/targets/c/compile.ts';
import { ARM_HINT, armCompilers, emulator } from '../src/targets/c/cross-testing.ts';
import { EXACT_FLAGS } from '../src/targets/c/emit.ts';
import { machineNamed } from '../src/tune/kernels.ts';

const run = promisify(execFile);
const MODEL = 'models/tiny-bitnet';
const scratch = mkdtempSync(join(tmpdir(), 'lutra-standalone-'));
const [compiler] = await findCompilers();
const [arm] = await armCompilers();
const works = (command: string) =>
  run(command, ['--version']).then(
    () => true,
    () => false,
  );
const [hasCmake, hasValgrind] = await Promise.all([works('cmake'), works('valgrind')]);
const canBuild = hasCmake && compiler !== undefined;
const buildNote = canBuild ? '' : ' (skipped: no CMake or no C compiler)';

/** Prompts as tokens, and what lutra answers to them. */
interface Expected {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
}

const expected: Expected[] = [];
let native: Standalone;

beforeAll(async () => {
  process.env.LUTRA_CACHE = join(scratch, 'cache');
  native = await compileStandalone(MODEL, { output: join(scratch, 'native') });
  const model = await load(MODEL);
  for (const text of ['add 4 106', 'reverse abc', 'Once upon a time']) {
    const session = model.createSession();
    const { tokens } = await session.generate(text, { raw: true, maxTokens: 24, temperature: 0 }).result;
    expected.push({ prompt: model.tokenize(text), answer: tokens });
    await session.dispose();
  }
  await model.dispose();
}, 300_000);

afterAll(() => {
  delete process.env.LUTRA_CACHE;
  rmSync(scratch, { recursive: true, force: true });
});

async function cmake(source: string, ...options: string[]): Promise<string> {
  const build = join(source, 'build');
  const flags = '-DCMAKE_C_FLAGS=-Wall -Wextra -Werror';
  await run('cmake', ['-S', source, '-B', build, flags, ...options]);
  await run('cmake', ['--build', build]);
  return build;
}

/** The tokens that the command `program` makes of each prompt. */
async function answers(
  program: readonly string[],
  folder: string,
  ...options: string[]
): Promise<number[][]> {
  const found: number[][] = [];
  for (const { prompt } of expected) {
    const args = ['-w', join(folder, 'weights.bin'), '-n', '24', ...options, ...prompt.map(String)];
    const { stdout } = await run(program[0]!, [...program.slice(1), ...args]);
    found.push(stdout.split(/\s+/).filter(Boolean).map(Number));
  }
  return found;
}

describe('what is made for another architecture', () => {
  it('takes nothing that was tuned here: neither encodings nor schedules', async () => {
    const shape = { m: 512, k: 256, residual: false, encoding: 't5b' };
    const choices = ['one', 'many'].flatMap((batch) =>
      ['c:avx2', 'c:avx512vnni', 'c:scalar'].map((machine) => {
        const own = { ...shape, batch };
        const { defaultSchedule } = kernelFor('lowbit.matmul', 'mad');
        const schedule = defaultSchedule(own, machineNamed(machine));
        return { op: 'lowbit.matmul', family: 'mad', shape: own, machine, schedule };
      }),
    );
    const records = join(scratch, 'records.jsonl');
    const speed = { default: 1, tuned: 2 };
    const lines = ['c:avx2', 'c:avx512vnni', 'c:scalar'].map((machine) =>
      JSON.stringify({
        ...{ kind: 'adoption', host: 'x', model: 'm', machine, decode: speed, prefill: speed, adopted: true },
        choices: choices.filter((choice) => choice.machine === machine),
      }),
    );
    writeFileSync(records, `${lines.join('\n')}\n`);
    const foreign = process.arch === 'arm64' ? 'x64' : 'arm64';
    const made = [];
    for (const more of [{}, { records }]) {
      const output = join(scratch, `foreign-${made.length}`);
      const { path } = await compileStandalone(MODEL, { output, arch: foreign, context: 64, ...more });
      const record = JSON.parse(readFileSync(join(path, 'standalone.json'), 'utf8'));
      made.push(record.files['weights.bin'].sha256);
    }
    expect(made[1]).toBe(made[0]);
  });

  it('has no exact head, from a checkpoint or from a compiled model', async () => {
    const refused = {
      code: 'unsupported',
      message: expect.stringContaining('no exact head'),
      hint: expect.any(String),
    };
    const output = join(scratch, 'exact');
    await expect(compileStandalone(MODEL, { output, head: 'exact' })).rejects.toMatchObject(refused);
    const compiled = join(scratch, 'compiled-exact');
    await compile(MODEL, { output: compiled, target: 'wasm', head: 'exact', context: 64 });
    await expect(compileStandalone(compiled, { output })).rejects.toMatchObject(refused);
    expect(existsSync(output)).toBe(false);
  });
});

const wanted = () => expected.map(({ answer }) => answer);

async function failure(program: string, args: readonly string[]): Promise<{ code: number; stderr: string }> {
  return run(program, args).then(
    () => expect.unreachable('it should fail'),
    ({ code, stderr }: { code: number; stderr: string }) => ({ code, stderr }),
  );
}

describe.skipIf(!canBuild)(`a standalone model on this machine${buildNote}`, () => {
  let program: string;
  let weights: string;
  beforeAll(async () => {
    const build = await cmake(native.path, `-DCMAKE_C_COMPILER=${compiler!.command[0]}`);
    await run('ctest', ['--test-dir', build]);
    program = join(build, 'lutra-run');
    weights = join(native.path, 'weights.bin');
  }, 300_000);

  it('answers as lutra does, with any variant and number of threads', async () => {
    expect(wanted().some((answer) => answer.length > 8)).toBe(true);
    expect(await answers([program], native.path)).toEqual(wanted());
    expect(await answers([program], native.path, '-t', '3', '--variant', 'scalar')).toEqual(wanted());
  });

  it('reads tokens from standard input, draws them by seed, says what it is', async () => {
    const draw = async (seed: string) => {
      const child = run(program, [
        '-w',
        weights,
        '-n',
        '12',
        '--temperature',
        '2',
        '--seed',
        seed,
        '--stats',
      ]);
      child.child.stdin!.end(expected[2]!.prompt.join('\n'));
      return child;
    };
    const first = await draw('7');
    expect(first.stderr).toMatch(/^prompt \d+ tokens in [\d.]+ s; \d+ new tokens/);
    expect((await draw('7')).stdout).toBe(first.stdout);
    expect((await draw('8')).stdout).not.toBe(first.stdout);
    expect((await run(program, ['-w', weights, '--info'])).stdout).toMatch(/^model {5}tiny-bitnet\n/);
  });

  it('refuses what is wrong', async () => {
    expect(await failure(program, ['-w', weights, '1024'])).toEqual({
      code: 2,
      stderr: 'lutra: not a token of this model: 1024\n',
    });
    expect(await failure(program, ['-w', weights, '12x'])).toMatchObject({ code: 2 });
    expect(await failure(program, ['-w', weights, '-n'])).toMatchObject({ code: 2 });
    expect(await failure(program, ['-w', weights, '-t', '257', '1'])).toEqual({
      code: 2,
      stderr: 'lutra: -t is not a number from 1 to 256: 257\n',
    });
    expect(await failure(program, ['-w', weights, '--temperature', '-1', '1'])).toEqual({
      code: 2,
      stderr: 'lutra: --temperature is not a number from 0 to 100: -1\n',
    });
    expect(await failure(program, ['--nonsense', '1'])).toMatchObject({ code: 2 });
    expect(await failure(program, ['-w', 'nowhere.bin', '1'])).toEqual({
      code: 1,
      stderr: 'lutra: nowhere.bin: the weights cannot be read or are those of another model\n',
    });
    expect(await failure(program, ['-w', weights, '--variant', 'neon9', '1'])).toMatchObject({ code: 1 });
    const damaged = join(scratch, 'damaged.bin');
    const bytes = readFileSync(weights);
    for (let i = 0; i < bytes.length; i += 97) bytes[i]! ^= 1;
    writeFileSync(damaged, bytes);
    const found = await failure(program, ['-w', damaged, '--check']);
    expect(found).toMatchObject({ code: 1, stderr: expect.stringMatching(/computes wrong results here/) });
  });

  it.skipIf(!hasValgrind)(
    `is clean under Valgrind${hasValgrind ? '' : ' (skipped: it is missing)'}`,
    async () => {
      const options = ['-q', '--error-exitcode=9', '--leak-check=full', '--show-leak-kinds=all'];
      const args = ['-w', weights, '-t', '2', '-n', '3', ...expected[0]!.prompt.map(String)];
      const { stdout, stderr } = await run('valgrind', [...options, program, ...args]);
      expect(stderr).toBe('');
      expect(stdout.trim().split(' ').map(Number)).toEqual(expected[0]!.answer.slice(0, 3));
    },
  );
});

/** Compiles the test of the whole interface with a project; returns the program. */
async function buildExerciser(
  command: readonly string[],
  project: string,
  sysfs: string,
  ...flags: string[]
): Promise<string> {
  const program = join(project, 'exerciser');
  const sources = [join(project, 'lutra.c'), 'test/c/standalone.c'];
  const define = `-DLUTRA_SYSFS_CPU="${sysfs}"`;
  const args = [
    ...EXACT_FLAGS,
    ...flags,
    '-I',
    project,
    define,
    '-o',
    program,
    ...sources,
    '-pthread',
    '-lm',
  ];
  await run(command[0]!, [...command.slice(1), ...args]);
  return program;
}

/** The processors this process may run on. */
function allowedCpus(): readonly number[] {
  const list = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return list.split(',').flatMap((part) => {
    const [from, to = from] = part.split('-').map(Number) as [number, number?];
    return Array.from({ length: to! - from + 1 }, (_, i) => from + i);
  });
}

describe.skipIf(compiler === undefined)(`the interface of a standalone model${buildNote}`, () => {
  it('takes every call, good or bad, as its header says, under sanitizers', async () => {
    const project = await compileStandalone(MODEL, {
      output: join(scratch, 'portable'),
      arch: 'any',
      context: 64,
    });
    expect(project.variants).toEqual(['c:scalar']);
    const sanitize = ['-g', '-O0', '-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-DCHUNK=16'];
    const program = await buildExerciser(compiler!.command, project.path, '/nowhere', ...sanitize);
    const { stdout } = await run(program, [join(project.path, 'weights.bin')]);
    expect(Number(stdout)).toBe(allowedCpus().length);
  });

  const cpus = process.platform === 'linux' ? allowedCpus() : [];
  it.skipIf(cpus.length < 2)('has one thread for each big core', async () => {
    const sysfs = join(scratch, 'cpu');
    const project = join(scratch, 'portable');
    const program = await buildExerciser(compiler!.command, project, sysfs, '-O0');
    const threads = async (facts: (at: number) => Readonly<Record<string, string>>) => {
      rmSync(sysfs, { recursive: true, force: true });
      cpus.forEach((cpu, at) => {
        mkdirSync(join(sysfs, `cpu${cpu}`, 'topology'), { recursive: true });
        for (const [name, value] of Object.entries(facts(at))) {
          writeFileSync(join(sysfs, `cpu${cpu}`, name), `${value}\n`);
        }
      });
      return Number((await run(program, [])).stdout);
    };
    expect(await threads((at) => ({ cpu_capacity: at === 0 ? '1024' : '250' }))).toBe(1);
    expect(await threads((at) => ({ cpu_capacity: at === 0 ? '1024' : '700' }))).toBe(cpus.length);
    // All are threads of the first one's core.
    expect(await threads(() => ({ 'topology/thread_siblings_list': `${cpus[0]}-${cpus.at(-1)}` }))).toBe(1);
  });
});

describe.skipIf(arm === undefined || !hasCmake)(
  `a standalone model on emulated 64-bit ARM processors${arm === undefined ? ` (${ARM_HINT})` : buildNote}`,
  () => {
    it('answers as lutra does here, with every variant, from the same weights', async () => {
      const project = await compileStandalone(MODEL, {
        output: join(scratch, 'arm64'),
        arch: 'aarch64-linux-gnu',
      });
      expect(project.variants).toEqual(['c:i8mm', 'c:dotprod', 'c:neon', 'c:scalar']);
      const weights = join(project.path, 'weights.bin');
      expect(readFileSync(weights).equals(readFileSync(join(native.path, 'weights.bin')))).toBe(true);
      const [cc, target] = arm!.command;
      const build = await cmake(
        project.path,
        '-DCMAKE_SYSTEM_NAME=Linux',
        '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
        `-DCMAKE_C_COMPILER=${cc}`,
        ...(target === undefined ? [] : [`-DCMAKE_C_COMPILER_TARGET=${target.replace('--target=', '')}`]),
        '-DCMAKE_EXE_LINKER_FLAGS=-static',
      );
      const program = join(build, 'lutra-run');
      for (const [cpu, variant] of [
        ['cortex-a53', 'neon'],
        ['cortex-a76', 'dotprod'],
        ['neoverse-n1', 'dotprod'],
        ['max', 'i8mm'],
      ] as const) {
        // The digest of whole steps that this machine computed: every bit of every logit.
        const { stdout } = await run(emulator(cpu)[0]!, [
          ...emulator(cpu).slice(1),
          program,
          '-w',
          weights,
          '--check',
        ]);
        expect(stdout).toBe(`${variant}: results are right\n`);
        expect(await answers([...emulator(cpu), program], project.path, '-t', '2')).toEqual(wanted());
      }
    });
  },
);
