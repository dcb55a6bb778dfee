/**
 * A WebAssembly module as plain data: what `encode.ts` turns into bytes and `print.ts` into text. It knows
 * the part of WebAssembly that lutra uses: one imported memory, imported i32 globals and functions, functions, data.
 */
import type { OpName } from './opcodes.ts';

export type ValType = 'i32' | 'i64' | 'f32' | 'v128';

/** An instruction and its immediates, flat: `block`, `loop` and `if` are closed by an `end`. */
export type Instr = readonly [op: OpName, ...args: number[]];

export interface WasmLocal {
  readonly name: string;
  readonly type: ValType;
}

export interface WasmFunction {
  readonly name: string;
  readonly params: readonly WasmLocal[];
  /** Numbered after the parameters. */
  readonly locals: readonly WasmLocal[];
  /** Without the final `end`. */
  readonly body: readonly Instr[];
  /** Exported under its name. */
  readonly exported: boolean;
}

export interface WasmModule {
  /** Imported as env.memory. */
  readonly memory: { readonly minPages: number; readonly maxPages: number; readonly shared: boolean };
  /** Immutable i32 globals, imported from env under these names. */
  readonly globals: readonly string[];
  /** Functions without parameters, imported from env under these names; they come first in the numbering. */
  readonly imports?: readonly string[];
  /** Functions return nothing. */
  readonly functions: readonly WasmFunction[];
  /** Written into the memory when the module is instantiated. */
  readonly data: readonly { readonly at: number; readonly bytes: Uint8Array }[];
  /** Sections that engines ignore. */
  readonly custom: readonly { readonly name: string; readonly bytes: Uint8Array }[];
}

/** Bytes of a page, the unit of memory sizes. */
export const PAGE = 65536;

/** Pages that addresses of 32 bits reach. */
export const MAX_PAGES = 65536;
