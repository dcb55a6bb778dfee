import { choicesOf } from '../models.mjs';
import { spread } from '../statistics.mjs';
import { MODEL, perSecond, USUAL_HEAD } from './common.mjs';

/** Decode at positions of a long context, for every kind of KV cache. */
export async function context(ctx) {
  const { quick, cores, models, inTurns, open, callsOf, limitsOf, rateFigure, figure } = ctx;
  const positions = quick ? [64, 2000] : [64, 1000, 2000, 4000];
  const threads = Math.min(2, cores);
  const tokens = quick ? 16 : 32;
  const figures = [];
  for (const cache of await choicesOf('cache')) {
    const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD, cache, context: 4096 });
    const worker = await open({ source: path, target: 'c', threads });
    try {
      const machine = await limitsOf(worker.facts.target, threads);
      // Fills the caches of all positions before any is timed.
      for (const position of positions) await worker.ask('decode', { position, tokens: 1 });
      const { values, limits, stolen } = await inTurns(
        positions.map((position) => ({
          machine,
          run: () => perSecond(tokens)(worker.ask('decode', { position, tokens })),
        })),
        quick ? 3 : 7,
      );
      for (const [i, position] of positions.entries()) {
        figures.push(
          await rateFigure({
            id: `context.${cache}.${position}`,
            title: `decode at position ${position}, cache ${cache}, ${threads}t`,
            model: MODEL,
            target: worker.facts.target,
            head: USUAL_HEAD,
            cache,
            position,
            threads,
            tokens,
            calls: await callsOf(path, { position, count: tokens }),
            values: values[i],
            limits: limits[i],
            stolen,
          }),
        );
        if (position === positions[0]) continue;
        const shares = values[i].map((value, round) => (100 * value) / values[0][round]);
        figures.push(
          figure({
            id: `context.${cache}.share.${position}`,
            title: `... as a share of the speed at ${positions[0]}, round by round`,
            unit: '%',
            ...spread(shares),
            model: MODEL,
            cache,
            position,
            threads,
          }),
        );
      }
    } finally {
      await worker.end();
    }
  }
  return figures;
}
