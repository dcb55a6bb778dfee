import { LutraError } from '../common/errors.ts';
import type { WeightOptions } from '../models/quantization.ts';
import type { Family } from '../passes/pass.ts';

/** What activations are rounded to in front of weights in groups, and which family multiplies them. */
export interface ActivationOptions {
  readonly activations?: WeightOptions['activations'];
  readonly family?: 'auto' | Family;
}

/** Whether activations are to be rounded for tables of bytes; throws `usage` for those that the family cannot take. */
export function needByteSums({ family = 'auto', activations }: ActivationOptions): boolean {
  const bytes = family === 'lut-int8' || family === 'lut-fast';
  if (bytes && activations === 'int16') {
    throw new LutraError('usage', `the tables of ${family} have no room for activations of int16`, {
      hint: 'Use f32 (the default there), f16 or int8; or the family lut, whose tables are exact.',
    });
  }
  if (!bytes && (activations === 'f32' || activations === 'f16')) {
    throw new LutraError(
      'usage',
      `the family ${family} takes activations of int16 or int8, not ${activations}`,
      {
        hint: 'int16 is finer than f16. Tables of the families lut-int8 and lut-fast are built from floats.',
      },
    );
  }
  return bytes;
}
