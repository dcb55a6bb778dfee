import type { CodeBits, Dim, DType, TensorType } from './ir.ts';

/** All element types, in the order of documentation. */
export const DTYPES: readonly DType[] = [
  'f32',
  'f16',
  'bf16',
  'i8',
  'i16',
  'i32',
  'ternary',
  'u1',
  'u2',
  'u3',
  'u4',
  'u6',
  'u8',
];

/** What a checkpoint stores unquantized. */
export const FLOATS: readonly DType[] = ['f32', 'f16', 'bf16'];

const CODE_BITS = { u1: 1, u2: 2, u3: 3, u4: 4, u6: 6, u8: 8 } as const satisfies Partial<
  Record<DType, CodeBits>
>;

/** Unsigned codes of weights quantized in groups. */
export const CODES = Object.keys(CODE_BITS) as readonly (keyof typeof CODE_BITS)[];

export function isCode(dtype: DType): dtype is keyof typeof CODE_BITS {
  return Object.hasOwn(CODE_BITS, dtype);
}

/** Bits of a code; undefined for a dtype that is none. */
export function codeBits(dtype: DType): CodeBits | undefined {
  return isCode(dtype) ? CODE_BITS[dtype] : undefined;
}

export function tensor(dtype: DType, ...shape: Dim[]): TensorType {
  return { dtype, shape };
}

/** As the printer writes it: `f32[tokens, 256]`. */
export function typeText(type: TensorType): string {
  return `${type.dtype}[${type.shape.join(', ')}]`;
}

export function sameType(a: TensorType, b: TensorType): boolean {
  return (
    a.dtype === b.dtype &&
    a.shape.length === b.shape.length &&
    a.shape.every((dim, axis) => dim === b.shape[axis])
  );
}

/** True for a size of at least 1 that is known at compile time. */
export function isSize(dim: Dim): dim is number {
  return typeof dim === 'number' && Number.isSafeInteger(dim) && dim >= 1;
}

/** The number of elements, or undefined when an axis is known only per step. */
export function elementCount(type: TensorType): number | undefined {
  let count = 1;
  for (const dim of type.shape) {
    if (typeof dim !== 'number') return undefined;
    count *= dim;
  }
  return count;
}
