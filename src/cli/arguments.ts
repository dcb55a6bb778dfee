/** Parsers of option values; each names the option and what it takes when it refuses. */
import { LutraError } from '../common/errors.ts';
import type { CodeBits } from '../graph/ir.ts';
import { MAX_SEQUENCES, MAX_THREADS } from '../targets/executable.ts';

function refuse(option: string, takes: string, text: string): never {
  throw new LutraError('usage', `${option} takes ${takes}, not "${text}"`);
}

export function positiveInteger(option: string): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : 0;
    return value >= 1 && Number.isSafeInteger(value) ? value : refuse(option, 'a whole number above 0', text);
  };
}

export function wholeNumber(option: string): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : -1;
    return value >= 0 && Number.isSafeInteger(value) ? value : refuse(option, 'a whole number', text);
  };
}

export function weightBits(option: string): (text: string) => CodeBits | 'ternary' {
  return (text) => {
    const found = ([1, 2, 3, 4, 8, 'ternary'] as const).find((bits) => String(bits) === text);
    return found ?? refuse(option, '1, 2, 3, 4, 8 or ternary', text);
  };
}

/** A multiple of 32 columns, or `row`. */
export function groupSize(option: string): (text: string) => number | 'row' {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : 0;
    if (text === 'row') return 'row';
    return value >= 32 && value % 32 === 0 ? value : refuse(option, 'a multiple of 32, or row', text);
  };
}

/** A decimal number; its range is checked where its meaning is known. */
export function decimal(option: string): (text: string) => number {
  return (text) => {
    const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
    return Number.isFinite(value) ? value : refuse(option, 'a number', text);
  };
}

export function threadCount(option: string): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : 0;
    if (value >= 1 && value <= MAX_THREADS) return value;
    return refuse(option, `a number of threads from 1 to ${MAX_THREADS}`, text);
  };
}

/** `1,2,4`: distinct thread counts in the order given. */
export function threadCounts(option: string): (text: string) => readonly number[] {
  const one = threadCount(option);
  return (text) => [...new Set(text.split(',').map((part) => one(part.trim())))];
}

/** `1,4,16`: distinct numbers of sequences in the order given. */
export function batchSizes(option: string): (text: string) => readonly number[] {
  const one = (text: string) => {
    const value = /^\d+$/.test(text) ? Number(text) : 0;
    if (value >= 1 && value <= MAX_SEQUENCES) return value;
    return refuse(option, `a number of sequences from 1 to ${MAX_SEQUENCES}`, text);
  };
  return (text) => [...new Set(text.split(',').map((part) => one(part.trim())))];
}

/** For options that may be given more than once. */
export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

/** Those of the named options that were given: an absent one must not hide a default as `undefined`. */
export function pick<T, K extends keyof T>(options: T, keys: readonly K[]): Pick<T, K> {
  const given = keys.filter((key) => options[key] !== undefined).map((key) => [key, options[key]]);
  return Object.fromEntries(given) as Pick<T, K>;
}
