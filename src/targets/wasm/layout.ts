/**
 * The fixed part of a program's memory, in bytes. What follows is laid out by the executable.
 *
 * ```
 *        0  left empty
 *       64  control words, each in a line of its own
 *      384  arguments of the current job, float64
 *     2560  where to note times
 *     4096  words of every thread, each in a line of its own
 *    20480  constant pool: v128 constants that loops use
 *    1 MiB  scratch of thread 0, of thread 1, ...; weights; arena; caches ...
 * ```
 */
import { LINE } from '../../loops/ir.ts';

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

/** Most threads there can be. */
const MAX_THREADS = 256;
const THREADS_AT = 4096;
/** From the words of one thread to those of the next. */
export const THREAD_BYTES = LINE;
/** Of a thread's words: what was taken of its share, the call it is of and in the last 8 bits how many parts (share.ts). */
export const TAKEN_AT = THREADS_AT;
/** Kernels that it has called, times 256. */
export const CALLS_AT = THREADS_AT + 4;
/** Waits in the barrier since looking at the generation last helped. */
export const VAIN_AT = THREADS_AT + 8;
/** Written to without use. */
export const PAUSE_AT = THREADS_AT + 12;
export const POOL_AT = THREADS_AT + MAX_THREADS * THREAD_BYTES;

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
  /** Scratch memory of each thread, a multiple of 64. */
  readonly scratchBytes: number;
}
