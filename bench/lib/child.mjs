/**
 * The measuring process: one model on one target with so many threads, kept loaded, so that the parent can
 * let processes take turns. Requests come one at a time as `{ op, ...arguments }`; the answer is `{ value }` or
 * `{ error }`. It runs under any Node that lutra supports.
 */
import { readFileSync } from 'node:fs';
import { openArtifact } from '../../dist/artifact/open.js';
import { measureBandwidth } from '../../dist/cli/bench/bandwidth.js';
import { measureMultiplyAdds } from '../../dist/cli/bench/multiply-adds.js';
import { load } from '../../dist/index.js';
import { startArtifact } from '../../dist/runtime/load.js';
import { createSampler } from '../../dist/text/sampler.js';
import { resolveSampling } from '../../dist/text/sampling-options.js';

/** Tokens before the first timing: an engine that compiles while it runs is done after them. */
const WARM_UP = { decode: 12, prefill: 32 };
const seconds = (since) => (performance.now() - since) / 1000;
const warnings = [];

let model;
/** Of `batch`, which goes below sessions. */
let executable;
const caches = [];
/** By name, so that what is measured at one position keeps its KV cache while others are. */
const sessions = new Map();
const warm = new Set();

function session(name) {
  let found = sessions.get(name);
  if (found === undefined) {
    found = model.createSession();
    sessions.set(name, found);
  }
  return found;
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

/** Moves a session to a position with something in its cache before it. */
async function moveTo(s, position, seed) {
  if (s.position > position) s.rewind(position);
  if (s.position < position) await s.forward(someTokens(position - s.position, seed), 'last');
}

async function decodeSome(s, count) {
  const sampler = greedy();
  let token = 1;
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    token = sampler.sample(await s.forward(Int32Array.of(token), 'last'));
  }
  return seconds(start);
}

const OPERATIONS = {
  async open({ source, target, threads, context, cache, head }) {
    const start = performance.now();
    const options = { target, threads, context, cache, head };
    for (const key of Object.keys(options)) if (options[key] === undefined) delete options[key];
    model = await load(source, { ...options, onWarning: (message) => warnings.push(message) });
    return {
      seconds: seconds(start),
      name: model.name,
      target: model.target,
      threads: model.threads,
      context: model.context,
      vocab: model.vocab,
      warnings,
    };
  },

  /** Greedy tokens one by one, sampling included, from a position on. */
  async decode({ position, tokens }) {
    const s = session(`decode ${position}`);
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
    const s = session('prefill');
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
    const start = performance.now();
    model = await load(source, { target, threads });
    const s = model.createSession();
    greedy().sample(await s.forward(someTokens(tokens, 4), 'last'));
    return { seconds: seconds(start), sinceStart: performance.now() / 1000 };
  },

  /** Steps of `count` tokens with the logits of all of them, as checking guesses takes. */
  async verify({ position, count, steps }) {
    const s = session('verify');
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
  async batch({ source, target, threads, sequences, position, tokens }) {
    executable ??= await startArtifact(await openArtifact(source), { target, threads });
    while (caches.length < sequences) {
      const cache = executable.createCache();
      const prompt = someTokens(position, caches.length + 1);
      await executable.step([{ tokens: prompt, position: 0, cache, logits: 'last' }]);
      caches.push(cache);
    }
    const sampler = greedy();
    let next = Array.from({ length: sequences }, (_, i) => i + 1);
    const run = async (steps) => {
      const start = performance.now();
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
      return seconds(start);
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

  async bandwidth({ target, threads }) {
    return await measureBandwidth(target, threads);
  },

  async multiplyAdds({ target, threads }) {
    return await measureMultiplyAdds(target, threads);
  },

  async peakMemory() {
    const line = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    return line === null ? process.resourceUsage().maxRSS * 1024 : Number(line[1]) * 1024;
  },

  async version() {
    return { node: process.versions.node, v8: process.versions.v8 };
  },

  async close() {
    for (const s of sessions.values()) await s.dispose();
    sessions.clear();
    warm.clear();
    await executable?.close();
    await model?.dispose();
    model = undefined;
  },
};

process.on('message', async ({ op, ...request }) => {
  try {
    process.send({ value: (await OPERATIONS[op](request)) ?? null });
  } catch (error) {
    process.send({ error: error instanceof Error ? error.message : String(error), code: error?.code });
  }
});
