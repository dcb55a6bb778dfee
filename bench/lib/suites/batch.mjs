import { choicesOf } from '../models.mjs';
import { DECODE_AT, MODEL, USUAL_HEAD } from './common.mjs';

/** Tokens of all sequences together, 1, 4 and 16 of them in one step. */
export async function batch(ctx) {
  const { quick, cores, models, inTurns, open, callsOf, limitsOf, rateFigure } = ctx;
  const path = await models.artifact({
    preset: MODEL,
    head: USUAL_HEAD,
    cache: (await choicesOf('cache')).at(-1),
  });
  const steps = quick ? 8 : 24;
  const threads = Math.min(2, cores);
  const worker = await open({ source: path, target: 'c', threads });
  const figures = [];
  try {
    const machine = await limitsOf(worker.facts.target, threads);
    const sizes = [1, 4, 16];
    const { values, limits, stolen } = await inTurns(
      sizes.map((sequences) => ({
        machine,
        run: async () => {
          const { seconds } = await worker.ask('batch', { sequences, position: DECODE_AT, tokens: steps });
          return (sequences * steps) / seconds;
        },
      })),
      quick ? 3 : 5,
    );
    for (const [i, sequences] of sizes.entries()) {
      figures.push(
        await rateFigure({
          id: `batch.${sequences}`,
          title: `decode of ${sequences} sequence${sequences > 1 ? 's' : ''} in one step, ${threads}t, in total`,
          model: MODEL,
          target: worker.facts.target,
          head: USUAL_HEAD,
          threads,
          sequences,
          tokens: sequences * steps,
          calls: await callsOf(path, { position: DECODE_AT, count: steps, sequences }),
          values: values[i],
          limits: limits[i],
          stolen,
        }),
      );
    }
  } finally {
    await worker.end();
  }
  return figures;
}
