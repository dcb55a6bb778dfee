/**
 * Word `index` of a small seeded generator (mulberry32 by Tommy Ettinger, public domain): 32 random bits, the
 * same on every machine. Not for secrets.
 */
export function randomWord(seed: number, index: number): number {
  const state = ((seed | 0) + Math.imul(index + 1, 0x6d2b79f5)) | 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return (t ^ (t >>> 14)) >>> 0;
}

/** The same generator as a sequence, uniform in [0, 1). */
export function randomUniform(seed: number): () => number {
  let index = 0;
  return () => randomWord(seed, index++) / 2 ** 32;
}
