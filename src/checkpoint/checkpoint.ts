/** What a checkpoint tensor's bytes are; little endian. */
export type StoredDType = 'bf16' | 'f16' | 'f32' | 'u8' | 'i8' | 'i32';

export interface TensorInfo {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/**
 * A model as users have it. Tensors are read one at a time, by byte range: opening a checkpoint reads
 * headers only, and nothing here keeps a tensor once it is returned.
 */
export interface Checkpoint {
  /** The folder it was read from, for messages. */
  readonly path: string;
  /** config.json, parsed. */
  readonly config: Readonly<Record<string, unknown>>;
  /** generation_config.json, parsed; empty when there is none. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
  /** Texts of tokenizer.json, tokenizer_config.json, chat_template.jinja, ... by file name. */
  readonly textFiles: ReadonlyMap<string, string>;
  /** The readable tensors. Those of other dtypes (f64, i64, f8, ...) are left out; `read` refuses them by name. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * A tensor's bytes; throws `not-found` naming the tensor, `unsupported` naming a dtype that is not a
   * StoredDType, or `invalid` when its file is cut short.
   */
  read(name: string): Promise<Uint8Array>;
  close(): Promise<void>;
}
