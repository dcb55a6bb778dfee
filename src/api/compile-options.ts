/** How a model can be compiled. */

import type { Extend } from '../artifact/build.ts';
import type { WeightOptions } from '../models/quantization.ts';
import type { Family, HeadForm, TernaryEncoding } from '../passes/pass.ts';
import type { TunedSchedule } from '../plan/types.ts';
import type { Progress } from '../runtime/types.ts';
import type { Arch } from '../targets/c/machines.ts';

/** How a user asks for the elements of the KV cache. */
export type CacheForm = 'f32' | 'f16' | 'int8';

export interface CompileOptions extends Omit<WeightOptions, 'byteSums'> {
  /** Folder to write; default: a place in the cache, reused when nothing changed. */
  readonly output?: string;
  /** `auto` (default): native code where a C compiler is found, and WebAssembly. */
  readonly target?: string;
  readonly context?: number;
  /**
   * Elements of the KV cache. f16 halves its size and rounds keys and values; int8 quarters it, with a scale for each
   * key and value. Default f32.
   */
  readonly cache?: CacheForm;
  /**
   * `stored` keeps the output head as the checkpoint has it (default); `exact` keeps it too and adds a table of
   * 6 bits a weight, by which greedy, top-k and min-p choices come at a fraction of the bytes and are the same;
   * `int8`, `int6` and `int4` round it.
   */
  readonly head?: HeadForm;
  /**
   * Bits of ternary weights: `i2` takes 2, `t5b` 1.6 and more work to read, with the same results. `auto` (default)
   * is `t5b` where this CPU has AVX-512 VBMI and VNNI and the weights do not fit its caches, so that memory binds.
   */
  readonly encoding?: 'auto' | TernaryEncoding;
  /**
   * How ternary weights, and weights in groups, of 1 to 4 bits, are multiplied: `mad` by multiplying, `lut` by looking
   * up sums of 4 activations, with the same results. Of weights in groups alone: `lut-int8` looks them up in 8 bits, to
   * which activations are rounded so that sums fit (normalized mean squared error of a product up to 6e-5), `lut-fast`
   * adds these by averages too (1e-3); there, `activations` are what that is rounded from: `f32` (default), `f16` or
   * `int8`. `popcount` counts bits, with the results of `mad` and slower. `auto` (default) is `lut` where that was
   * measured to be faster: for 1 bit on processors without a dot product of 4 bytes.
   */
  readonly family?: 'auto' | Family;
  /** What the weights are for, where that is not this machine: their encodings are chosen for it; default: this one. */
  readonly arch?: Arch | 'any';
  /** Threads of the run that records what the artifact computes. */
  readonly threads?: number;
  /** Tuning records whose adopted schedules are taken; default: those of `tune` on this computer. */
  readonly records?: string;
  /** Schedules to take, whatever any records say. */
  readonly tuned?: readonly TunedSchedule[];
  /** Adds operators, kernels and outside code of the user's own; needs `output`. */
  readonly extend?: Extend;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  readonly onWarning?: (message: string) => void;
}
