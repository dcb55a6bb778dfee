/** The functions of a compiled library, called through koffi. */
import { LutraError } from '../../common/errors.ts';
import { LINE } from '../../loops/ir.ts';
import type { StepTables } from '../../loops/step.ts';
import type { KernelCall } from '../executable.ts';
import type { LibraryDescription } from './emit.ts';

/** An address in this process. */
export type Pointer = bigint;

/** The entry points of support/entry-points.ts. Those that compute run on a thread of their own and give a promise. */
export interface NativeLibrary {
  describe(): LibraryDescription;
  /** 1: this processor can run the variant; 0: it cannot; -1: there is none of this name. */
  supported(variant: string): number;
  openModel(weights: string, variant: string, threads: number): Pointer;
  closeModel(model: Pointer): Promise<void>;
  /** The line of the pool of caches where the new one begins; -1: there is no memory. */
  newCache(model: Pointer): number;
  freeCache(model: Pointer, cache: number): void;
  step(model: Pointer, tables: StepTables, logits: Float32Array): Promise<void>;
  /** The step that runs, and all later ones, end without computing the rest. */
  stop(model: Pointer): void;
  /** Where threads note times from the next step on, in nanoseconds; the memory must live until that ends. */
  noteTimes(model: Pointer, times: BigInt64Array | null, room: number): void;
  /** 0, or -1 when there is no such kernel with as many arguments. */
  call(model: Pointer, call: KernelCall): Promise<number>;
  /** Nothing of the library may be used afterwards. */
  unload(): void;
}

type Koffi = typeof import('koffi');

/** Makes memory of this process that starts at a multiple of 64 bytes, as all memory of models does. */
export async function allocateAligned(): Promise<(bytes: number) => Uint8Array> {
  const koffi = await importKoffi();
  return (bytes) => {
    const room = new Uint8Array(bytes + LINE);
    const past = Number(koffi.address(room) % BigInt(LINE));
    return room.subarray((LINE - past) % LINE).subarray(0, bytes);
  };
}

async function importKoffi(): Promise<Koffi> {
  try {
    return await import('koffi');
  } catch (cause) {
    throw new LutraError(
      'environment',
      'the package koffi, through which native code is called, cannot be loaded',
      {
        hint: 'Run npm install again on this computer, or use the target wasm.',
        cause,
      },
    );
  }
}

const ERROR_BYTES = 512;

/** Opens a library that was compiled from `emitC`. Throws `invalid` when it is none. */
export async function openLibrary(path: string): Promise<NativeLibrary> {
  const koffi = await importKoffi();
  try {
    return bindLibrary(koffi, koffi.load(path));
  } catch (cause) {
    throw new LutraError('invalid', `${path} cannot be loaded: ${(cause as Error).message}`, {
      hint: 'Compile the model again on this computer.',
      cause,
    });
  }
}

function bindLibrary(koffi: Koffi, library: ReturnType<Koffi['load']>): NativeLibrary {
  const describe = library.func('const char *lutra_describe()');
  const supported = library.func('int32_t lutra_supported(const char *variant)');
  const open = library.func(
    'void *lutra_open(const char *weights, const char *variant, int32_t threads, uint8_t *error, int32_t bytes)',
  );
  const close = library.func('void lutra_close(void *model)');
  const cacheNew = library.func('int32_t lutra_cache_new(void *model)');
  const cacheFree = library.func('void lutra_cache_free(void *model, int32_t cache)');
  const step = library.func(
    'void lutra_step(void *model, const int32_t *tokens, int32_t n, const int32_t *sequences, int32_t count, ' +
      'const int32_t *outputs, float *logits)',
  );
  const times = library.func('void lutra_times(void *model, int64_t *times, int32_t room)');
  const call = library.func(
    'int32_t lutra_call(void *model, const char *kernel, void *buffers, int32_t bufferCount, const double *scalars, ' +
      'int32_t scalarCount, int32_t begin, int32_t end)',
  );

  /** `held` is memory that native code uses until the call is done. */
  const later = <T>(f: typeof step, args: readonly unknown[], held: readonly unknown[]): Promise<T> =>
    new Promise((done, fail) => {
      f.async(...args, (error: unknown, result: T) => {
        void held.length;
        if (error) fail(error);
        else done(result);
      });
    });

  return {
    describe: () => JSON.parse(describe()),
    supported: (variant) => supported(variant),
    openModel(weights, variant, threads) {
      const error = new Uint8Array(ERROR_BYTES);
      const model: Pointer | null = open(weights, variant, threads, error, ERROR_BYTES);
      if (model !== null) return model;
      const reason = new TextDecoder().decode(error.subarray(0, error.indexOf(0)));
      throw new LutraError('environment', `the model cannot be opened: ${reason}`);
    },
    closeModel: (model) => later(close, [model], []),
    newCache: (model) => cacheNew(model),
    freeCache: (model, cache) => cacheFree(model, cache),
    step(model, { n, count, tokens, sequences, outputs }, logits) {
      const args = [model, tokens, n, sequences, count, outputs, logits];
      return later(step, args, args);
    },
    // Looked for when it is wanted: libraries of older artifacts lack it.
    stop: (model) => library.func('void lutra_stop(void *model)')(model),
    noteTimes: (model, memory, room) => times(model, memory, room),
    call(model, { kernel, buffers, scalars, begin, end }) {
      const addresses = BigUint64Array.from(buffers, (b) => koffi.address(b));
      const values = Float64Array.from(scalars);
      const args = [model, kernel, addresses, addresses.length, values, values.length, begin, end];
      return later(call, args, [...args, ...buffers]);
    },
    unload: () => library.unload(),
  };
}
