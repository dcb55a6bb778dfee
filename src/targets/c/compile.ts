/** Turns a generated C file into a shared library with the C compiler that this machine has. */
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { LutraError } from '../../common/errors.ts';
import { EXACT_FLAGS } from './emit.ts';

/** A C compiler that works here. */
export interface Compiler {
  /** The program and the arguments that come first: `['clang']`, `['ccache', 'gcc']`. */
  readonly command: readonly string[];
  readonly kind: 'gcc' | 'clang';
  /** The first line of `--version`. */
  readonly version: string;
}

export interface CompileRequest {
  readonly compiler: Compiler;
  /** The C file. */
  readonly source: string;
  /** The library to write; it appears only when it is complete. */
  readonly output: string;
  /** Variants in the file, which are then compiled at the same time on as many cores as there are; default: all in one. */
  readonly variants?: number;
  readonly signal?: AbortSignal;
}

const INSTALL_HINT =
  'Install clang or gcc (Debian, Ubuntu: apt-get install clang; macOS: xcode-select --install) or point CC to ' +
  'a C compiler; the target wasm needs none.';

/**
 * Kernels come unrolled as far as registers reach, and in the order in which they should be computed. GCC
 * would postpone the additions of a long sum to its end, and Clang unroll further: both run out of registers.
 * With a frame pointer from the start, Clang aligns the stack once it runs out of them all the same. Otherwise a
 * spilled vector may lie across two cache lines, from which it comes back late: the product of 16 tokens took twice
 * as long.
 */
const OWN_FLAGS: Record<Compiler['kind'], readonly string[]> = {
  gcc: ['-fno-tree-ter', '-fno-tree-reassoc'],
  clang: ['-fno-unroll-loops', '-fno-omit-frame-pointer'],
};

/** The arguments for one compilation, without the files. */
export function compilerFlags(kind: Compiler['kind']): readonly string[] {
  return [
    ...EXACT_FLAGS,
    ...OWN_FLAGS[kind],
    '-O2',
    '-fno-math-errno',
    '-fPIC',
    '-shared',
    '-pthread',
    '-fvisibility=hidden',
  ];
}

interface Finished {
  readonly code: number | null;
  readonly output: string;
}

/** Output of a compiler beyond this is not kept. */
const OUTPUT_LIMIT = 1 << 16;

/**
 * Runs a program in a process group of its own, so that a cancelled compiler takes its children with it;
 * they end, too, when this process does.
 */
function runProgram(
  command: readonly string[],
  options: { readonly signal?: AbortSignal | undefined; readonly temporary?: string },
): Promise<Finished> {
  const { signal, temporary } = options;
  return new Promise((done, fail) => {
    const [program, ...args] = command;
    const child = spawn(program!, args, {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C', ...(temporary === undefined ? {} : { TMPDIR: temporary }) },
    });
    let output = '';
    const collect = (chunk: Buffer) => {
      if (output.length < OUTPUT_LIMIT) output += chunk.toString('utf8');
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const kill = () => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has ended by itself.
      }
    };
    const onExit = () => {
      kill();
      if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
    };
    const settle = () => {
      process.off('exit', onExit);
      signal?.removeEventListener('abort', kill);
    };
    process.once('exit', onExit);
    signal?.addEventListener('abort', kill, { once: true });
    if (signal?.aborted) kill();
    child.on('error', (error) => {
      settle();
      fail(error);
    });
    child.on('close', (code) => {
      settle();
      done({ code, output });
    });
  });
}

async function probe(command: readonly string[]): Promise<Compiler | undefined> {
  try {
    const { code, output } = await runProgram([...command, '--version'], {});
    if (code !== 0) return undefined;
    const version = output.split('\n')[0]!.trim();
    return { command, kind: /clang/i.test(output) ? 'clang' : 'gcc', version };
  } catch {
    return undefined;
  }
}

type Environment = Readonly<Record<string, string | undefined>>;

function candidates(env: Environment): readonly (readonly string[])[] {
  if (process.platform === 'win32') return [];
  const chosen = env.CC?.trim();
  return chosen ? [chosen.split(/\s+/)] : [['clang'], ['gcc'], ['cc']];
}

/** All C compilers that could be used, the preferred one first: `CC` of the environment alone, or else clang, gcc, cc. */
export async function findCompilers(env: Environment = process.env): Promise<readonly Compiler[]> {
  const found = (await Promise.all(candidates(env).map(probe))).filter((compiler) => compiler !== undefined);
  // `cc` is mostly one of the others: its version then is the same but for the program's name.
  const known = found.map((compiler) => compiler.version.replace(/^\S+ /, ''));
  return found.filter((_, i) => known.indexOf(known[i]!) === i);
}

