/**
 * A program in WebAssembly with its weights, ready to run. Memory, after the fixed part (layout.ts):
 * scratch of every thread | weights | arena | heap: caches, tokens and logits of a step.
 */
import { LutraError } from '../../common/errors.ts';
import { alignUp } from '../../common/math.ts';
import { LINE } from '../../loops/ir.ts';
import type { StepTables } from '../../loops/step.ts';
import type { Platform } from '../../platform/platform.ts';
import { batchTables } from '../batch.ts';
import type { CacheHandle, Executable, KernelCall, LookupTable, MemoryNeeds } from '../executable.ts';
import { selectLogits } from '../selected.ts';
import { type CompiledModule, engine } from './engine.ts';
import { Heap } from './heap.ts';
import { BUFFERS_AT, FACTS_SECTION, type ModuleFacts, TIMES_AT } from './layout.ts';
import { outside, rowLoader, type Stretch } from './lookups.ts';
import { MAX_PAGES, PAGE } from './module.ts';
import { startSharedTeam } from './shared-team.ts';
import type { Job, Team } from './team.ts';
import { unshare } from './unshare.ts';
import { startUnsharedTeam } from './unshared-team.ts';

export interface WasmExecutableOptions {
  /** What `emitWasm` gave, for shared memory; where the platform has none, its flag is taken away. */
  readonly module: Uint8Array;
  /** Name of the machine it was emitted for. */
  readonly target: string;
  readonly needs: MemoryNeeds;
  readonly weights: {
    readonly bytes: number;
    /** Fills `into` from byte `offset` on. It may be a view of shared memory. */
    read(offset: number, into: Uint8Array): Promise<void>;
    /** Tables whose rows are read when a step first wants them: `read` must then work until the executable is closed. */
    readonly lookups?: readonly LookupTable[];
  };
  /** Without shared memory there is one, whatever this says. */
  readonly threads: number;
  readonly platform: Platform;
  /** Take the code that the engine makes by itself, also where the platform can have it make better code. */
  readonly plain?: boolean;
}

const LIMIT = MAX_PAGES * PAGE;

async function compile(options: WasmExecutableOptions): Promise<CompiledModule> {
  options.platform.unlockEngine();
  try {
    const { module, platform } = options;
    const compiling = () => engine.compile(platform.sharedMemory ? module : unshare(module));
    return await (options.plain === true ? compiling() : options.platform.optimizing(compiling));
  } catch (cause) {
    throw new LutraError('environment', `this JavaScript engine does not take code for ${options.target}`, {
      hint: 'Use --target wasm:baseline, or a newer engine.',
      cause,
    });
  }
}

function factsOf(module: CompiledModule): ModuleFacts {
  const [section] = engine.Module.customSections(module, FACTS_SECTION);
  if (section === undefined) throw new LutraError('invalid', 'wasm: the module was not emitted by lutra');
  return JSON.parse(new TextDecoder().decode(section)) as ModuleFacts;
}

/** Places stretches of memory one after the other, each at a multiple of 64. */
function stacked(
  from: number,
  sizes: readonly number[],
): { readonly at: readonly number[]; readonly end: number } {
  let end = from;
  const at = sizes.map((bytes) => {
    const start = end;
    end = alignUp(end + bytes, LINE);
    return start;
  });
  return { at, end };
}

/**
 * Loads a program: compiles the module, starts its threads, reads the weights. Throws `environment` when the
 * engine cannot run it or the memory does not suffice.
 */
export async function createWasmExecutable(options: WasmExecutableOptions): Promise<Executable> {
  const { needs, weights, platform, target } = options;
  const module = await compile(options);
  const facts = factsOf(module);
  const threads = platform.sharedMemory ? options.threads : 1;
  const { at, end } = stacked(BUFFERS_AT, [threads * facts.scratchBytes, weights.bytes, needs.arenaBytes]);
  const [scratchAt, weightsAt, arenaAt] = at as [number, number, number];
  if (end + needs.cacheBytes > LIMIT) {
    const gibibytes = ((end + needs.cacheBytes) / 2 ** 30).toFixed(1);
    throw new LutraError('environment', `the model needs ${gibibytes} GiB, WebAssembly has 4 GiB`, {
      hint: 'Use native code (--target c), a shorter context or a smaller model.',
    });
  }
  const scratch = (tid: number) => scratchAt + tid * facts.scratchBytes;
  const team = platform.sharedMemory
    ? await startSharedTeam({ platform, module, threads, scratch, end })
    : await startUnsharedTeam({ platform, module, scratch: scratch(0) });
  const fill = ({ offset, bytes }: Stretch) =>
    team.fill(weightsAt + offset, bytes, (from, into) => weights.read(offset + from, into));
  try {
    team.ensure(end);
    for (const stretch of outside(weights.lookups ?? [], weights.bytes)) await fill(stretch);
  } catch (error) {
    await team.close();
    throw error;
  }
  return loaded({
    team,
    target,
    needs,
    weightsAt,
    arenaAt,
    cachesAt: end,
    heap: new Heap(end, LIMIT, team.ensure),
    ensureRows: rowLoader(weights.lookups ?? [], fill),
  });
}

