import { type Command, Option } from 'commander';
import type { CacheForm } from '../api/compile.ts';
import { refuseIdleRounding } from '../api/ignored-options.ts';
import type { WeightOptions } from '../models/quantization.ts';
import { HEAD_FORMS, type HeadForm } from '../passes/pass.ts';
import { groupSize, pick, weightBits } from './arguments.ts';

/** What a model is made into: as its files have it, or smaller. */
export interface FormFlags extends Omit<WeightOptions, 'byteSums'> {
  readonly head?: HeadForm;
  readonly cache?: CacheForm;
}

/** The fields of `FormFlags`. */
const FORM_FLAGS = ['head', 'cache', 'bits', 'group', 'symmetric', 'activations'] as const;

/** Those of the flags that were given. Throws `usage` for some that would change nothing. */
export function formOptions(flags: FormFlags): Partial<FormFlags> {
  refuseIdleRounding(flags);
  return pick(flags, FORM_FLAGS);
}

/** What a checkpoint is made into on its way to be run; an artifact is what it is. */
export function addHeadOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--head <form>',
        'the output head: stored, exact (same output, fewer bytes), int8, int6 or int4 (not lossless)',
      ).choices(HEAD_FORMS),
    )
    .addOption(
      new Option(
        '--cache <type>',
        'elements of the KV cache: f32; f16, half the size, or int8, a quarter (not lossless)',
      ).choices(['f32', 'f16', 'int8']),
    );
}

/** The options of commands that compile a checkpoint into a form of the user's choice. */
export function addFormOptions(command: Command): Command {
  return addHeadOptions(command)
    .option(
      '--bits <n>',
      'round weights that are floats to 1, 2, 3, 4 or 8 bits, or ternary: trits by absmean, as BitNet b1.58',
      weightBits('--bits'),
    )
    .option(
      '--group <n>',
      'columns that share a scale (default 128; ternary: the whole matrix), or row: all',
      groupSize('--group'),
    )
    .option('--symmetric', 'no zero points, as 1 bit never has: fewer bytes, and a larger error')
    .addOption(
      new Option(
        '--activations <type>',
        'in front of weights in groups: int16 (default, finer than f16) or int8 (faster, not lossless); for the tables of lut-int8 and lut-fast: f32 (default there), f16 or int8',
      ).choices(['int8', 'int16', 'f32', 'f16']),
    );
}
