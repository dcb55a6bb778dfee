/**
 * The measuring process: one model on one target with so many threads, kept loaded, so that the parent can
 * let processes take turns. Requests come one at a time as `{ op, ...arguments }`; the answer is `{ value }` or
 * `{ error }`. It runs under any Node that lutra supports.
 */
import { readFileSync } from 'node:fs';
import { openArtifact } from '../../dist/artifact/open.js';
import { openBandwidth } from '../../dist/cli/bench/bandwidth.js';
import { openMultiplyAdds } from '../../dist/cli/bench/multiply-adds.js';
import { load } from '../../dist/index.js';
import { startArtifact } from '../../dist/runtime/load.js';
import { StepScheduler } from '../../dist/runtime/scheduler.js';
import { Sequence } from '../../dist/runtime/sequence.js';
import { createSampler } from '../../dist/text/sampler.js';
import { resolveSampling } from '../../dist/text/sampling-options.js';

/** Tokens before the first timing: an engine that compiles while it runs is done after them. */
const WARM_UP = { decode: 12, prefill: 32 };
const seconds = (since) => (performance.now() - since) / 1000;
const warnings = [];

/** Of `generate`, which needs a tokenizer. */
let model;
/** Of everything else: what models and sessions consist of, by the same classes. */
let executable;
let stepper;
let facts;
/** Sequences by name, so that what is measured at one position keeps its KV cache while others are. */
const sequences = new Map();
/** Of `limits`, which keeps to one target. */
let meters;
/** KV caches of `batch`. */
const caches = [];
const warm = new Set();

function sequence(name) {
  let found = sequences.get(name);
  if (found === undefined) {
    found = new Sequence(stepper, facts.context, facts.vocab);
    sequences.set(name, found);
  }
  return found;
}

async function start({ source, target, threads }) {
  const artifact = await openArtifact(source);
  const { context, name, needs } = artifact.manifest;
  executable = await startArtifact(artifact, {
    target,
    threads,
    onWarning: (message) => warnings.push(message),
  });
  stepper = new StepScheduler(executable);
  facts = { name, context, vocab: needs.vocab, target: executable.target, threads: executable.threads };
}

/** Every model measured here has at least so many tokens. */
const SOME_VOCABULARY = 500;

/** Tokens that differ as those of a text do, the same every time. */
function someTokens(count, seed = 1) {
  let state = seed;
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * SOME_VOCABULARY);
  });
}

const greedy = () => createSampler(resolveSampling({ temperature: 0 }, {}));

/** Moves a sequence to a position with something in its cache before it. */
async function moveTo(s, position) {
  const at = s.tokens.length;
  if (at > position) s.rewind(position);
  if (at < position) await s.forward(someTokens(position - at), 'last');
}

/** Greedy tokens one by one as sessions make them: only the logits that can win are asked for. */
async function decodeSome(s, count) {
  const sampler = greedy();
  let token = 1;
  const from = performance.now();
  for (let i = 0; i < count; i++) {
    const [logits] = await s.forwardSelected([token], 'last', sampler.select([]));
    token = sampler.sample(logits);
  }
  return seconds(from);
}

const OPERATIONS = {
  /** A compiled model. */
  async open(request) {
    const from = performance.now();
    await start(request);
    return { ...facts, seconds: seconds(from), warnings };
  },

  /** A model with its tokenizer, compiled first if need be. */
  async openModel({ source, target, threads }) {
    model = await load(source, { target, threads, onWarning: (message) => warnings.push(message) });
    return { target: model.target, threads: model.threads, warnings };
  },

  /** Greedy tokens one by one, sampling included, from a position on. */
  async decode({ position, tokens }) {
    const s = sequence(`decode ${position}`);
    if (!warm.has('decode')) {
      await moveTo(s, position);
      await decodeSome(s, WARM_UP.decode);
      warm.add('decode');
    }
    await moveTo(s, position);
    return { seconds: await decodeSome(s, tokens) };
  },

  /** A prompt from an empty context to the logits of its last token. */
  async prefill({ tokens }) {
    const s = sequence('prefill');
    if (!warm.has('prefill')) {
      s.rewind(0);
      await s.forward(someTokens(WARM_UP.prefill, 2), 'last');
      warm.add('prefill');
    }
    s.rewind(0);
    const prompt = someTokens(tokens, 3);
    const start = performance.now();
    await s.forward(prompt, 'last');
    return { seconds: seconds(start) };
  },

  /** Loads the model and gives the first token of a prompt. */
  async firstToken({ source, target, threads, tokens }) {
    const from = performance.now();
    model = await load(source, { target, threads });
    const s = model.createSession();
    greedy().sample(await s.forward(someTokens(tokens), 'last'));
    return { seconds: seconds(from), sinceStart: performance.now() / 1000 };
  },

  /** Steps of `count` tokens with the logits of all of them, as checking guesses takes. */
  async verify({ position, count, steps }) {
    const s = sequence('verify');
    const guesses = someTokens(count, 5);
    await moveTo(s, position);
    if (!warm.has(`verify ${count}`)) {
      await s.forward(guesses, 'all');
      warm.add(`verify ${count}`);
    }
    let spent = 0;
    for (let i = 0; i < steps; i++) {
      s.rewind(position);
      const start = performance.now();
      await s.forward(guesses, 'all');
      spent += seconds(start);
    }
    return { seconds: spent };
  },

  /** Greedy tokens of several sequences in one step each, every one with a KV cache of its own. */
  async batch({ sequences: count, position, tokens }) {
    while (caches.length < count) {
      const cache = executable.createCache();
      const prompt = someTokens(position, caches.length + 1);
      await executable.step([{ tokens: prompt, position: 0, cache, logits: 'last' }]);
      caches.push(cache);
    }
    const sampler = greedy();
    let next = Array.from({ length: count }, (_, i) => i + 1);
    const run = async (steps) => {
      const from = performance.now();
      for (let i = 0; i < steps; i++) {
        const logits = await executable.step(
          next.map((token, s) => ({
            tokens: Int32Array.of(token),
            position: position + i,
            cache: caches[s],
            logits: 'last',
          })),
        );
        next = logits.map((one) => sampler.sample(one));
      }
      return seconds(from);
    };
    await run(2);
    return { seconds: await run(tokens) };
  },

  /** A text as users ask for it, on a fresh session. */
  async generate({ prompt, options }) {
    const s = model.createSession();
    try {
      const { tokens, promptTokens, timings, speculation } = await s.generate(prompt, options).result;
      return { tokens: tokens.length, ids: tokens, promptTokens, timings, speculation };
    } finally {
      await s.dispose();
    }
  },

  /** What this machine allows code of a target: GB/s and GOP/s. */
  async limits({ target, threads }) {
    meters ??= [await openBandwidth(target, threads), await openMultiplyAdds(target, threads)];
    const [bandwidth, multiplyAdds] = meters;
    return {
      bandwidth: (await bandwidth.measure()) / 1e9,
      multiplyAdds: (await multiplyAdds.measure()) / 1e9,
    };
  },

  /** Removes what `limits` made. */
  async endLimits() {
    for (const meter of meters ?? []) await meter.close();
    meters = undefined;
  },

  async peakMemory() {
    const line = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    return line === null ? process.resourceUsage().maxRSS * 1024 : Number(line[1]) * 1024;
  },

  async version() {
    return { node: process.versions.node, v8: process.versions.v8 };
  },
};

process.on('message', async ({ op, ...request }) => {
  try {
    process.send({ value: (await OPERATIONS[op](request)) ?? null });
  } catch (error) {
    process.send({ error: error instanceof Error ? error.message : String(error), code: error?.code });
  }
});
