/**
 * The fixed part of a program's memory, in bytes. What follows is laid out by the executable.
 *
 * ```
 *        0  left empty
 *       64  control words, each in a line of its own
 *      384  arguments of the current job, float64
 *     2560  where to note times
 *     4096  constant pool: v128 constants that loops use
 *    1 MiB  scratch of thread 0, of thread 1, ...; weights; arena; caches ...
 * ```
 */

/**
 * Counts jobs; workers wait for it to change. Bit patterns wrap, as all control words do.
 */
export const JOB_AT = 64;
/** Threads that have not finished the current job. */
export const PENDING_AT = 128;
/** Threads that have reached the current barrier. */
export const ARRIVED_AT = 192;
/** Counts barriers passed; threads wait for it to change. */
export const GENERATION_AT = 256;
/** Threads asleep in a barrier. */
export const SLEEPERS_AT = 320;
/** [index of the exported function, 1 if the whole team runs it, number of arguments, arguments ...] */
export const ARGUMENTS_AT = 384;
export const MAX_ARGUMENTS = 256;
/** [address, room for so many]: where threads note times, float64, a stretch for each; 0 where nobody asks. */
export const TIMES_AT = 2560;
export const POOL_AT = 4096;

/**
 * Where buffers may begin. Emitted code folds index constants of less than this many bytes into the
 * offset immediate, which WebAssembly adds without wrapping: a buffer must lie at least as high, so that
 * the rest of the address is never negative.
 */
export const BUFFERS_AT = 1 << 20;

/** Name of the custom section that holds a `ModuleFacts` as JSON. */
export const FACTS_SECTION = 'lutra';

/** What the executable must know of a module before it runs. */
export interface ModuleFacts {
  /** Whether its memory is shared. */
  readonly shared: boolean;
  /** Scratch memory of each thread, a multiple of 64. */
  readonly scratchBytes: number;
}
