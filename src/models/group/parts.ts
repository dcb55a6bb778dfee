/** Matrices whose parts the checkpoint has one by one, as it has those of GGUF: see `GroupSource`. */
import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { GroupSource } from '../../graph/ir.ts';
import { readFloats, readU8 } from '../tensors.ts';
import type { GroupMatrix } from './matrix.ts';

/** Reads one matrix; throws `not-found` or `invalid` for tensors that are missing or of other shapes. */
export async function readParts(
  { tensor, bits, group, minima, block }: Extract<GroupSource, { readonly format: 'parts' }>,
  checkpoint: Checkpoint,
): Promise<GroupMatrix> {
  const [rows = 0, cols = 0] = checkpoint.tensors.get(tensor)?.shape ?? [];
  const shape = [rows, Math.ceil(cols / (block ?? group))];
  const codes = await readU8(checkpoint, tensor, [rows, cols]);
  const scales = await readFloats(checkpoint, `${tensor}_scales`, [shape]);
  const found = { bits, rows, cols, group, codes, scales };
  const zeros = minima ? { zeros: await readFloats(checkpoint, `${tensor}_minima`, [shape]) } : {};
  if (block === undefined) return { ...found, ...zeros };
  const ofGroups = (part: string) => readU8(checkpoint, `${tensor}_${part}`, [rows, cols / group]);
  const zeroCodes = minima ? { zeroCodes: await ofGroups('minimumCodes') } : {};
  return { ...found, ...zeros, scaleCodes: await ofGroups('scaleCodes'), ...zeroCodes };
}
