/** Compiled C, loaded into this process. */
import { LutraError } from '../../common/errors.ts';
import type { StepTables } from '../../loops/step.ts';
import { batchTables } from '../batch.ts';
import type {
  CacheHandle,
  Executable,
  KernelCall,
  Logits,
  MemoryNeeds,
  SelectRequest,
  StepRequest,
  StepTimes,
} from '../executable.ts';
import { selectLogits } from '../selected.ts';
import { ABI } from './emit.ts';
import { type NativeLibrary, openLibrary, type Pointer } from './library.ts';

export interface LoadRequest {
  /** A shared library that `compileC` made. */
  readonly library: string;
  /** The weights file; without one, only single kernels can be run. */
  readonly weights?: string;
  /** `c:avx2`, ... */
  readonly machine: string;
  readonly needs: MemoryNeeds;
  readonly threads: number;
  /** Copies what every step reads of the weights into huge pages, where Linux has them; default: as the environment says. */
  readonly hugePages?: boolean;
}

/** Takes rows of padded logits apart: [rows, vocab] for each sequence, where there is no padding as parts of one array. */
function splitLogits(padded: Float32Array, rows: readonly number[], needs: MemoryNeeds): Float32Array[] {
  const { vocab, logitsStride } = needs;
  if (rows.length === 1 && vocab === logitsStride) return [padded];
  let at = 0;
  return rows.map((count) => {
    if (vocab === logitsStride) {
      const from = at;
      at += count * vocab;
      return padded.subarray(from, at);
    }
    const logits = new Float32Array(count * vocab);
    for (let row = 0; row < count; row++, at += logitsStride) {
      logits.set(padded.subarray(at, at + vocab), row * vocab);
    }
    return logits;
  });
}

/**
 * Where `performance.now()` has its start on the monotonic clock, which it reads too, in ms. A pause between the two
 * readings makes it too early, and never too late.
 */
function clockOrigin(): number {
  const once = () => Number(process.hrtime.bigint()) / 1e6 - performance.now();
  return Math.max(once(), once(), once(), once(), once());
}

class NativeExecutable implements Executable {
  readonly target: string;
  readonly threads: number;
  readonly #library: NativeLibrary;
  readonly #model: Pointer;
  readonly #needs: MemoryNeeds;
  readonly #hasWeights: boolean;
  /** Where caches begin in the pool of all, in lines. */
  readonly #caches = new Map<CacheHandle, number>();
  /** Settles when everything asked for so far is done. */
  #last: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #stopped = false;
  /** Of an output's logits, to be written again: fresh memory is cleared first, page by page. */
  #spare: Float32Array | undefined;

  constructor(library: NativeLibrary, model: Pointer, request: LoadRequest) {
    this.target = request.machine;
    this.threads = request.threads;
    this.#library = library;
    this.#model = model;
    this.#needs = request.needs;
    this.#hasWeights = request.weights !== undefined;
  }

