/** What every target gives the runtime: a program with its weights, ready to run. */

/** The most threads that a program runs on. */
export const MAX_THREADS = 256;

/** The sizes a loaded program needs, all in bytes. */
export interface MemoryNeeds {
  readonly arenaBytes: number;
  /** Of one session's KV cache. */
  readonly cacheBytes: number;
  readonly vocab: number;
  /** Row stride of the logits, in floats. */
  readonly logitsStride: number;
  /** Whether steps can bound logits first. */
  readonly scans?: boolean | undefined;
}

/** A table in the weights, one row for each token of the vocabulary, of which steps read those of their tokens. In bytes. */
export interface LookupTable {
  /** From the start of the weights. */
  readonly offset: number;
  readonly bytes: number;
  readonly rowBytes: number;
}

/** One session's part in a forward step. */
export interface StepRequest {
  readonly tokens: Int32Array;
  /** Absolute position of the first token. */
  readonly position: number;
  readonly cache: CacheHandle;
  readonly logits: 'last' | 'all';
}

/**
 * Filled while a step runs: [threads][room] times in milliseconds, as performance.now() counts them. Of each
 * thread: when it began, then when it came to each barrier of `main` and when it left it. What does not fit is
 * not noted, and what was not noted stays as it was. (Without shared memory nothing is.)
 */
export type StepTimes = Float64Array;

export interface SelectRequest extends StepRequest {
  readonly select: SelectLogits;
}

/**
 * Chooses among the logits of an output of a step, by what they are at least and at most, [vocab] each: the
 * tokens that matter, ascending. Undefined: all of them do.
 */
export type SelectLogits = (low: Float32Array, high: Float32Array, output: number) => Int32Array | undefined;

/** Some logits of an output. */
export interface SparseLogits {
  /** Tokens, ascending, and the logit of each. */
  readonly ids: Int32Array;
  readonly values: Float32Array;
}

/** The logits of one output: all of them, [vocab], or those that were chosen. */
export type Logits = Float32Array | SparseLogits;

/** A session's KV cache in the target's memory. */
export interface CacheHandle {
  readonly bytes: number;
  free(): void;
}

/** Sequences that one step may have: as many tokens of them are computed in one sweep over the weights. */
export const MAX_SEQUENCES = 16;

/** Runs one kernel on given bytes, for self-tests: buffers in parameter order, copied in and out. */
export interface KernelCall {
  readonly kernel: string;
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
  /** Range of the thread loop to run. */
  readonly begin: number;
  readonly end: number;
}

/**
 * A program loaded on a device. Nothing here blocks the event loop: steps run on threads of the target.
 * Steps are run one at a time; a second call waits for the first.
 */
export interface Executable {
  /** `c:avx2`, `c:scalar`, `wasm:relaxed`, `wasm:baseline`, ... */
  readonly target: string;
  readonly threads: number;
  createCache(): CacheHandle;
  /**
   * One forward step of 1 to MAX_SEQUENCES sessions, each with a cache of its own. Gives the logits of each,
   * [1 or tokens.length, vocab], freshly allocated. A session's are the same whatever others step with it.
   */
  step(requests: readonly StepRequest[], times?: StepTimes): Promise<readonly Float32Array[]>;
  /**
   * A step that computes only the logits that the requests choose, where the program can bound them first and
   * there are few outputs; else all. Of each request its outputs, one after the other. Every logit has the bits
   * that `step` gives it.
   */
  stepSelected(requests: readonly SelectRequest[]): Promise<readonly (readonly Logits[])[]>;
  /** Takes back logits that nobody looks at any more, all of an output and alone in their memory: for a later step. */
  recycle?(logits: Float32Array): void;
  callKernel(call: KernelCall): Promise<void>;
  /**
   * Ends the step that runs as soon as may be, where the target can: it throws `cancelled`, as all later ones. Only
   * for an executable that its code was just compiled for, and that is closed next.
   */
  stop?(): void;
  close(): Promise<void>;
}
