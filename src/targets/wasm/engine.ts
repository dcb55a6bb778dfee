/**
 * The JavaScript interface of WebAssembly, as far as it is used. TypeScript declares it only among the
 * types of browsers, which this project does without.
 */

export interface Memory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Grows by so many pages; throws a RangeError when that is not possible. */
  grow(pages: number): number;
}

/** Compiled code; can be posted to other threads. */
export interface CompiledModule {
  /** Never set: it keeps other objects from being taken for modules. */
  readonly compiledModule?: never;
}

interface WebAssemblyGlobal {
  readonly Memory: new (limits: { initial: number; maximum: number; shared: boolean }) => Memory;
  readonly Module: {
    new (bytes: Uint8Array): CompiledModule;
    customSections(module: CompiledModule, name: string): ArrayBuffer[];
    exports(module: CompiledModule): { readonly name: string }[];
  };
  readonly Instance: new (
    module: CompiledModule,
    imports: { env: Record<string, unknown> },
  ) => { readonly exports: Readonly<Record<string, (...args: number[]) => void>> };
  compile(bytes: Uint8Array): Promise<CompiledModule>;
  validate(bytes: Uint8Array): boolean;
}

export const engine = (globalThis as unknown as { readonly WebAssembly: WebAssemblyGlobal }).WebAssembly;