export async function hasCompiler(env: Environment = process.env): Promise<boolean> {
  return (await findCompilers(env)).length > 0;
}

/** The C compiler to use. Throws `environment` when there is none. */
export async function findCompiler(env: Environment = process.env): Promise<Compiler> {
  const [first] = await findCompilers(env);
  if (first !== undefined) return first;
  if (process.platform === 'win32') {
    throw new LutraError('environment', 'native code is not supported on Windows yet', {
      hint: 'Use the target wasm.',
    });
  }
  const chosen = env.CC?.trim();
  const what = chosen ? `CC is "${chosen}", which is no working C compiler` : 'no C compiler was found';
  throw new LutraError('environment', what, { hint: INSTALL_HINT });
}

/** What a compiler is run on: arguments after its flags. */
interface Job {
  readonly flags: readonly string[];
  readonly args: readonly string[];
}

/** Jobs that may run side by side, and the one that makes the library of what they give. */
function jobsOf({ compiler, source, variants = 1 }: CompileRequest, folder: string, library: string) {
  const flags = compilerFlags(compiler.kind);
  const whole = (inputs: readonly string[]): Job => ({ flags, args: ['-o', library, ...inputs, '-lm'] });
  if (variants < 2 || availableParallelism() < 2) return { parts: [], last: whole([resolve(source)]) };
  const objects = Array.from({ length: variants + 1 }, (_, part) => join(folder, `part-${part}.o`));
  const parts = objects.map((object, part) => ({
    flags: flags.filter((flag) => flag !== '-shared'),
    args: ['-c', `-DLUTRA_PART=${part}`, '-o', object, resolve(source)],
  }));
  // The variants first: they take the time, and the best of them the most.
  return { parts: [...parts.slice(1), parts[0]!], last: whole(objects) };
}

/** Runs the jobs, as many at a time as there are cores; the first that fails ends the others. */
async function runAll(jobs: readonly Job[], signal: AbortSignal | undefined, run: RunJob): Promise<void> {
  const failed = new AbortController();
  const either = AbortSignal.any([failed.signal, ...(signal === undefined ? [] : [signal])]);
  const left = [...jobs];
  const work = async () => {
    for (let job = left.shift(); job !== undefined && !either.aborted; job = left.shift())
      await run(job, either);
  };
  const workers = Array.from({ length: Math.min(jobs.length, availableParallelism()) }, () =>
    work().catch((error) => {
      failed.abort();
      throw error;
    }),
  );
  const ends = await Promise.allSettled(workers);
  // The first to fail has a reason; the others were only ended.
  const reasons = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []));
  if (reasons.length > 0) throw reasons.find(({ code }) => code !== 'cancelled') ?? reasons[0];
}

type RunJob = (job: Job, signal: AbortSignal | undefined) => Promise<void>;

/** The lines of a compiler's output that say what is wrong. */
function errorLines(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const errors = lines.filter((line) => /error|cannot|No space|not found/i.test(line));
  return (errors.length > 0 ? errors : lines).slice(0, 3).join('\n') || 'it said nothing';
}

/**
 * Compiles a file of `emitC`. Everything is written beside the output under a temporary name, and is gone
 * after a failure or a cancel. Throws `environment` with the compiler's first errors, or `cancelled`.
 */
export async function compileC(request: CompileRequest): Promise<void> {
  const { compiler, source, output, signal } = request;
  const cancelled = () => new LutraError('cancelled', 'compiling was cancelled');
  if (signal?.aborted) throw cancelled();
  const target = resolve(output);
  const folder = dirname(target);
  const temporary = await mkdtemp(join(folder, `.${basename(target)}-`)).catch((cause: Error) => {
    throw new LutraError('environment', `cannot write to ${folder}: ${cause.message}`, { cause });
  });
  try {
    const library = join(temporary, 'library');
    const run: RunJob = async ({ flags, args }, stop) => {
      const command = [...compiler.command, ...flags, ...args];
      const { code, output: text } = await runProgram(command, { signal: stop, temporary }).catch(
        (error: Error) => ({ code: null, output: error.message }),
      );
      if (stop?.aborted) throw cancelled();
      if (code !== 0) {
        throw new LutraError(
          'environment',
          `${compiler.command.join(' ')} could not compile ${source}: ${errorLines(text)}`,
          { hint: `The compiler is ${compiler.version}; try another one by setting CC, or the target wasm.` },
        );
      }
    };
    const { parts, last } = jobsOf(request, temporary, library);
    await runAll(parts, signal, run);
    if (signal?.aborted) throw cancelled();
    await run(last, signal);
    await rename(library, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
