/** The threads that run a module and the memory they work on, in one of two ways (shared or not). */
import { LutraError } from '../../common/errors.ts';

export interface Job {
  /** Name of the exported function. */
  readonly fn: string;
  /** All threads run it, with their number and how many they are as last arguments; else one runs it. */
  readonly team: boolean;
  readonly args: readonly number[];
  /** Copied into memory before. */
  readonly inputs: readonly { readonly at: number; readonly bytes: Uint8Array }[];
  /** Copied out of memory after. */
  readonly outputs: readonly { readonly at: number; readonly into: Uint8Array }[];
}

/** Jobs come one at a time: the next one after the promise of the last has settled. */
export interface Team {
  readonly threads: number;
  /** Makes the memory reach to `end`, zeros at first. Throws `environment`. */
  ensure(end: number): void;
  /** Sets bytes to zero before the next job. */
  clear(at: number, bytes: number): void;
  /**
   * Lets `read` write each piece of a stretch of memory: `offset` counts from its start. Several pieces may be read
   * at a time, and several stretches filled.
   */
  fill(at: number, bytes: number, read: (offset: number, into: Uint8Array) => Promise<void>): Promise<void>;
  /** Rejects with a LutraError if the code traps or the team is closed. After that it runs nothing more. */
  run(job: Job): Promise<void>;
  close(): Promise<void>;
}

/** Bytes that are read at a time. */
export const PIECE = 16 << 20;

/** `end`: how far the memory should have reached, where that is known. */
export function noMemory(end: number | undefined, cause: unknown): LutraError {
  const size = end === undefined ? 'more memory' : `${Math.ceil(end / 2 ** 20)} MiB of memory`;
  return new LutraError('environment', `wasm: the engine does not give ${size}`, {
    hint: 'Free memory, use fewer sessions or a shorter context, or a smaller model.',
    cause,
  });
}
