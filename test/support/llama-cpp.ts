/** llama.cpp by way of node-llama-cpp, where it is installed: in this folder, or in the one that LUTRA_LLAMA_CPP names. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

function findLlamaCpp(): string | undefined {
  const folder = resolve(process.env.LUTRA_LLAMA_CPP ?? '.', 'node_modules', 'node-llama-cpp');
  const entry = join(folder, 'dist', 'index.js');
  return existsSync(entry) ? entry : undefined;
}

/** Its module; undefined where it is not installed. */
export const llamaCpp = findLlamaCpp();

interface Request {
  readonly model: string;
  readonly prompts: readonly (readonly number[])[];
  readonly maxTokens: number;
  /** To be tokenized. */
  readonly texts?: readonly string[];
  /** Whether the token that ends an answer is told, too. */
  readonly keepEnd?: boolean;
}

interface Reply {
  /** The tokens that it goes on with after each prompt. */
  readonly answers: readonly (readonly number[])[];
  readonly tokens: readonly (readonly number[])[];
}

/** Greedy answers, and texts as tokens, from a process of their own. */
export function askLlamaCpp(request: Request): Reply {
  const script = 'test/support/llama-cpp.mjs';
  const out = execFileSync(process.execPath, [script, llamaCpp!, JSON.stringify({ texts: [], ...request })], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return JSON.parse(out.trim().split('\n').at(-1)!) as Reply;
}
