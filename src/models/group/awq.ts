/** Matrices as AutoAWQ stores them (its format GEMM): see `GroupSource`. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { GroupSource } from '../../graph/ir.ts';
import { demandTensor, readWords } from '../tensors.ts';
import { readGroupScales } from './gptq.ts';
import { type GroupMatrix, groupCount } from './matrix.ts';

/** The row of eight that each nibble of a word belongs to. */
const ROW_OF_NIBBLE = [0, 2, 4, 6, 1, 3, 5, 7] as const;

/** Words [count, rows/8] as bytes [rows, count]. */
function unpackNibbles(words: Uint32Array, count: number, rows: number): Uint8Array {
  const codes = new Uint8Array(rows * count);
  const width = rows / 8;
  for (let eight = 0; eight < width; eight++) {
    for (let i = 0; i < count; i++) {
      const word = words[i * width + eight]!;
      for (let nibble = 0; nibble < 8; nibble++) {
        codes[(8 * eight + ROW_OF_NIBBLE[nibble]!) * count + i] = (word >>> (4 * nibble)) & 15;
      }
    }
  }
  return codes;
}

/** Reads one matrix; throws `not-found` or `invalid` for tensors that are missing or of other shapes. */
export async function readAwq(
  { tensor, bits, group }: Extract<GroupSource, { readonly format: 'awq' }>,
  checkpoint: Checkpoint,
): Promise<GroupMatrix> {
  const [cols = 0, width = 0] = checkpoint.tensors.get(`${tensor}.qweight`)?.shape ?? [];
  demandTensor(checkpoint, `${tensor}.qweight`, { dtypes: ['i32'], shapes: [[cols, width]] });
  const rows = 8 * width;
  const groups = groupCount(cols, group);
  const codes = unpackNibbles(await readWords(checkpoint, `${tensor}.qweight`, [cols, width]), cols, rows);
  const zeros = unpackNibbles(await readWords(checkpoint, `${tensor}.qzeros`, [groups, width]), groups, rows);
  const scales = await readGroupScales(checkpoint, tensor, groups, rows);
  return { bits, rows, cols, group, codes, scales, zeros };
}
