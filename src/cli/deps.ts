import type { CompileOptions } from '../api/compile.ts';
import type { Converted, ConvertOptions } from '../api/convert.ts';
import type { loadEmbedder } from '../api/embed.ts';
import type { load } from '../api/load.ts';
import type { StandaloneCompileOptions } from '../api/standalone.ts';
import type { TuneOptions, TuneResult } from '../api/tune.ts';
import type { Standalone } from '../artifact/standalone.ts';
import type { Model } from '../runtime/types.ts';
import type { BenchWorker } from './bench/fork.ts';
import type { Io } from './io.ts';

/** What commands work with; tests give them other streams and models. */
export interface Deps {
  readonly io: Io;
  readonly load: (source: string, options?: Parameters<typeof load>[1]) => Promise<Model>;
  readonly loadEmbedder: typeof loadEmbedder;
  /** Returns the folder it wrote. */
  readonly compile: (source: string, options?: CompileOptions) => Promise<string>;
  /** Writes a GGUF file. */
  readonly convert: (source: string, output: string, options: ConvertOptions) => Promise<Converted>;
  /** Writes a C project. */
  readonly standalone: (source: string, options: StandaloneCompileOptions) => Promise<Standalone>;
  readonly tune: (source: string, options?: TuneOptions) => Promise<TuneResult>;
  readonly bench: BenchWorker;
}
