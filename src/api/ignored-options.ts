/** Options that would change nothing: refused where that is plain, else told once the model is known. */
import type { Artifact } from '../artifact/open.ts';
import { LutraError } from '../common/errors.ts';
import type { WeightOptions } from '../models/quantization.ts';
import type { CompileOptions } from './compile-options.ts';

/** Throws `usage` for options about rounding weights where none are rounded. */
export function refuseIdleRounding({ bits, group, symmetric }: WeightOptions): void {
  if (bits === undefined && (group !== undefined || symmetric !== undefined)) {
    const name = group === undefined ? 'symmetric' : 'group';
    throw new LutraError(
      'usage',
      `${name} says how weights are rounded, and bits, to how many, is not given`,
      {
        hint: 'Give --bits too. Weights that are quantized already keep their groups and zeros.',
      },
    );
  }
  if (bits === 'ternary' && symmetric === true) {
    throw new LutraError(
      'usage',
      'symmetric is for codes with zero points, which ternary weights never have',
      {
        hint: 'Leave out --symmetric.',
      },
    );
  }
}

/** Throws `usage` where both say how ternary weights are kept. */
export function refuseEncodedLookups({
  encoding = 'auto',
  family,
}: Pick<CompileOptions, 'encoding' | 'family'>): void {
  if (family !== 'lut' || encoding === 'auto') return;
  throw new LutraError('usage', `the family lut looks up bit planes of weights, not ${encoding}`, {
    hint: 'Leave out --encoding: what is looked up is kept as bit planes.',
  });
}

const OF_CHECKPOINTS = [
  'context',
  'head',
  'cache',
  'bits',
  'group',
  'symmetric',
  'activations',
  'encoding',
  'family',
] as const satisfies readonly (keyof CompileOptions)[];

/** Throws `usage` for options that say what a model is made into, of one that is made. */
export function refuseForCompiled(source: string, options: CompileOptions): void {
  // Without a head is how models that embed are asked for; others are told apart by what they write.
  const given = OF_CHECKPOINTS.find((name) => options[name] !== undefined && options[name] !== 'none');
  if (given === undefined) return;
  throw new LutraError('usage', `${source} is compiled: its ${given} is fixed`, {
    hint: 'Give the checkpoint it was made from, or compile that again.',
  });
}

/** What of the options made no difference to a model that was compiled with them. */
export function idleOptions({ plan }: Artifact, options: CompileOptions): readonly string[] {
  const { activations, encoding = 'auto', family = 'auto' } = options;
  const has = (op: string, of?: string) =>
    plan.kernels.some((use) => use.op === op && (of === undefined || use.family === of));
  const inGroups = has('lowbit.matmul.group');
  const isTernary = has('lowbit.matmul');
  const wanted = family.startsWith('lut') ? 'lut' : family;
  return [
    ...(activations !== undefined && !inGroups
      ? ['--activations changed nothing: this model has no weights in groups']
      : []),
    ...(encoding !== 'auto' && !isTernary
      ? ['--encoding changed nothing: this model has no ternary weights with a scale for each matrix']
      : []),
    ...(family !== 'auto' && !has('lowbit.matmul.group', wanted) && !has('lowbit.matmul', family)
      ? [
          `--family ${family} changed nothing: this model has no weights ${inGroups || isTernary ? 'that can be computed so' : 'in groups'}`,
        ]
      : []),
  ];
}
