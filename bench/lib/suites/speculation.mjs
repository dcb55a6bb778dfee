import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../machine.mjs';
import { spread } from '../statistics.mjs';
import { DECODE_AT, MODEL, USUAL_HEAD } from './common.mjs';

/** Raw texts for the embedded model: one that repeats itself, and questions as its tests ask them. */
function speculationTexts() {
  const questions = readFileSync(join(ROOT, 'test', 'data', 'test.jsonl'), 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const plain = questions
    .filter((_, i) => i % 31 === 0)
    .map(({ prompt }) => ({ prompt, options: { maxTokens: 48 } }));
  const heldout = readFileSync(join(ROOT, 'test', 'data', 'heldout.txt'), 'utf8')
    .split('\n')
    .filter(Boolean);
  const repetitive = heldout.slice(0, 18).map((line) => ({
    prompt: `${line}\n`.repeat(4),
    options: { raw: true, maxTokens: 96 },
  }));
  return { repetitive, plain };
}

/** Guessing ahead: how often guesses hold, what it brings, and what checking costs a large model. */
export async function speculation(ctx) {
  const { quick, cores, models, inTurns, open, figure } = ctx;
  const threads = 1;
  const ahead = 7;
  const figures = [];
  const worker = await open(
    { source: await models.checkpoint('embedded'), target: 'c', threads },
    { op: 'openModel' },
  );
  try {
    for (const [kind, texts] of Object.entries(speculationTexts())) {
      const totals = { proposed: 0, accepted: 0 };
      const ids = new Map();
      const runAll = (speculate) => async () => {
        let tokens = 0;
        let seconds = 0;
        for (const [i, { prompt, options }] of texts.entries()) {
          const answer = await worker.ask('generate', {
            prompt,
            options: { temperature: 0, ...options, speculate },
          });
          tokens += answer.tokens;
          seconds += answer.timings.decodeSeconds;
          if (speculate > 0) {
            totals.proposed += answer.speculation.proposed;
            totals.accepted += answer.speculation.accepted;
          }
          const text = answer.ids.join(' ');
          if ((ids.get(i) ?? text) !== text) throw new Error('speculation changed what the model says');
          ids.set(i, text);
        }
        return tokens / seconds;
      };
      const { values, stolen } = await inTurns([{ run: runAll(0) }, { run: runAll(ahead) }], quick ? 3 : 5);
      const common = { model: 'embedded', target: worker.facts.target, threads, stolen };
      figures.push(
        figure({
          id: `speculation.${kind}.off`,
          title: `embedded model, ${kind} text, no speculation`,
          unit: 'tokens/s',
          ...spread(values[0]),
          ...common,
        }),
        figure({
          id: `speculation.${kind}.on`,
          title: `the same guessing up to ${ahead} ahead`,
          unit: 'tokens/s',
          ...spread(values[1]),
          ...common,
        }),
        figure({
          id: `speculation.${kind}.accepted`,
          title: `guesses that held, ${kind} text`,
          unit: '%',
          ...spread([(100 * totals.accepted) / Math.max(1, totals.proposed)]),
          ...common,
          proposed: totals.proposed,
          accepted: totals.accepted,
        }),
      );
    }
  } finally {
    await worker.end();
  }
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const large = await open({ source: path, target: 'c', threads: Math.min(2, cores) });
  try {
    const counts = [1, 4, 8];
    const steps = quick ? 6 : 12;
    const { values, stolen } = await inTurns(
      counts.map((count) => ({
        run: async () => {
          const { seconds } = await large.ask('verify', { position: DECODE_AT, count, steps });
          return seconds / steps;
        },
      })),
      quick ? 3 : 7,
    );
    for (const [i, count] of counts.entries()) {
      if (count === 1) continue;
      figures.push(
        figure({
          id: `speculation.verify.${count}`,
          title: `checking ${count} positions in one step of the 2B model, in steps of one`,
          unit: 'x',
          ...spread(values[i].map((value, round) => value / values[0][round])),
          model: MODEL,
          target: large.facts.target,
          threads: large.facts.threads,
          stolen,
        }),
      );
    }
  } finally {
    await large.end();
  }
  return figures;
}
