import { type Command, Option } from 'commander';
import { LutraError } from '../common/errors.ts';
import type { GenerateOptions } from '../runtime/types.ts';
import { collect, decimal, pick, positiveInteger, wholeNumber } from './arguments.ts';

export interface GenerationFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly speculate?: number;
  readonly stop?: readonly string[];
}

/** How to choose tokens and when to stop; what is not given comes from the model's generation_config.json. */
export function addGenerationOptions(command: Command): Command {
  const option = (flags: string, help: string, parse: (text: string) => number) =>
    command.addOption(new Option(flags, help).argParser(parse));
  option('-n, --max-tokens <n>', 'at most this many new tokens', positiveInteger('--max-tokens'));
  option('--temperature <x>', '0 always takes the likeliest token', decimal('--temperature'));
  option('--top-k <k>', 'draw from the k likeliest tokens; 0 is off', wholeNumber('--top-k'));
  option('--top-p <p>', 'draw from the likeliest tokens that reach p together', decimal('--top-p'));
  option('--min-p <p>', 'drop tokens below p times the likeliest', decimal('--min-p'));
  option('--repetition-penalty <x>', 'above 1 avoids tokens already seen', decimal('--repetition-penalty'));
  option('--seed <n>', 'repeat the same draw', wholeNumber('--seed'));
  option(
    '--speculate <n>',
    'guess up to n tokens from earlier text; changes nothing but the time',
    wholeNumber('--speculate'),
  );
  return command.addOption(
    new Option('--stop <text>', 'end before this text; may be given again').argParser(collect),
  );
}

/** The library's options out of a command's, which hold others besides. */
export function generateOptions(flags: GenerationFlags): GenerateOptions {
  const drawing = { topK: '--top-k', topP: '--top-p', minP: '--min-p', seed: '--seed' } as const;
  const idle = (Object.keys(drawing) as (keyof typeof drawing)[]).find((key) => flags[key] !== undefined);
  if (flags.temperature === 0 && idle !== undefined) {
    throw new LutraError(
      'usage',
      `--temperature 0 always takes the likeliest token: ${drawing[idle]} means nothing`,
      {
        hint: `Leave out one of the two.`,
      },
    );
  }
  return pick(flags, [
    'maxTokens',
    'temperature',
    'topK',
    'topP',
    'minP',
    'repetitionPenalty',
    'seed',
    'speculate',
    'stop',
  ]);
}
