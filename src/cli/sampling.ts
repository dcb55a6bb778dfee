import { type Command, Option } from 'commander';
import { LutraError } from '../common/errors.ts';
import type { GenerateOptions, Model } from '../runtime/types.ts';
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

const DRAWING = { topK: '--top-k', topP: '--top-p', minP: '--min-p', seed: '--seed' } as const;

/** Options about drawing tokens that were given. */
function drawingOptions(flags: GenerationFlags): readonly string[] {
  const given = (Object.keys(DRAWING) as (keyof typeof DRAWING)[]).filter((key) => flags[key] !== undefined);
  return given.map((key) => DRAWING[key]);
}

/** Says which options change nothing with a model that draws no tokens. */
export function warnOfIdle(flags: GenerationFlags, model: Model, warn: (message: string) => void): void {
  const idle = drawingOptions(flags);
  if (!model.greedy || flags.temperature !== undefined || idle.length === 0) return;
  warn(
    `${idle.join(' and ')} changed nothing: ${model.name} takes the likeliest token; --temperature 1 draws`,
  );
}

/** The library's options out of a command's, which hold others besides. */
export function generateOptions(flags: GenerationFlags): GenerateOptions {
  const [idle] = drawingOptions(flags);
  if (flags.temperature === 0 && idle !== undefined) {
    throw new LutraError('usage', `--temperature 0 always takes the likeliest token: ${idle} means nothing`, {
      hint: 'Leave out one of the two.',
    });
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
