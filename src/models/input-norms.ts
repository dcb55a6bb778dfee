import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import type { DecoderForm } from './decoder.ts';
import { readQuantization, type WeightOptions } from './quantization.ts';

/**
 * How weights are quantized, and whether every projection has a norm of its own in front, as BitNet embedding models
 * have: master weights are then ternary, as in BitNet, where config.json says nothing else.
 */
export function readProjections(
  checkpoint: Checkpoint,
  options: WeightOptions,
): Pick<DecoderForm, 'quantization' | 'inputNorms'> {
  const quantization = readQuantization(checkpoint, options);
  const normed = [...checkpoint.tensors.keys()].some((name) => name.endsWith('.q_proj.norm.weight'));
  if (!normed) return { quantization };
  if (options.bits !== undefined) {
    throw new LutraError(
      'usage',
      `the weights of ${checkpoint.path} are ternary: they cannot be rounded again`,
    );
  }
  return {
    quantization: quantization.form === 'float' ? { form: 'online' } : quantization,
    inputNorms: true,
  };
}
