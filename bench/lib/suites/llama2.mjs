/** Weights in groups: Llama-2-7B's widths, 8 of its layers, codes of 2 and 4 bits in groups of 128. */
import { DECODE_AT, perSecond, threadCounts, USUAL_HEAD } from './common.mjs';

const PROMPT = 128;

/** What is measured: multiplied with activations of int16, the default, and of int8, and looked up with the same results. */
const FORMS = [{ activations: 'int16' }, { activations: 'int8' }, { activations: 'int8', family: 'lut' }];

/** Decode and prefill with every number of threads. */
async function measure(ctx, bits, { activations, family }) {
  const { quick, cores, models, ratesInTurns, open, callsOf, limitsOf } = ctx;
  const preset = `llama2-7b-w${bits}`;
  const path = await models.artifact({ preset, head: USUAL_HEAD, activations, family });
  const form = [activations, family].filter((part) => part !== undefined).join('.');
  const what = `activations ${activations}${family === undefined ? '' : `, ${family}`}`;
  const tokens = quick ? 16 : 48;
  const runs = [];
  try {
    for (const threads of threadCounts(cores)) {
      const worker = await open({ source: path, target: 'c', threads });
      const common = { worker, threads, machine: await limitsOf(worker.facts.target, threads) };
      const name = `llama2-w${bits}`;
      runs.push({
        ...common,
        id: `${name}.decode.${threads}t.${form}`,
        title: `W${bits} decode, ${threads}t, ${what}`,
        tokens,
        calls: await callsOf(path, { position: DECODE_AT, count: tokens }),
        run: () => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens })),
      });
      runs.push({
        ...common,
        id: `${name}.prefill${PROMPT}.${threads}t.${form}`,
        title: `W${bits} prefill of ${PROMPT}, ${threads}t, ${what}`,
        tokens: PROMPT,
        calls: await callsOf(path, { position: 0, count: PROMPT, prompt: true }),
        run: () => perSecond(PROMPT)(worker.ask('prefill', { tokens: PROMPT })),
      });
    }
    const model = { model: preset, head: USUAL_HEAD, activations, ...(family && { family }) };
    return await ratesInTurns(runs, quick ? 3 : 5, model);
  } finally {
    for (const worker of new Set(runs.map((run) => run.worker))) await worker.end();
  }
}

/** One model after the other; the quick benchmark has only their defaults. */
export async function llama2(ctx) {
  const figures = [];
  for (const bits of [2, 4]) {
    for (const form of ctx.quick ? FORMS.slice(0, 1) : FORMS) {
      figures.push(...(await measure(ctx, bits, form)));
    }
  }
  return figures;
}
