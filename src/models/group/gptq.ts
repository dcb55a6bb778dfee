/** Matrices as GPTQ quantizes and stores them: see `GroupSource`. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { LutraError } from '../../common/errors.ts';
import type { GroupSource } from '../../graph/ir.ts';
import { demandTensor, FLOAT_DTYPES, readFloats, readWords, type StoredFloats, toF32 } from '../tensors.ts';
import { type GroupMatrix, groupCount } from './matrix.ts';

type GptqSource = Extract<GroupSource, { readonly format: 'gptq' }>;

/** Codes of `bits` that lie one after the other in `words` words: 32 of them in `bits` words. */
function wordsOf(count: number, bits: number): number {
  return Math.ceil((count * bits) / 32);
}

/** Value `index` of a stream of codes whose words are `stride` apart, the lowest bits first. */
function codeAt(words: Uint32Array, start: number, stride: number, bits: number, index: number): number {
  const bit = index * bits;
  const at = start + (bit >>> 5) * stride;
  const shift = bit & 31;
  const low = words[at]! >>> shift;
  // A code of three bits may go on in the next word.
  const high = shift + bits > 32 ? words[at + stride]! << (32 - shift) : 0;
  return (low | high) & (2 ** bits - 1);
}

/** Rows whose codes are written at a time, so that what is read and what is written stay in a cache. */
const BLOCK = 64;

/** Codes [rows, cols] of words [cols bits/32, rows], where no code is in two words. */
function unpackWords(words: Uint32Array, codes: Uint8Array, bits: number, rows: number, cols: number): void {
  const perWord = 32 / bits;
  const mask = 2 ** bits - 1;
  for (let first = 0; first < rows; first += BLOCK) {
    const end = Math.min(rows, first + BLOCK);
    for (let w = 0; w * perWord < cols; w++) {
      for (let r = first; r < end; r++) {
        const word = words[w * rows + r]!;
        const to = r * cols + w * perWord;
        for (let i = 0; i < perWord; i++) codes[to + i] = (word >>> (bits * i)) & mask;
      }
    }
  }
}

/** The same of any bits, columns taken in the given order. */
function unpackStreams(
  words: Uint32Array,
  codes: Uint8Array,
  bits: number,
  rows: number,
  cols: number,
  order: Int32Array | undefined,
): void {
  for (let first = 0; first < rows; first += BLOCK) {
    const end = Math.min(rows, first + BLOCK);
    for (let k = 0; k < cols; k++) {
      const from = order === undefined ? k : order[k]!;
      for (let r = first; r < end; r++) codes[r * cols + k] = codeAt(words, r, rows, bits, from);
    }
  }
}

/** Floats [groups, rows] as [rows, groups]. */
function transposeScales(stored: StoredFloats, groups: number, rows: number): StoredFloats {
  if (stored.dtype !== 'f16') {
    const values = toF32(stored);
    const out = new Float32Array(values.length);
    for (let g = 0; g < groups; g++)
      for (let r = 0; r < rows; r++) out[r * groups + g] = values[g * rows + r]!;
    return { dtype: 'f32', values: out };
  }
  const bits = new Uint16Array(stored.bits.length);
  for (let g = 0; g < groups; g++)
    for (let r = 0; r < rows; r++) bits[r * groups + g] = stored.bits[g * rows + r]!;
  return { dtype: 'f16', bits };
}

/** Scales [groups, rows] of a matrix, as [rows, groups]: f16 as they are, others in f32. */
export async function readGroupScales(
  checkpoint: Checkpoint,
  prefix: string,
  groups: number,
  rows: number,
): Promise<StoredFloats> {
  return transposeScales(await readFloats(checkpoint, `${prefix}.scales`, [[groups, rows]]), groups, rows);
}

/** Rows and columns of a matrix, by the shapes of its scales and of the words that hold its columns. */
function shapeOf({ tensor, bits }: GptqSource, checkpoint: Checkpoint) {
  const [words = 0, rows = 0] = checkpoint.tensors.get(`${tensor}.qweight`)?.shape ?? [];
  demandTensor(checkpoint, `${tensor}.qweight`, { dtypes: ['i32'], shapes: [[words, rows]] });
  return { rows, cols: (words * 32) / bits };
}

