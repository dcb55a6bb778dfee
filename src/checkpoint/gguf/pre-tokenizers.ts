/**
 * How llama.cpp names the splitting of texts into words that byte-level BPE merges within
 * (`tokenizer.ggml.pre`). A GGUF has only the name; tokenizer.json has the pattern.
 */

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const BEFORE = '[^\\r\\n\\p{L}\\p{N}]?';
const WORDS = `${BEFORE}\\p{L}+`;
const SPACES = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const REST = ` ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${SPACES}`;

/** Llama 3 takes digits in threes. */
const LLAMA3 = `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${REST}`;
/** Qwen 2 takes digits one by one. */
const QWEN2 = `${CONTRACTIONS}|${WORDS}|\\p{N}|${REST}`;

/** Letters that begin a word, and those that end it: those without case do both. */
const HEAD = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const TAIL = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
/** Mistral's since NeMo begins a word at each capital behind small letters, and takes slashes with what is before. */
const TEKKEN = `${BEFORE}${HEAD}*${TAIL}+|${BEFORE}${HEAD}+${TAIL}*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}`;

/** The pattern by llama.cpp's name; null is GPT-2's own, which ByteLevel has built in. */
const PATTERN_BY_NAME: ReadonlyMap<string, string | null> = new Map([
  ['llama-bpe', LLAMA3],
  ['llama-v3', LLAMA3],
  ['llama3', LLAMA3],
  ['falcon3', LLAMA3],
  ['smaug-bpe', LLAMA3],
  ['dbrx', LLAMA3],
  ['qwen2', QWEN2],
  ['deepseek-r1-qwen', QWEN2],
  ['tekken', TEKKEN],
  ['gpt-2', null],
]);

/** Names whose pre-tokenizers lutra can rebuild. */
export const PRE_TOKENIZERS: readonly string[] = [...PATTERN_BY_NAME.keys()];

/** The first name of a pattern. */
export function preTokenizerName(pattern: string | null): string | undefined {
  for (const [name, known] of PATTERN_BY_NAME) if (known === pattern) return name;
  return undefined;
}

/** The pattern of a name; undefined for a name that is not known. */
export function preTokenizerPattern(name: string): string | null | undefined {
  return PATTERN_BY_NAME.get(name);
}
