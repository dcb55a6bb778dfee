import { z } from 'zod';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { LutraError } from '../common/errors.ts';
import type { DecoderForm } from './decoder.ts';
import { parseConfig, refuse } from './parse-config.ts';

const schema = z.looseObject({
  sliding_window: z.int().min(1).nullish(),
  layer_types: z.array(z.string()).nullish(),
});

/**
 * The window of config.json and the layers that have it: those of `layer_types` where that is given, else those that
 * `slides` says. Nothing where no layer has one.
 */
export function readSliding(
  checkpoint: Checkpoint,
  layers: number,
  slides: (layer: number) => boolean,
): Pick<DecoderForm, 'sliding'> {
  const where = `${checkpoint.path}/config.json`;
  const { sliding_window: window, layer_types: types } = parseConfig(schema, checkpoint.config, where);
  if (types !== undefined && types !== null && types.length !== layers) {
    throw new LutraError('invalid', `${where}: layer_types has ${types.length} entries for ${layers} layers`);
  }
  const other = types?.find((type) => type !== 'sliding_attention' && type !== 'full_attention');
  if (other !== undefined) {
    refuse(where, `a layer of type ${JSON.stringify(other)}`, 'full_attention and sliding_attention');
  }
  const chosen = Array.from({ length: layers }, (_, layer) =>
    types === undefined || types === null ? slides(layer) : types[layer] === 'sliding_attention',
  );
  if (window === undefined || window === null || !chosen.includes(true)) return {};
  return { sliding: { window, layers: chosen } };
}
