/** What several suites share: the model, where it decodes, and how many threads it runs with. */

export const MODEL = 'bitnet-2b-4t';
/** The head that figures have where the head is not what they are about. */
export const USUAL_HEAD = 'int8';
/** The position at which decoding is measured where the position is not what a figure is about. */
export const DECODE_AT = 64;

/** 1, 2, 4, ... and all cores. */
export function threadCounts(cores) {
  const counts = [];
  for (let n = 1; n < cores; n *= 2) counts.push(n);
  return [...counts, cores];
}

/** Turns an answer with its seconds into tokens a second. */
export const perSecond = (tokens) => async (answer) => tokens / (await answer).seconds;
