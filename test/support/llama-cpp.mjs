/**
 * A process of its own that continues prompts greedily with llama.cpp:
 *   node llama-cpp.mjs PATH-OF-NODE-LLAMA-CPP JSON
 * where JSON is {"model", "prompts": [[ids]], "texts": [text], "maxTokens", "keepEnd"}; prints
 * {"answers": [[ids]], "tokens": [[ids]]}: answers, with the token that ends them if asked for, and texts as ids.
 */
import { pathToFileURL } from 'node:url';

const [library, request] = process.argv.slice(2);
const { model: modelPath, prompts, texts, maxTokens, keepEnd } = JSON.parse(request);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(library).href);
const llama = await getLlama({
  gpu: false,
  build: 'never',
  logLevel: LlamaLogLevel.error,
  progressLogs: false,
});
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 256, threads: 1 });
const answers = [];
for (const prompt of prompts) {
  const sequence = context.getSequence();
  const answer = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    const isEnd = model.isEogToken(token);
    if (!isEnd || keepEnd) answer.push(token);
    if (isEnd || answer.length >= maxTokens) break;
  }
  answers.push(answer);
  sequence.dispose();
}
const tokens = texts.map((text) => model.tokenize(text, true));
process.stdout.write(`\n${JSON.stringify({ answers, tokens })}\n`);
process.exit(0);
