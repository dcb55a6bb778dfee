import { choicesOf } from '../models.mjs';
import { DECODE_AT, MODEL, perSecond, threadCounts, USUAL_HEAD } from './common.mjs';

/** Decode with every form of the head, prefill, with every number of threads: all in turns. */
export async function native(ctx) {
  const { quick, cores, models, ratesInTurns, open, callsOf, limitsOf } = ctx;
  const heads = await choicesOf('head');
  const tokens = quick ? 24 : 64;
  const prompt = 512;
  const figures = [];
  const runs = [];
  try {
    for (const head of heads) {
      const path = await models.artifact({ preset: MODEL, head });
      for (const threads of threadCounts(cores)) {
        const worker = await open({ source: path, target: 'c', threads });
        const machine = await limitsOf(worker.facts.target, threads);
        const common = { worker, machine, threads, head };
        runs.push({
          ...common,
          id: `native.decode.${threads}t.${head}`,
          title: `native decode, ${threads}t, head ${head}`,
          tokens,
          calls: await callsOf(path, { position: DECODE_AT, count: tokens }),
          run: () => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens })),
        });
        if (head !== USUAL_HEAD) continue;
        runs.push({
          ...common,
          id: `native.prefill${prompt}.${threads}t`,
          title: `native prefill of ${prompt}, ${threads}t`,
          tokens: prompt,
          calls: await callsOf(path, { position: 0, count: prompt, prompt: true }),
          run: () => perSecond(prompt)(worker.ask('prefill', { tokens: prompt })),
        });
      }
    }
    figures.push(...(await ratesInTurns(runs, quick ? 3 : 7, { model: MODEL })));
  } finally {
    for (const worker of new Set(runs.map((run) => run.worker))) await worker.end();
  }
  return figures;
}
