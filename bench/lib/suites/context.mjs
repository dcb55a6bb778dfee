import { choicesOf } from '../models.mjs';
import { spread } from '../statistics.mjs';
import { MODEL, USUAL_HEAD } from './common.mjs';

/**
 * Decode at positions of a long context, for every kind of KV cache. A round goes over the positions again and again, a
 * few tokens at each, so that a machine whose speed changes within seconds has the same for all of them.
 */
export async function context(ctx) {
  const { quick, cores, models, inTurns, open, callsOf, limitsOf, rateFigure, figure } = ctx;
  const positions = quick ? [64, 2000] : [64, 1000, 2000, 4000];
  const threads = Math.min(2, cores);
  const piece = 4;
  const pieces = quick ? 4 : 10;
  const figures = [];
  for (const cache of await choicesOf('cache')) {
    const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD, cache, context: 4096 });
    const worker = await open({ source: path, target: 'c', threads });
    try {
      const machine = await limitsOf(worker.facts.target, threads);
      // Fills the caches of all positions before any is timed.
      for (const position of positions) await worker.ask('decode', { position, tokens: 1 });
      const run = async () => {
        const seconds = positions.map(() => 0);
        for (let n = 0; n < pieces; n++) {
          for (const [i, position] of positions.entries()) {
            seconds[i] += (await worker.ask('decode', { position, tokens: piece })).seconds;
          }
        }
        return seconds.map((each) => (pieces * piece) / each);
      };
      const {
        values: [rounds],
        limits: [limits],
        stolen,
      } = await inTurns([{ machine, run }], quick ? 3 : 9);
      for (const [i, position] of positions.entries()) {
        const values = rounds.map((rates) => rates[i]);
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
            tokens: piece,
            calls: await callsOf(path, { position, count: piece }),
            values,
            limits,
            stolen,
          }),
        );
        if (position === positions[0]) continue;
        const shares = rounds.map((rates) => (100 * rates[i]) / rates[0]);
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
