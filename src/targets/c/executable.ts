/** Compiled C, loaded into this process. */
import { LutraError } from '../../common/errors.ts';
import type { CacheHandle, Executable, KernelCall, MemoryNeeds, StepRequest } from '../executable.ts';
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
}

class NativeCache implements CacheHandle {
  readonly bytes: number;
  pointer: Pointer | undefined;
  readonly #release: (cache: NativeCache) => void;

  constructor(bytes: number, pointer: Pointer, release: (cache: NativeCache) => void) {
    this.bytes = bytes;
    this.pointer = pointer;
    this.#release = release;
  }

  free(): void {
    this.#release(this);
  }
}

class NativeExecutable implements Executable {
  readonly target: string;
  readonly threads: number;
  readonly #library: NativeLibrary;
  readonly #model: Pointer;
  readonly #needs: MemoryNeeds;
  readonly #hasWeights: boolean;
  readonly #caches = new Set<NativeCache>();
  /** Settles when everything asked for so far is done. */
  #last: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

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
    const pointer = this.#library.newCache();
    if (pointer === undefined) {
      throw new LutraError('environment', `no memory for a KV cache of ${this.#needs.cacheBytes} bytes`, {
        hint: 'Use a shorter context or fewer sessions.',
      });
    }
    const cache = new NativeCache(this.#needs.cacheBytes, pointer, (c) => this.#freeCache(c));
    this.#caches.add(cache);
    return cache;
  }

  /** Frees the cache once no step uses it any more. */
  #freeCache(cache: NativeCache): void {
    if (!this.#caches.delete(cache)) return;
    this.#last = this.#last.then(() => this.#release(cache));
  }

  #release(cache: NativeCache): void {
    if (cache.pointer !== undefined) this.#library.freeCache(cache.pointer);
    cache.pointer = undefined;
  }

  async step(request: StepRequest): Promise<Float32Array> {
    const { cache, position } = request;
    const { vocab, logitsStride } = this.#needs;
    // A copy: the caller may change its array while the step waits for its turn.
    const tokens = request.tokens.slice();
    const n = tokens.length;
    if (this.#closing !== undefined) throw this.#closed();
    if (n === 0) throw new LutraError('internal', 'a step needs at least one token');
    if (!(cache instanceof NativeCache) || !this.#caches.has(cache)) {
      throw new LutraError('internal', 'the KV cache was freed or is of another executable');
    }
    if (!this.#hasWeights) throw new LutraError('internal', 'a step needs weights, and none were loaded');
    return this.#enqueue(async () => {
      const all = request.logits === 'all';
      const rows = all ? n : 1;
      const padded = new Float32Array(rows * logitsStride);
      await this.#library.step(this.#model, tokens, n, position, all ? 1 : 0, cache.pointer, padded);
      if (logitsStride === vocab) return padded;
      const logits = new Float32Array(rows * vocab);
      for (let row = 0; row < rows; row++) {
        logits.set(padded.subarray(row * logitsStride, row * logitsStride + vocab), row * vocab);
      }
      return logits;
    });
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

  close(): Promise<void> {
    this.#closing ??= this.#last.then(async () => {
      for (const cache of this.#caches) this.#release(cache);
      this.#caches.clear();
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
    const model = library.openModel(weights ?? '', variant, threads);
    return new NativeExecutable(library, model, request);
  } catch (error) {
    library.unload();
    throw error;
  }
}
