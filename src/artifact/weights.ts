import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import { encodeConstant } from '../encodings/encoding.ts';
import type { Constant } from '../graph/ir.ts';
import type { Plan } from '../plan/types.ts';
import { type FileFacts, HashedWriter } from './files.ts';

/**
 * Packs every constant of a plan into one file, one constant at a time. Throws `cancelled` between
 * constants, `environment` when the disk is full.
 */
export async function writeWeights(
  path: string,
  plan: Plan,
  constants: readonly Constant[],
  checkpoint: Checkpoint,
  onProgress: (done: number, total: number) => void,
  signal?: AbortSignal,
): Promise<FileFacts> {
  const byName = new Map(constants.map((constant) => [constant.name, constant]));
  const writer = await HashedWriter.create(path);
  try {
    for (const slot of plan.weights) {
      if (signal?.aborted) throw new LutraError('cancelled', 'compilation was cancelled');
      const packed = await encodeConstant(byName.get(slot.constant)!, checkpoint);
      for (const [i, region] of slot.regions.entries()) {
        const bytes = packed[i];
        if (bytes?.length !== region.bytes) {
          throw new LutraError(
            'internal',
            `${slot.constant}: packed ${bytes?.length} bytes, planned ${region.bytes}`,
          );
        }
        await writer.padTo(region.offset);
        await writer.write(bytes);
      }
      onProgress(writer.bytes, plan.weightsBytes);
    }
    await writer.padTo(plan.weightsBytes);
    return await writer.finish();
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}
