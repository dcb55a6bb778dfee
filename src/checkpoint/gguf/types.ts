/** The tensor types of GGUF: how many values a block has, and how many bytes. */
import { alignUp } from '../../common/math.ts';

/** Sizes of one type. `tail`: bytes after the last block, which I2_S and its kin use for their one scale. */
export interface GgufLayout {
  readonly id: number;
  readonly block: number;
  readonly bytes: number;
  readonly tail?: number;
}

/**
 * The types lutra reads. Q2_0_128 is Q2_0 as PrismML's first files have it, under the same number. TL1 and
 * TL2 lie in tiles (see tl.ts), and only the size of TL1 is that of blocks.
 */
export const GGUF_TYPES = {
  F32: { id: 0, block: 1, bytes: 4 },
  F16: { id: 1, block: 1, bytes: 2 },
  Q4_0: { id: 2, block: 32, bytes: 18 },
  Q8_0: { id: 8, block: 32, bytes: 34 },
  Q2_K: { id: 10, block: 256, bytes: 84 },
  Q4_K: { id: 12, block: 256, bytes: 144 },
  Q6_K: { id: 14, block: 256, bytes: 210 },
  BF16: { id: 30, block: 1, bytes: 2 },
  TQ1_0: { id: 34, block: 256, bytes: 54 },
  TQ2_0: { id: 35, block: 256, bytes: 66 },
  I2_S: { id: 36, block: 4, bytes: 1, tail: 32 },
  TL1: { id: 38, block: 4, bytes: 1, tail: 32 },
  TL2: { id: 39, block: 1, bytes: Number.NaN },
  Q1_0: { id: 41, block: 128, bytes: 18 },
  Q2_0: { id: 42, block: 64, bytes: 18 },
  Q2_0_128: { id: 42, block: 128, bytes: 34 },
} as const satisfies Readonly<Record<string, GgufLayout>>;

export type GgufType = keyof typeof GGUF_TYPES;

/** Types whose one scale comes after the blocks. */
export const TAILED: ReadonlySet<GgufType> = new Set(['I2_S', 'TL1', 'TL2']);

/** Further numbers: bitnet.cpp moved TL2 when llama.cpp gave its number to MXFP4. */
const ALIASES: ReadonlyMap<number, GgufType> = new Map([[42, 'TL2']]);

/** Bytes of a tensor; not an integer when its rows are no whole blocks. */
export function ggufBytes(type: GgufType, shape: readonly number[]): number {
  if (type === 'TL2') return tl2Bytes(shape);
  const layout: GgufLayout = GGUF_TYPES[type];
  const row = (shape.at(-1) ?? 1) / layout.block;
  if (!Number.isInteger(row)) return Number.NaN;
  return (
    shape.slice(0, -1).reduce((product, size) => product * size, row) * layout.bytes + (layout.tail ?? 0)
  );
}

/**
 * What bitnet.cpp reserves for a TL2 matrix, in its integer arithmetic: 5 bits for 3 weights of all columns
 * but 256, 4 bits for 2 of those, up to a multiple of 32, and 32 for the scale.
 */
function tl2Bytes(shape: readonly number[]): number {
  const [rows = 1, cols = 1] = shape;
  if (shape.length !== 2 || cols < 256) return Number.NaN;
  const threes = Math.trunc((Math.trunc(((cols - 256) * rows) / 3) * 5) / 8);
  return alignUp(threes + Math.trunc((Math.trunc((256 * rows) / 2) * 4) / 8), 32) + 32;
}

/** Types that lutra does not read, for messages and, where the size is known, to check the file by. */
const OTHER_TYPES: ReadonlyMap<number, readonly [name: string, block?: number, bytes?: number]> = new Map([
  [3, ['Q4_1', 32, 20]],
  [6, ['Q5_0', 32, 22]],
  [7, ['Q5_1', 32, 24]],
  [9, ['Q8_1', 32, 36]],
  [11, ['Q3_K', 256, 110]],
  [13, ['Q5_K', 256, 176]],
  [15, ['Q8_K', 256, 292]],
  [16, ['IQ2_XXS', 256, 66]],
  [17, ['IQ2_XS', 256, 74]],
  [18, ['IQ3_XXS', 256, 98]],
  [19, ['IQ1_S', 256, 50]],
  [20, ['IQ4_NL', 32, 18]],
  [21, ['IQ3_S', 256, 110]],
  [22, ['IQ2_S', 256, 82]],
  [23, ['IQ4_XS', 256, 136]],
  [24, ['I8', 1, 1]],
  [25, ['I16', 1, 2]],
  [26, ['I32', 1, 4]],
  [27, ['I64', 1, 8]],
  [28, ['F64', 1, 8]],
  [29, ['IQ1_M', 256, 56]],
  [37, ['I8_S']],
  [39, ['MXFP4', 32, 17]],
  [40, ['NVFP4', 64, 36]],
  [134, ['IQ1_BN']],
  [135, ['IQ2_BN']],
  [142, ['PQ2_0', 128, 34]],
  [143, ['PTQ1_0', 128, 28]],
  [335, ['IQ2_BN_R4']],
]);

export interface Recognized {
  /** Undefined for a type that lutra does not read. */
  readonly type: GgufType | undefined;
  /** The name, and the number where that is all there is. */
  readonly name: string;
  /** Undefined where the size is not known; not an integer when rows are no whole blocks. */
  readonly bytes: number | undefined;
}

/**
 * The type of a tensor. Some numbers mean one thing in llama.cpp and another in a fork: 39 is MXFP4 or TL2,
 * and 42 is Q2_0, of which there are two, or TL2. What fills the room up to the next tensor is what was meant.
 * @param room bytes up to the next tensor or the end of the file
 */
export function recognizeType(
  id: number,
  shape: readonly number[],
  room: number,
  alignment: number,
): Recognized {
  const candidates: Recognized[] = [];
  for (const type of Object.keys(GGUF_TYPES) as GgufType[]) {
    if (GGUF_TYPES[type].id === id || ALIASES.get(id) === type)
      candidates.push({ type, name: type, bytes: ggufBytes(type, shape) });
  }
  const [name, block, bytes] = OTHER_TYPES.get(id) ?? [];
  if (name !== undefined) {
    const size = block === undefined || bytes === undefined ? undefined : otherBytes(shape, block, bytes);
    candidates.push({ type: undefined, name: `${name} (${id})`, bytes: size });
  }
  const fills = candidates.find(
    (candidate) =>
      candidate.bytes !== undefined && candidate.bytes <= room && room - candidate.bytes < alignment,
  );
  return fills ?? candidates[0] ?? { type: undefined, name: `number ${id}`, bytes: undefined };
}

function otherBytes(shape: readonly number[], block: number, bytes: number): number {
  const row = (shape.at(-1) ?? 1) / block;
  if (!Number.isInteger(row)) return Number.NaN;
  return shape.slice(0, -1).reduce((product, size) => product * size, row) * bytes;
}