interface Loaded {
  readonly team: Team;
  readonly target: string;
  readonly needs: MemoryNeeds;
  readonly weightsAt: number;
  readonly arenaAt: number;
  /** Where the heap begins, in which caches lie. */
  readonly cachesAt: number;
  readonly heap: Heap;
  /** Makes the rows of tokens be in memory. */
  readonly ensureRows: (tokens: Iterable<number>) => Promise<void>;
}

const bytesOf = (array: Int32Array | Float32Array | Float64Array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

const NO_TIMES = new Int32Array(2);

function loaded(parts: Loaded): Executable {
  const { team, target, needs, weightsAt, arenaAt, cachesAt, heap, ensureRows } = parts;
  /** In lines from `cachesAt`. */
  const caches = new Map<CacheHandle, number>();
  let last: Promise<unknown> = Promise.resolve();

  /** After whatever was asked before, successful or not. */
  const queued = <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work);
    last = result.catch(() => {});
    return result;
  };

  /** Runs a job whose first buffers are allocated for it alone, of these sizes. */
  const withBuffers = async (
    sizes: readonly number[],
    job: (at: readonly number[]) => Job,
  ): Promise<void> => {
    const blocks = [];
    try {
      for (const size of sizes) blocks.push(heap.allocate(size));
      await team.run(job(blocks.map(({ at }) => at)));
    } finally {
      for (const block of blocks) heap.release(block);
    }
  };

  const step = async (tables: StepTables, times: Float64Array): Promise<readonly Float32Array[]> => {
    const { vocab, logitsStride } = needs;
    const inputs = [tables.tokens, tables.sequences, tables.outputs];
    const logits = tables.rows.map((count) => new Float32Array(count * vocab));
    const rows = logits.flatMap((own) =>
      Array.from({ length: own.length / vocab }, (_, row) => own.subarray(row * vocab, (row + 1) * vocab)),
    );
    const sizes = [
      ...inputs.map(({ byteLength }) => byteLength),
      rows.length * logitsStride * 4,
      times.byteLength,
    ];
    await withBuffers(sizes, (at) => ({
      fn: 'main',
      team: true,
      args: [weightsAt, arenaAt, cachesAt, ...at.slice(0, 4), tables.tokens.length, tables.rows.length],
      inputs: [
        ...inputs.map((table, i) => ({ at: at[i]!, bytes: bytesOf(table) })),
        { at: at[4]!, bytes: bytesOf(times) },
        {
          at: TIMES_AT,
          bytes: bytesOf(times.length > 0 ? Int32Array.of(at[4]!, times.length / team.threads) : NO_TIMES),
        },
      ],
      outputs: [
        ...rows.map((row, i) => ({ at: at[3]! + i * logitsStride * 4, into: bytesOf(row) })),
        { at: at[4]!, into: bytesOf(times) },
      ],
    }));
    return logits;
  };

  /** Runs main and gives what it writes to the logits. */
  const run = async (tables: StepTables, floats: number): Promise<Float32Array> => {
    const inputs = [tables.tokens, tables.sequences, tables.outputs];
    const logits = new Float32Array(floats);
    await withBuffers(
      [...inputs, logits].map(({ byteLength }) => byteLength),
      (at) => ({
        fn: 'main',
        team: true,
        args: [weightsAt, arenaAt, cachesAt, ...at, tables.n, tables.count],
        inputs: [
          ...inputs.map((table, i) => ({ at: at[i]!, bytes: bytesOf(table) })),
          { at: TIMES_AT, bytes: bytesOf(NO_TIMES) },
        ],
        outputs: [{ at: at[3]!, into: bytesOf(logits) }],
      }),
    );
    return logits;
  };

  const callKernel = ({ kernel, buffers, scalars, begin, end }: KernelCall): Promise<void> =>
    withBuffers(
      buffers.map(({ length }) => length),
      (at) => ({
        fn: kernel,
        team: false,
        args: [...at, ...scalars, begin, end],
        inputs: buffers.map((bytes, i) => ({ at: at[i]!, bytes })),
        outputs: buffers.map((into, i) => ({ at: at[i]!, into })),
      }),
    );

  return {
    target,
    threads: team.threads,
    createCache: () => {
      const block = heap.allocate(needs.cacheBytes);
      if (block.usedBefore > 0) team.clear(block.at, block.usedBefore);
      const handle: CacheHandle = {
        bytes: needs.cacheBytes,
        free: () => {
          // Steps asked for before may still use it.
          if (caches.delete(handle)) void queued(async () => heap.release(block));
        },
      };
      caches.set(handle, (block.at - cachesAt) / LINE);
      return handle;
    },
    step: async (requests, times = new Float64Array(0)) => {
      const tables = batchTables(requests, (cache) => caches.get(cache));
      return queued(async () => {
        await ensureRows(tables.tokens);
        return step(tables, times);
      });
    },
    stepSelected: async (requests) => {
      const [full, scan] = [false, true].map((bounds) =>
        batchTables(requests, (cache) => caches.get(cache), bounds),
      ) as [StepTables, StepTables];
      return queued(async () => {
        await ensureRows(full.tokens);
        return selectLogits({ requests, full, scan, needs, run });
      });
    },
    callKernel: (call) => queued(() => callKernel(call)),
    stop: () => void team.close(),
    close: () => team.close(),
  };
}