  /** Runs jobs one after the other: threads and memory of a model serve one step at a time. */
  #enqueue<T>(job: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined) return Promise.reject(this.#closed());
    const result = this.#last.then(job);
    this.#last = result.catch(() => {});
    return result;
  }

  #closed(): LutraError {
    return new LutraError('internal', `${this.target}: the executable is closed`);
  }

  createCache(): CacheHandle {
    if (this.#closing !== undefined) throw this.#closed();
    const line = this.#library.newCache(this.#model);
    if (line < 0) {
      throw new LutraError('environment', `no memory for a KV cache of ${this.#needs.cacheBytes} bytes`, {
        hint: 'Use a shorter context or fewer sessions.',
      });
    }
    const cache: CacheHandle = { bytes: this.#needs.cacheBytes, free: () => this.#freeCache(cache) };
    this.#caches.set(cache, line);
    return cache;
  }

  /** Frees the cache once no step uses it any more. */
  #freeCache(cache: CacheHandle): void {
    const line = this.#caches.get(cache);
    if (line === undefined || this.#closing !== undefined) return;
    this.#caches.delete(cache);
    this.#last = this.#last.then(() => this.#library.freeCache(this.#model, line));
  }

  async step(requests: readonly StepRequest[], times?: StepTimes): Promise<readonly Float32Array[]> {
    if (this.#closing !== undefined) throw this.#closed();
    if (!this.#hasWeights) throw new LutraError('internal', 'a step needs weights, and none were loaded');
    const tables = batchTables(requests, (cache) => this.#caches.get(cache));
    return this.#enqueue(async () => {
      const rows = tables.rows.reduce((sum, count) => sum + count, 0);
      const padded = this.#logits(rows * this.#needs.logitsStride);
      const run = () => this.#library.step(this.#model, tables, padded);
      await (times === undefined ? run() : this.#timed(times, run));
      this.#checkStopped();
      return splitLogits(padded, tables.rows, this.#needs);
    });
  }

  async #timed(times: StepTimes, run: () => Promise<void>): Promise<void> {
    const noted = new BigInt64Array(times.length);
    const origin = clockOrigin();
    this.#library.noteTimes(this.#model, noted, times.length / this.threads);
    try {
      await run();
    } finally {
      this.#library.noteTimes(this.#model, null, 0);
    }
    for (const [i, time] of noted.entries()) if (time !== 0n) times[i] = Number(time) / 1e6 - origin;
  }

  async stepSelected(requests: readonly SelectRequest[]): Promise<readonly (readonly Logits[])[]> {
    if (this.#closing !== undefined) throw this.#closed();
    if (!this.#hasWeights) throw new LutraError('internal', 'a step needs weights, and none were loaded');
    const [full, scan] = [false, true].map((bounds) =>
      batchTables(requests, (cache) => this.#caches.get(cache), bounds),
    ) as [StepTables, StepTables];
    const run = async (tables: StepTables, floats: number) => {
      const logits = this.#logits(floats);
      await this.#library.step(this.#model, tables, logits);
      this.#checkStopped();
      return logits;
    };
    return this.#enqueue(() => selectLogits({ requests, full, scan, needs: this.#needs, run }));
  }

  /** Memory for that many floats, whatever is in it. */
  #logits(floats: number): Float32Array {
    const spare = this.#spare;
    if (spare?.length !== floats) return new Float32Array(floats);
    this.#spare = undefined;
    return spare;
  }

  recycle(logits: Float32Array): void {
    if (logits.length === this.#needs.logitsStride) this.#spare = logits;
  }

  callKernel(call: KernelCall): Promise<void> {
    return this.#enqueue(async () => {
      const status = await this.#library.call(this.#model, call);
      if (status === 0) return;
      throw new LutraError(
        'internal',
        `${this.target} has no kernel ${call.kernel} with ${call.buffers.length} buffers and ` +
          `${call.scalars.length} scalars`,
      );
    });
  }

  stop(): void {
    if (this.#closing !== undefined) return;
    this.#stopped = true;
    this.#library.stop(this.#model);
  }

  #checkStopped(): void {
    if (this.#stopped) throw new LutraError('cancelled', `${this.target}: the executable was stopped`);
  }

  close(): Promise<void> {
    this.#closing ??= this.#last.then(async () => {
      await this.#library.closeModel(this.#model);
      this.#library.unload();
    });
    return this.#closing;
  }
}

function checkDescription(library: NativeLibrary, { library: path, needs }: LoadRequest): void {
  const found = library.describe();
  if (found.abi !== ABI) {
    throw new LutraError('invalid', `${path} was made by another version of lutra (interface ${found.abi})`, {
      hint: 'Compile the model again.',
    });
  }
  const keys = ['arenaBytes', 'cacheBytes', 'vocab', 'logitsStride'] as const;
  const odd = keys.find((key) => found[key] !== needs[key]);
  if (odd !== undefined) {
    throw new LutraError(
      'invalid',
      `${path} belongs to another model: its ${odd} is ${found[odd]}, not ${needs[odd]}`,
    );
  }
}

/** Where the native code looks for it when it opens a model. */
const HUGE_PAGES = 'LUTRA_HUGE_PAGES';

/** Runs what opens a model while the environment says whether to use huge pages. */
function withHugePages<T>(wanted: boolean | undefined, open: () => T): T {
  if (wanted === undefined) return open();
  const before = process.env[HUGE_PAGES];
  process.env[HUGE_PAGES] = wanted ? '1' : '0';
  try {
    return open();
  } finally {
    if (before === undefined) delete process.env[HUGE_PAGES];
    else process.env[HUGE_PAGES] = before;
  }
}

/**
 * Loads a library, maps the weights and starts `threads - 1` threads (the caller of a step is one more).
 * Throws `environment` when the processor lacks the machine's instructions or koffi is missing, `invalid`
 * when library, weights and `needs` do not belong together.
 */
export async function loadNative(request: LoadRequest): Promise<Executable> {
  const { machine, weights, threads } = request;
  if (!Number.isInteger(threads) || threads < 1) {
    throw new LutraError('usage', `threads must be a whole number of at least 1, got ${threads}`);
  }
  const variant = machine.replace(/^c:/, '');
  const library = await openLibrary(request.library);
  try {
    checkDescription(library, request);
    const supported = library.supported(variant);
    if (supported < 0) throw new LutraError('invalid', `${request.library} has no code for ${machine}`);
    if (supported === 0) {
      throw new LutraError('environment', `this processor lacks the instructions of ${machine}`, {
        hint: 'Use the target auto.',
      });
    }
    const model = withHugePages(request.hugePages, () => library.openModel(weights ?? '', variant, threads));
    return new NativeExecutable(library, model, request);
  } catch (error) {
    library.unload();
    throw error;
  }
}
