import type { Command } from 'commander';
import { quote } from '../../checkpoint/failure.ts';
import { LutraError } from '../../common/errors.ts';
import type { ChatMessage } from '../../runtime/types.ts';
import type { Deps } from '../deps.ts';
import { interruptible } from '../io.ts';
import {
  addHugePagesOption,
  addModelOptions,
  loadModel,
  MODEL_HELP,
  type ModelOptions,
} from '../model-options.ts';
import { createProgressBar } from '../progress.ts';
import { isPrompt, readPrompt } from '../prompt.ts';
import { addGenerationOptions, type GenerationFlags, generateOptions, warnOfIdle } from '../sampling.ts';
import { speed } from '../speed.ts';
import { addHeadOptions } from '../weight-options.ts';

interface RunFlags extends ModelOptions, GenerationFlags {
  readonly system?: string;
  readonly raw?: true;
  readonly json?: true;
  readonly verbose?: true;
}

/** `lutra run MODEL PROMPT`: answers one prompt. */
export function addRunCommand(program: Command, deps: Deps): void {
  const command = program
    .command('run')
    .description('answer one prompt, given as words or on standard input')
    .argument('[model]', MODEL_HELP, 'embedded')
    .argument('[prompt...]', 'the prompt; - or nothing reads standard input');
  addGenerationOptions(addHeadOptions(addHugePagesOption(addModelOptions(command))))
    .option('--system <text>', 'a system message before the prompt')
    .option('--raw', 'continue the prompt as plain text, without the chat template')
    .option('--json', 'print one JSON object at the end instead of streaming')
    .action((model: string, words: readonly string[], flags: RunFlags) => run(deps, model, words, flags));
}

async function run(deps: Deps, model: string, words: readonly string[], flags: RunFlags): Promise<void> {
  const { io } = deps;
  if (flags.raw && flags.system !== undefined) {
    throw new LutraError('usage', '--system needs the chat template, which --raw leaves out');
  }
  if (words.length === 0 && isPrompt(model)) {
    throw new LutraError('usage', `there is no model ${quote(model)}`, {
      hint: `The model comes before the prompt: lutra run embedded ${quote(model)}`,
    });
  }
  const choosing = generateOptions(flags);
  const prompt = await readPrompt(words, io);
  const result = await interruptible(io, async (signal) => {
    const bar = createProgressBar(io);
    await using loaded = await loadModel(deps, model, flags, bar, signal);
    warnOfIdle(flags, loaded, bar.warn);
    await using session = loaded.createSession();
    const options = { ...choosing, signal };
    const generation = flags.raw
      ? session.generate(prompt, { ...options, raw: true })
      : session.generate(conversation(prompt, flags.system), options);
    for await (const piece of generation) if (!flags.json) io.out(piece);
    const finished = await generation.result;
    if (!flags.json) io.out('\n');
    if (flags.verbose) io.error(`${loaded.target}, ${loaded.threads} threads: ${speed(finished)}\n`);
    return finished;
  });
  if (flags.json) {
    const { text, tokens, finishReason, promptTokens, timings, speculation, head } = result;
    // What is undefined is left out.
    const report = { text, tokens, finishReason, promptTokens, timings, speculation, head };
    io.out(`${JSON.stringify(report)}\n`);
  }
  if (result.finishReason === 'cancelled') throw new LutraError('cancelled', 'cancelled');
}

function conversation(prompt: string, system: string | undefined): readonly ChatMessage[] {
  const question: ChatMessage = { role: 'user', content: prompt };
  return system === undefined ? [question] : [{ role: 'system', content: system }, question];
}