/** Zeros of all groups [rows, groups]; undefined where all are the middle code. */
async function readGptqZeros(
  { tensor, bits, zeros: form }: GptqSource,
  checkpoint: Checkpoint,
  groups: number,
  rows: number,
): Promise<Uint8Array | undefined> {
  const name = `${tensor}.qzeros`;
  const width = wordsOf(rows, bits);
  const words = await readWords(checkpoint, name, [groups, width]);
  const zeros = new Uint8Array(rows * groups);
  for (let g = 0; g < groups; g++) {
    for (let r = 0; r < rows; r++) zeros[r * groups + g] = codeAt(words, g * width, 1, bits, r);
  }
  const mask = 2 ** bits - 1;
  if (form === 'v1') return zeros.map((stored) => (stored + 1) & mask);
  if (form === 'v2') return zeros;
  const middle = 2 ** (bits - 1);
  const stored = zeros[0];
  if ((stored !== middle && stored !== middle - 1) || zeros.some((zero) => zero !== stored)) {
    throw new LutraError(
      'invalid',
      `tensor ${name} has zeros other than ${middle}, but the model is symmetric`,
      {
        hint: 'Set "sym" in quantization_config to false.',
      },
    );
  }
  return undefined;
}

/** The columns sorted by their groups, and checks that every group has as many as it must. */
function orderOf(groupIndex: Uint32Array, tensor: string, group: number): Int32Array {
  const cols = groupIndex.length;
  const next = Array.from({ length: groupCount(cols, group) }, (_, g) => g * group);
  const order = new Int32Array(cols);
  for (let k = 0; k < cols; k++) {
    const at = next[groupIndex[k]!];
    const end = Math.min(cols, (groupIndex[k]! + 1) * group);
    if (at === undefined || at >= end) {
      throw new LutraError('invalid', `tensor ${tensor}.g_idx does not say groups of ${group} columns`);
    }
    order[at] = k;
    next[groupIndex[k]!] = at + 1;
  }
  return order;
}

/** The order of the columns; undefined where they are in order. */
async function readOrderOf(
  { tensor, group, order: like }: GptqSource,
  checkpoint: Checkpoint,
  cols: number,
): Promise<Int32Array | undefined> {
  const read = (prefix: string) => readWords(checkpoint, `${prefix}.g_idx`, [cols]);
  if (like === undefined) {
    if (!checkpoint.tensors.has(`${tensor}.g_idx`)) return undefined;
    const inOrder = (await read(tensor)).every((g, k) => g === Math.floor(k / group));
    if (inOrder) return undefined;
    throw new LutraError(
      'invalid',
      `tensor ${tensor}.g_idx is not in order, but the model says desc_act false`,
      {
        hint: 'Set "desc_act" in quantization_config to true.',
      },
    );
  }
  const own = await read(tensor);
  if (like !== tensor) {
    const other = await read(like);
    if (own.some((g, k) => g !== other[k])) {
      throw new LutraError('unsupported', `${tensor} and ${like} read the same input in different orders`);
    }
  }
  return orderOf(own, tensor, group);
}

/**
 * Reads one matrix. Throws `not-found` or `invalid` for tensors that are missing or of other shapes, for zeros that
 * a symmetric model has not, and for groups that do not divide the columns as they should.
 */
export async function readGptq(source: GptqSource, checkpoint: Checkpoint): Promise<GroupMatrix> {
  const { tensor, bits, group } = source;
  const { rows, cols } = shapeOf(source, checkpoint);
  const groups = groupCount(cols, group);
  const words = await readWords(checkpoint, `${tensor}.qweight`, [wordsOf(cols, bits), rows]);
  const order = await readOrderOf(source, checkpoint, cols);
  const codes = new Uint8Array(rows * cols);
  if (32 % bits === 0 && order === undefined) unpackWords(words, codes, bits, rows, cols);
  else unpackStreams(words, codes, bits, rows, cols, order);
  const scales = await readGroupScales(checkpoint, tensor, groups, rows);
  const zeros = await readGptqZeros(source, checkpoint, groups, rows);
  return {
    bits,
    rows,
    cols,
    group,
    codes,
    scales,
    ...(zeros === undefined ? {} : { zeros }),
    ...(order === undefined ? {} : { order }),
  };
}

/** What the scales of a GPTQ or AWQ matrix become: f16 as they are, others f32. */
export function scalesDType(
  checkpoint: Checkpoint,
  prefix: string,
  groups: number,
  rows: number,
): 'f16' | 'f32' {
  const { dtype } = demandTensor(checkpoint, `${prefix}.scales`, {
    dtypes: FLOAT_DTYPES,
    shapes: [[groups, rows]],
  });
  return dtype === 'f16' ? 'f16' : 'f32';
}
