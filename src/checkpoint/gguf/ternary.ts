/** Ternary matrices, whichever GGUF type they have: trits and one scale. */
import { LutraError } from '../../common/errors.ts';
import { narrowFloats, widenHalves } from '../../common/halves.ts';
import { decodeGroups, GROUPED, type GroupedType } from './groups.ts';
import { decodeTl1, decodeTl2 } from './tl.ts';
import { type GgufType, ggufBytes, TAILED } from './types.ts';

/**
 * The two orders of I2_S. `x86` is what the published files have: byte p of 32 has the values p, 32 + p,
 * 64 + p, 96 + p of 128. Since November 2025 bitnet.cpp writes 64 values in 16 bytes when it runs on ARM.
 */
export const I2S_ORDERS = ['x86', 'arm'] as const;
export type I2sOrder = (typeof I2S_ORDERS)[number];

export interface TernaryMatrix {
  /** Row-major. */
  readonly trits: Int8Array;
  readonly scale: number;
}

export interface TernaryRequest {
  readonly type: GgufType;
  readonly rows: number;
  readonly cols: number;
  /** For messages. */
  readonly tensor: string;
  readonly order: I2sOrder;
}

/**
 * A matrix of -s, 0 and s.
 * @throws `invalid` for codes that are no trits, `unsupported` for weights that are not ternary, or not with
 *   one scale for the matrix
 */
export function decodeTernary(bytes: Uint8Array, request: TernaryRequest): TernaryMatrix {
  const { type, rows, cols, tensor, order } = request;
  if (TAILED.has(type)) {
    const scale = tailScale(bytes.subarray(ggufBytes(type, [rows, cols]) - 32), tensor);
    const blocks = bytes.subarray(0, -32);
    switch (type) {
      case 'TL1':
        return { trits: decodeTl1(blocks, rows, cols, tensor), scale };
      case 'TL2':
        return { trits: decodeTl2(blocks, rows, cols, tensor), scale };
      default:
        return { trits: decodeI2s(blocks, tensor, order), scale };
    }
  }
  if (type in GROUPED) return tritsOfGroups(type as GroupedType, bytes, tensor);
  return tritsOfFloats(floatsOf(type, bytes), tensor);
}

function tailScale(tail: Uint8Array, tensor: string): number {
  const scale = new DataView(tail.buffer, tail.byteOffset, 4).getFloat32(0, true);
  if (Number.isFinite(scale) && scale > 0) return scale;
  throw new LutraError('invalid', `tensor ${tensor} has the scale ${scale}, expected one above 0`, {
    hint: 'The file is damaged or incomplete: download or convert it again.',
  });
}

function decodeI2s(bytes: Uint8Array, tensor: string, order: I2sOrder): Int8Array {
  const trits = new Int8Array(bytes.length * 4);
  // A block of `step` bytes has values that far apart, the first at the highest bits.
  const step = order === 'x86' ? 32 : 16;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if ((byte & (byte >> 1) & 0x55) !== 0) {
      throw new LutraError(
        'invalid',
        `tensor ${tensor}: byte ${at} holds the code 3, which no ternary weight has`,
        {
          hint: 'The file is damaged: download or convert it again.',
        },
      );
    }
    const first = Math.floor(at / step) * step * 4 + (at % step);
    for (let l = 0; l < 4; l++) trits[first + l * step] = ((byte >> (6 - 2 * l)) & 3) - 1;
  }
  return trits;
}

/** Blocks that are all zero may have any scale; the others must have one magnitude, up to f16 rounding none. */
function tritsOfGroups(type: GroupedType, bytes: Uint8Array, tensor: string): TernaryMatrix {
  const { group, codes, scales, zero } = decodeGroups(type, bytes);
  if (typeof zero !== 'number') return notTernary(tensor, `type ${type} has minima`);
  const trits = new Int8Array(codes.length);
  let scale = 0;
  for (let g = 0; g < scales.length; g++) {
    const d = scales[g]!;
    if (d === 0) continue;
    for (let i = g * group; i < (g + 1) * group; i++) {
      const value = (codes[i]! - zero) * d;
      if (value === 0) continue;
      if (scale === 0) scale = Math.abs(value);
      if (value !== scale && value !== -scale) return notTernary(tensor, `it has both ${scale} and ${value}`);
      trits[i] = value > 0 ? 1 : -1;
    }
  }
  return checked(trits, scale, tensor);
}

/** Floats as f32, exactly. */
export function floatsOf(type: GgufType, bytes: Uint8Array): Float32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset, length } = aligned;
  if (type === 'F32') return new Float32Array(buffer, byteOffset, length / 4);
  if (type === 'F16' || type === 'BF16') {
    return widenHalves(new Uint16Array(buffer, byteOffset, length / 2), type === 'F16' ? 'f16' : 'bf16');
  }
  throw new LutraError('internal', `${type} is no type of floats`);
}

function tritsOfFloats(values: Float32Array, tensor: string): TernaryMatrix {
  const trits = new Int8Array(values.length);
  let scale = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value === 0) continue;
    if (scale === 0) scale = Math.abs(value);
    if (value !== scale && value !== -scale) return notTernary(tensor, `it has both ${scale} and ${value}`);
    trits[i] = value > 0 ? 1 : -1;
  }
  return checked(trits, scale, tensor);
}

function checked(trits: Int8Array, scale: number, tensor: string): TernaryMatrix {
  if (Number.isFinite(scale) && scale > 0) return { trits, scale };
  throw new LutraError('invalid', `tensor ${tensor} is all zeros or has no finite scale`, {
    hint: 'The file is damaged or incomplete: download or convert it again.',
  });
}

function notTernary(tensor: string, why: string): never {
  throw new LutraError('unsupported', `tensor ${tensor} is not ternary with one scale: ${why}`, {
    hint: 'A BitNet model has one scale for each matrix. Get a conversion in TQ1_0, TQ2_0 or I2_S.',
  });
}

/** Hugging Face's packing, which importers read: see `packed-ternary` in graph/ir.ts. `rows` is a multiple of 4. */
export function packTrits(trits: Int8Array): Uint8Array {
  const quarter = trits.length / 4;
  const packed = new Uint8Array(quarter);
  for (let i = 0; i < quarter; i++) {
    packed[i] =
      (trits[i]! + 1) |
      ((trits[i + quarter]! + 1) << 2) |
      ((trits[i + 2 * quarter]! + 1) << 4) |
      ((trits[i + 3 * quarter]! + 1) << 6);
  }
  return packed;
}

/** f16 bits, little endian. */
export function halfBytes(values: Float32Array): Uint8Array {
  const bits = narrowFloats(values, 'f16');
  return new Uint8Array(bits.buffer);
}
