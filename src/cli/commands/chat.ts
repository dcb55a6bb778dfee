import { join } from 'node:path';
import type { Command } from 'commander';
import { cacheFolder } from '../../artifact/cache.ts';
import { LutraError } from '../../common/errors.ts';
import { chat } from '../chat-loop.ts';
import { openTerminal } from '../chat-terminal.ts';
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
import { addGenerationOptions, type GenerationFlags, generateOptions, warnOfIdle } from '../sampling.ts';
import { addHeadOptions } from '../weight-options.ts';

interface ChatFlags extends ModelOptions, GenerationFlags {
  readonly system?: string;
}

/** `lutra chat MODEL`: a conversation in the terminal. */
export function addChatCommand(program: Command, deps: Deps): void {
  const command = program
    .command('chat')
    .description('talk with a model; /help inside lists what can be done')
    .argument('[model]', MODEL_HELP, 'embedded');
  addGenerationOptions(addHeadOptions(addHugePagesOption(addModelOptions(command))))
    .option('--system <text>', 'a system message before the conversation')
    .action((model: string, flags: ChatFlags) => runChat(deps, model, flags));
}

async function runChat(deps: Deps, model: string, flags: ChatFlags): Promise<void> {
  const choosing = generateOptions(flags);
  await interruptible(deps.io, async (signal) => {
    const bar = createProgressBar(deps.io);
    await using loaded = await loadModel(deps, model, flags, bar, signal);
    warnOfIdle(flags, loaded, bar.warn);
    if (deps.io.inputIsTerminal) {
      const place = `${loaded.target}, ${loaded.threads} threads, context ${loaded.context}`;
      deps.io.out(`${loaded.name} on ${place}. /help lists commands, Ctrl-C stops an answer.\n`);
    }
    using terminal = openTerminal(join(cacheFolder(), 'chat-history'));
    const ended = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new LutraError('cancelled', 'cancelled')));
    });
    await Promise.race([chat(terminal, loaded, { ...choosing, signal }, flags.system), ended]);
  });
}
