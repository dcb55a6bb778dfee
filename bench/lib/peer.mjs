/** The measuring process of node-llama-cpp, which lies in a folder of its own. Answers as child.mjs does. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const seconds = (since) => (performance.now() - since) / 1000;

let sequence;
let vocabulary;

function someTokens(count) {
  let state = 3;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabulary);
  });
}

const OPERATIONS = {
  async open({ folder, model: modelPath, threads }) {
    const entry = join(folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
    const { getLlama } = await import(pathToFileURL(entry).href);
    // The binary of the npm package, or none: nothing is compiled or downloaded here.
    const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads, logLevel: 'error' });
    const model = await llama.loadModel({ modelPath });
    const context = await model.createContext({
      contextSize: 1024,
      batchSize: 512,
      threads: { ideal: threads, min: threads },
    });
    sequence = context.getSequence();
    vocabulary = 30000;
    return { threads: context.currentThreads, release: llama.llamaCppRelease, system: llama.systemInfo };
  },

  async prefill({ tokens }) {
    await sequence.clearHistory();
    const prompt = someTokens(tokens);
    const start = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt);
    return { seconds: seconds(start) };
  },

  async decode({ position, tokens }) {
    await sequence.clearHistory();
    await sequence.evaluateWithoutGeneratingNewTokens(someTokens(position));
    let count = 0;
    let start = 0;
    for await (const _ of sequence.evaluate([5], { temperature: 0, yieldEogToken: true })) {
      // The first token carries what starts the loop; time begins after it.
      if (count === 0) start = performance.now();
      if (count++ === tokens) break;
    }
    if (count <= tokens) throw new Error(`it ended after ${count} tokens`);
    return { seconds: seconds(start) };
  },
};

process.on('message', async ({ op, ...request }) => {
  try {
    process.send({ value: (await OPERATIONS[op](request)) ?? null });
  } catch (error) {
    process.send({ error: error instanceof Error ? error.message : String(error) });
  }
});
