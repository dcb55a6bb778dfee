import { DECODE_AT, perSecond, threadCounts, USUAL_HEAD } from './common.mjs';

/** The shapes that break blocks of 256: 3200 and 8640 columns, heads of 100. */
export async function bitnet3b(ctx) {
  const { quick, cores, models, ratesInTurns, open, callsOf, limitsOf } = ctx;
  const preset = 'bitnet-3b';
  const path = await models.artifact({ preset, head: USUAL_HEAD });
  const tokens = quick ? 16 : 48;
  const runs = [];
  const figures = [];
  try {
    for (const threads of threadCounts(cores)) {
      const worker = await open({ source: path, target: 'c', threads });
      runs.push({
        worker,
        threads,
        head: USUAL_HEAD,
        machine: await limitsOf(worker.facts.target, threads),
        id: `${preset}.decode.${threads}t`,
        title: `bitnet_b1_58-3B decode, ${threads}t`,
        tokens,
        calls: await callsOf(path, { position: DECODE_AT, count: tokens }),
        run: () => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens })),
      });
    }
    figures.push(...(await ratesInTurns(runs, quick ? 3 : 7, { model: preset })));
  } finally {
    for (const { worker } of runs) await worker.end();
  }
  return figures;
}
