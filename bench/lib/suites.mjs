/**
 * What is measured, suite by suite. Each gives figures: `{ id, title, unit, median, min, max, repetitions, ... }`.
 * A rate has 2 threads or 1 as the goals do, and on larger machines also 4, 8, ... up to the cores.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { defaults } from './defaults.mjs';
import { llama2 } from './llama2.mjs';
import { ROOT } from './machine.mjs';
import { choicesOf } from './models.mjs';
import { startWorker } from './process.mjs';
import { spread } from './statistics.mjs';

const MODEL = 'bitnet-2b-4t';
/** The head that figures have where the head is not what they are about. */
const USUAL_HEAD = 'int8';
const DECODE_AT = 64;
const MIB = 1 << 20;

export function threadCounts(cores) {
  const counts = [];
  for (let n = 1; n < cores; n *= 2) counts.push(n);
  return [...counts, cores];
}

const perSecond = (tokens) => async (answer) => tokens / (await answer).seconds;

/** Decode with every form of the head, prefill, with every number of threads: all in turns. */
async function native(ctx) {
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

/** WebAssembly in this Node and in those given with --node. */
async function wasm(ctx) {
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

/**
 * The most memory of a process that fills a context of 2048 and writes its last tokens one by one: by head, and where
 * everything has its least bytes. It hardly differs from run to run.
 */
async function memory(ctx) {
  const { quick, cores, models, open, figure } = ctx;
  const context = 2048;
  const tokens = 16;
  const threads = Math.min(2, cores);
  const cache = (await choicesOf('cache')).at(-1);
  const leanest = { head: 'int4', encoding: 't5b' };
  const kinds = quick ? [{ head: USUAL_HEAD }] : [{ head: 'stored' }, { head: USUAL_HEAD }, { head: 'int4' }];
  const figures = [];
  for (const { head, encoding } of [...kinds, leanest]) {
    const path = await models.artifact({ preset: MODEL, head, cache, context, encoding });
    const worker = await open({ source: path, target: 'c', threads });
    try {
      await worker.ask('decode', { position: context - tokens, tokens });
      const weights = encoding === undefined ? '' : `, weights ${encoding}`;
      figures.push(
        figure({
          id: ['memory', `decode${context}`, head, encoding].filter(Boolean).join('.'),
          title: `peak memory, native decode, context ${context} full, head ${head}, cache ${cache}${weights}`,
          unit: 'MiB',
          ...spread([(await worker.ask('peakMemory')) / MIB]),
          model: MODEL,
          head,
          cache,
          ...(encoding === undefined ? {} : { encoding }),
          threads,
        }),
      );
    } finally {
      await worker.end();
    }
  }
  return figures;
}

/** `lutra compile` of master weights: a process of its own, C compiler included in the time. */
async function compile(ctx) {
  const { quick, models, figure } = ctx;
  const preset = 'bitnet-2b-4t-bf16';
  const seconds = [];
  const peaks = [];
  const trees = [];
  for (let run = 0; run < (quick ? 1 : 3); run++) {
    const result = await models.compile({ preset, head: USUAL_HEAD, fresh: true });
    seconds.push(result.seconds);
    peaks.push(result.peakBytes / 1e6);
    trees.push(result.treePeakBytes / 1e6);
  }
  models.remove(preset);
  const common = { model: preset, head: USUAL_HEAD };
  return [
    figure({
      id: 'compile.seconds',
      title: 'import + compile of the bf16 checkpoint',
      unit: 's',
      ...spread(seconds),
      ...common,
    }),
    figure({
      id: 'compile.memory',
      title: 'peak memory of lutra compile',
      unit: 'MB',
      ...spread(peaks),
      ...common,
    }),
    figure({
      id: 'compile.treeMemory',
      title: 'the same with the C compilers it starts',
      unit: 'MB',
      ...spread(trees),
      ...common,
    }),
  ];
}

/** From `load()` to the first token of a short prompt, in a new process each time; files are in the page cache. */
async function load(ctx) {
  const { quick, cores, models, figure } = ctx;
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const threads = Math.min(2, cores);
  const request = { source: path, target: 'c', threads, tokens: 16 };
  const fromLoad = [];
  const fromStart = [];
  for (let run = 0; run < (quick ? 4 : 8); run++) {
    const worker = startWorker({ env: models.env });
    try {
      const { seconds, sinceStart } = await worker.ask('firstToken', request);
      // The first run reads the files and, on a new machine, tests the kernels.
      if (run === 0) continue;
      fromLoad.push(seconds);
      fromStart.push(sinceStart);
    } finally {
      await worker.end();
    }
  }
  const common = { unit: 's', model: MODEL, head: USUAL_HEAD, threads };
  return [
    figure({
      id: 'load.firstToken',
      title: 'load() to the first token of a 16-token prompt',
      ...spread(fromLoad),
      ...common,
    }),
    figure({
      id: 'load.process',
      title: 'the same from the start of the process',
      ...spread(fromStart),
      ...common,
    }),
  ];
}

/** The shapes that break blocks of 256: 3200 and 8640 columns, heads of 100. */
async function bitnet3b(ctx) {
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

/** Decode at positions of a long context, for every kind of KV cache. */
async function context(ctx) {
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

/** Tokens of all sequences together, 1, 4 and 16 of them in one step. */
async function batch(ctx) {
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
async function speculation(ctx) {
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

/** Keeps one core busy until it is told to stop. */
async function withBusyCore(work) {
  const hog = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' });
  try {
    await sleep(100);
    return await work();
  } finally {
    hog.kill('SIGKILL');
  }
}

/** Decode on all cores while another program takes one of them. */
async function busy(ctx) {
  const { quick, cores, models, inTurns, open, figure } = ctx;
  if (cores < 2) throw new Error('this machine has one core');
  const path = await models.artifact({ preset: MODEL, head: USUAL_HEAD });
  const tokens = quick ? 16 : 40;
  const one = await open({ source: path, target: 'c', threads: 1 });
  const all = await open({ source: path, target: 'c', threads: cores });
  try {
    const decode = (worker) => perSecond(tokens)(worker.ask('decode', { position: DECODE_AT, tokens }));
    const { values, stolen } = await inTurns(
      [
        { run: () => decode(one) },
        { run: () => decode(all) },
        { run: () => withBusyCore(() => decode(all)) },
        { run: () => withBusyCore(() => decode(one)) },
      ],
      quick ? 3 : 7,
    );
    const common = { model: MODEL, target: all.facts.target, head: USUAL_HEAD, stolen };
    const rate = (id, title, i, threads) =>
      figure({ id, title, unit: 'tokens/s', ...spread(values[i]), ...common, threads });
    return [
      rate('busy.quiet.1t', 'decode, quiet machine, 1t', 0, 1),
      rate('busy.quiet.all', `decode, quiet machine, ${cores}t`, 1, cores),
      rate('busy.loaded.all', `decode, one core taken by another process, ${cores}t`, 2, cores),
      rate('busy.loaded.1t', 'decode, one core taken by another process, 1t', 3, 1),
      figure({
        id: 'busy.share',
        title: `loaded ${cores}t as a share of quiet 1t, round by round`,
        unit: '%',
        ...spread(values[2].map((value, round) => (100 * value) / values[0][round])),
        ...common,
        threads: cores,
      }),
    ];
  } finally {
    await one.end();
    await all.end();
  }
}

/** In the order they run. */
export const SUITES = {
  native,
  wasm,
  context,
  batch,
  'bitnet-3b': bitnet3b,
  llama2: (ctx) => llama2(ctx, threadCounts),
  busy,
  speculation,
  memory,
  load,
  compile,
  defaults,
};
