import type { GenerationResult } from '../runtime/types.ts';

/**
 * `20 prompt tokens in 0.10 s (200.0/s), 12 new tokens in 0.30 s (40.0/s)`, and what came of guesses and of the bounds
 * of an exact head, where there were any.
 */
export function speed({ promptTokens, tokens, timings, speculation, head }: GenerationResult): string {
  const part = (count: number, name: string, seconds: number) =>
    `${count} ${name} in ${seconds.toFixed(2)} s (${(count / Math.max(seconds, 1e-9)).toFixed(1)}/s)`;
  const prompt = part(promptTokens, 'prompt tokens', timings.prefillSeconds);
  return [
    prompt,
    part(tokens.length, 'new tokens', timings.decodeSeconds),
    ...(speculation ? [`${speculation.accepted} of ${speculation.proposed} guesses right`] : []),
    ...(head
      ? [`exact logits a token: ${head.median} (median), ${head.max} at most, all of them ${head.full} times`]
      : []),
  ].join(', ');
}
