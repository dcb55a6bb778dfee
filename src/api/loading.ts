/** What loading a model takes in Node and in browsers alike. */
import { LutraError } from '../common/errors.ts';
import { MAX_SEQUENCES, MAX_THREADS } from '../targets/executable.ts';
import type { TextSource } from '../text/source.ts';

function parseObject(text: string | undefined): Readonly<Record<string, unknown>> {
  return text === undefined ? {} : (JSON.parse(text) as Record<string, unknown>);
}

/** The texts that an artifact brings along. */
export function textOf({ path, textFiles }: Pick<TextSource, 'path' | 'textFiles'>): TextSource {
  return {
    path,
    textFiles,
    config: parseObject(textFiles.get('config.json')),
    generationConfig: parseObject(textFiles.get('generation_config.json')),
  };
}

export function checkThreads(threads: number | undefined): void {
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS)) {
    throw new LutraError('usage', `threads must be an integer from 1 to ${MAX_THREADS}, got ${threads}`);
  }
}

export function checkMaxBatch(maxBatch: number | undefined): void {
  if (maxBatch === undefined) return;
  if (!Number.isInteger(maxBatch) || maxBatch < 1 || maxBatch > MAX_SEQUENCES) {
    throw new LutraError('usage', `maxBatch must be an integer from 1 to ${MAX_SEQUENCES}, got ${maxBatch}`);
  }
}
