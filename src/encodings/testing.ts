/** For tests: ternary matrices. */
import { randomUniform } from '../common/random.ts';

export function randomTrits(count: number, seed: number): Int8Array {
  const random = randomUniform(seed);
  return Int8Array.from({ length: count }, () => Math.floor(random() * 3) - 1);
}

/** Hugging Face's packing, written from its definition. */
export function packHuggingFace(trits: Int8Array, rows: number, cols: number): Uint8Array {
  const bytes = new Uint8Array((rows / 4) * cols);
  for (let r = 0; r < rows; r++) {
    const [i, byteRow] = [Math.floor(r / (rows / 4)), r % (rows / 4)];
    for (let c = 0; c < cols; c++) bytes[byteRow * cols + c]! |= (trits[r * cols + c]! + 1) << (2 * i);
  }
  return bytes;
}
