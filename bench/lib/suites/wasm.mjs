import { DECODE_AT, MODEL, perSecond, threadCounts, USUAL_HEAD } from './common.mjs';

/** WebAssembly in this Node and in those given with --node. */
export async function wasm(ctx) {
  const { quick, cores, nodes, models, ratesInTurns, open, callsOf, limitsOf } = ctx;
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const tokens = quick ? 16 : 32;
  const prompt = 128;
  const figures = [];
  // One Node at a time: each process holds a copy of the weights.
  for (const node of nodes) {
    const runs = [];
    try {
      for (const threads of threadCounts(cores)) {
        const worker = await open({ source: path, target: 'wasm', threads }, { node });
        const machine = await limitsOf(worker.facts.target, threads, node);
        const common = { worker, machine, threads, head: USUAL_HEAD, node: node.version };
        const name = `wasm.node${node.major}`;
        runs.push({
          ...common,
          id: `${name}.decode.${threads}t`,
          title: `wasm decode, Node ${node.major}, ${threads}t`,
          tokens,
          calls: await callsOf(path, { position: DECODE_AT, count: tokens }),
          run: () => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens })),
        });
        runs.push({
          ...common,
          id: `${name}.prefill${prompt}.${threads}t`,
          title: `wasm prefill of ${prompt}, Node ${node.major}, ${threads}t`,
          tokens: prompt,
          calls: await callsOf(path, { position: 0, count: prompt, prompt: true }),
          run: () => perSecond(prompt)(worker.ask('prefill', { tokens: prompt })),
        });
      }
      figures.push(...(await ratesInTurns(runs, quick ? 3 : 5, { model: MODEL })));
    } finally {
      for (const worker of new Set(runs.map((run) => run.worker))) await worker.end();
    }
  }
  return figures;
}
