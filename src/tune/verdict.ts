/** Whether a whole model is better off with what tuning found. */
import { median } from '../common/math.ts';
import type { Adoption } from './records.ts';

/** Tokens per second of a prompt, and of tokens one at a time. */
export interface Speeds {
  readonly prefill: number;
  readonly decode: number;
}

/** A model with tuned kernels may measure this much slower, for noise, in one of the two phases. */
const NOISE = 0.99;

/** Of turns with the defaults and with the choices: adopted when not slower in either phase and faster in one. */
export function verdictOf(
  turns: readonly { readonly plain: Speeds; readonly tuned: Speeds }[],
): Pick<Adoption, 'decode' | 'prefill' | 'adopted'> {
  const middle = (phase: keyof Speeds) => ({
    default: median(turns.map((turn) => turn.plain[phase])),
    tuned: median(turns.map((turn) => turn.tuned[phase])),
  });
  const gain = (phase: keyof Speeds) => median(turns.map((turn) => turn.tuned[phase] / turn.plain[phase]));
  const gains = [gain('decode'), gain('prefill')];
  const adopted = gains.every((g) => g >= NOISE) && gains.some((g) => g > 1);
  return { decode: middle('decode'), prefill: middle('prefill'), adopted };
}
