/** The small inline functions that generated code is written with; only those in use appear in a file. */
import { typeName, type ValueType } from '../../loops/ir.ts';
import type { Arch, Isa } from './machines.ts';
import { cType, fullType, registerBytes, unsignedType, vectorTypedef } from './types.ts';
import { wrapLine } from './wrap.ts';

const ISA_MACRO: Record<Exclude<Isa, 'scalar'>, string> = {
  avx2: 'AVX2',
  avxvnni: 'AVXVNNI',
  avx512vnni: 'AVX512',
  avx512vbmi: 'AVX512VBMI',
  neon: 'NEON',
  dotprod: 'DOTPROD',
  i8mm: 'I8MM',
};

/** The macro that marks a function as compiled for an instruction set: `AVX2 `, or nothing. */
export function isaMacro(isa: Isa): string {
  return isa === 'scalar' ? '' : `${ISA_MACRO[isa]} `;
}

/** The helpers and vector types that a file needs, in order of first use. */
export class Helpers {
  readonly #texts = new Map<string, { readonly isa: Isa; readonly text: string }>();
  readonly #types = new Map<string, string>();
  /** Of all variants in the file. */
  readonly arch: Arch;

  constructor(arch: Arch) {
    this.arch = arch;
  }

  /** The least instruction set with registers that hold all these vectors. */
  isaOf(...types: readonly ValueType[]): Isa {
    if (types.every((t) => t.lanes === 1)) return 'scalar';
    if (this.arch === 'arm64') return 'neon';
    return types.some((t) => t.lanes > 1 && registerBytes(t) === 64) ? 'avx512vnni' : 'avx2';
  }

  /** The C name of a type; a vector type is declared in the file. */
  type(type: ValueType): string {
    if (type.lanes > 1) {
      const full = fullType(type);
      for (const t of [full, type]) this.#types.set(typeName(t), vectorTypedef(t));
    }
    return cType(type);
  }

  /** The type of the same register with unsigned lanes. */
  unsigned(type: ValueType): string {
    return this.type(unsignedType(type));
  }

  /**
   * Makes sure that a helper is in the file and returns its name. `parameters` are types, named a, b, c, d
   * in this order, or C declarations; `body` is the value returned, or statements.
   */
  define(
    name: string,
    isa: Isa,
    result: ValueType | 'void',
    parameters: readonly (ValueType | string)[],
    body: string,
  ): string {
    if (this.#texts.has(name)) return name;
    const list = parameters
      .map((p, i) => (typeof p === 'string' ? p : `${this.type(p)} ${'abcd'[i]}`))
      .join(', ');
    const type = result === 'void' ? 'void' : this.type(result);
    const head = `INLINE ${isaMacro(isa)}${type} ${name}(${list}) {`;
    const short = `${head} return ${body}; }`;
    const statements = body.includes(';') ? body.split('\n') : [`return ${body};`];
    const long = [...wrapLine(head, 0), ...statements.flatMap((s) => wrapLine(s, 1)), '}'].join('\n');
    this.#texts.set(name, { isa, text: body.includes(';') || wrapLine(short, 0).length > 1 ? long : short });
    return name;
  }

  /** Declarations of all vector types in use. */
  types(): string {
    const order = (line: string) => (line.includes('vector_size') ? 0 : 1);
    return [...this.#types.values()].sort((a, b) => order(a) - order(b) || (a < b ? -1 : 1)).join('\n');
  }

  /** The helpers written for one instruction set. */
  text(isa: Isa): string {
    return [...this.#texts.values()].flatMap((h) => (h.isa === isa ? [h.text] : [])).join('\n');
  }
}
