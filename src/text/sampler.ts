import { LutraError } from '../common/errors.ts';
import { randomUniform } from '../common/random.ts';
import type { Logits, SelectLogits } from '../targets/executable.ts';
import { chooseLogits } from './choose-logits.ts';
import type { ResolvedSampling } from './sampling-options.ts';
import { largest, type Weighted } from './selection.ts';

export interface Sampler {
  /** Tokens that the repetition penalty is to count as seen, such as the prompt's. */
  observe(ids: Iterable<number>): void;
  /**
   * Says which of the next logits `sample` needs, to give what it would give with all of them; undefined: all.
   * `tokens` may count as seen by then.
   */
  select(tokens: readonly number[]): SelectLogits | undefined;
  /**
   * The next token from logits, all or selected, which are not changed; it counts as seen from then on. Throws
   * `internal` when the logits are not numbers.
   */
  sample(logits: Logits): number;
}

/**
 * Filters in the order of transformers: repetition penalty, temperature, top-k, top-p (of what top-k left),
 * min-p. Equal logits rank by id, the lowest first: greedy choice of a tie is the lowest id, and top-k keeps
 * exactly k.
 */
export function createSampler(options: ResolvedSampling): Sampler {
  const uniform = randomUniform(options.seed);
  const seen = new Set<number>();

  const { repetitionPenalty } = options;
  const penalty = (value: number) => (value > 0 ? value / repetitionPenalty : value * repetitionPenalty);
  const penalized = (logits: Float32Array): Float32Array => {
    if (repetitionPenalty === 1 || seen.size === 0) return logits;
    const result = logits.slice();
    for (const id of seen) {
      const value = result[id];
      if (value !== undefined) result[id] = penalty(value);
    }
    return result;
  };
  const penalizedSome = (values: Float32Array, ids: Int32Array): Float32Array =>
    repetitionPenalty === 1 ? values : values.map((v, i) => (seen.has(ids[i]!) ? penalty(v) : v));

  return {
    observe(ids) {
      for (const id of ids) seen.add(id);
    },
    select: (tokens) =>
      chooseLogits(options, () => (repetitionPenalty === 1 ? [] : [...new Set([...seen, ...tokens])])),
    sample(logits) {
      const ids = logits instanceof Float32Array ? undefined : logits.ids;
      const values =
        logits instanceof Float32Array ? penalized(logits) : penalizedSome(logits.values, logits.ids);
      const best = argmax(values);
      const id =
        options.temperature === 0
          ? (ids?.[best] ?? best)
          : draw(candidates(values, ids, values[best]!, options), uniform());
      seen.add(id);
      return id;
    },
  };
}

/** The largest logit's lowest id; refuses logits that no healthy kernel writes. */
function argmax(logits: Float32Array): number {
  let best = -1;
  let max = Number.NEGATIVE_INFINITY;
  for (let first = 0; first < logits.length; first += 8) {
    // One comparison for nearly all of them, which no NaN passes, and nothing else: that is faster.
    if (
      first + 8 <= logits.length &&
      logits[first]! <= max &&
      logits[first + 1]! <= max &&
      logits[first + 2]! <= max &&
      logits[first + 3]! <= max &&
      logits[first + 4]! <= max &&
      logits[first + 5]! <= max &&
      logits[first + 6]! <= max &&
      logits[first + 7]! <= max
    ) {
      continue;
    }
    const end = Math.min(first + 8, logits.length);
    for (let id = first; id < end; id++) {
      const value = logits[id]!;
      if (value <= max) continue;
      if (Number.isNaN(value)) throw new LutraError('internal', `logit ${id} is not a number`);
      max = value;
      best = id;
    }
  }
  if (!Number.isFinite(max)) throw new LutraError('internal', 'the logits have no finite maximum');
  return best;
}

/** The tokens that may be drawn, weighed by exp((logit - max) / temperature): the best one weighs 1. */
function candidates(
  logits: Float32Array,
  tokens: Int32Array | undefined,
  max: number,
  options: ResolvedSampling,
): Weighted {
  const { topK, topP, minP } = options;
  // The bound keeps 0 * inverse a number at temperatures like 1e-320.
  const inverse = Math.min(1 / options.temperature, Number.MAX_VALUE);

  let kept: Weighted;
  // Of selected logits there may be just as many.
  if (topK > 0 && (topK < logits.length || tokens !== undefined)) {
    const { ids, values } = largest(logits, topK);
    kept = {
      ids: tokens === undefined ? ids : ids.map((i) => tokens[i]!),
      values: values.map((value) => expNegative((value - max) * inverse)),
    };
    if (topP < 1) kept = nucleus(kept, topP * total(kept.values));
  } else {
    const weights = new Float64Array(logits.length);
    for (let id = 0; id < weights.length; id++) weights[id] = expNegative((logits[id]! - max) * inverse);
    kept = topP < 1 ? nucleusOf(weights, topP) : { ids: tokens, values: weights };
  }
  return minP === 0 ? kept : atLeast(kept, minP);
}

function atLeast({ ids, values }: Weighted, bound: number): Weighted {
  const keptIds: number[] = [];
  const kept: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i]! < bound) continue;
    keptIds.push(ids?.[i] ?? i);
    kept.push(values[i]!);
  }
  return { ids: Int32Array.from(keptIds), values: Float64Array.from(kept) };
}

/** Weights are sorted into powers of two for the nucleus; below the last lies next to nothing. */
const LEVELS = 128;

/**
 * The nucleus of all tokens: whole levels of weight from the top while they do not suffice, and of the level
 * that is one too many the first ones. Only that level is put in order.
 */
function nucleusOf(weights: Float64Array, topP: number): Weighted {
  // The upper half of each number, little endian: sign and exponent are its first 12 bits.
  const bits = new Uint32Array(weights.buffer);
  // 1023 is the exponent of 1, the largest weight.
  const levelOf = (id: number): number => Math.min(1023 - (bits[2 * id + 1]! >>> 20), LEVELS - 1);
  const levels = new Float64Array(LEVELS);
  for (let id = 0; id < weights.length; id++) {
    const level = levelOf(id);
    levels[level] = levels[level]! + weights[id]!;
  }
  const wanted = topP * total(levels);
  let sum = 0;
  let last = 0;
  while (last < LEVELS - 1 && sum + levels[last]! < wanted) sum += levels[last++]!;

  const whole: number[] = [];
  const split: number[] = [];
  for (let id = 0; id < weights.length; id++) {
    const level = levelOf(id);
    if (level < last) whole.push(id);
    else if (level === last) split.push(id);
  }
  split.sort((a, b) => weights[b]! - weights[a]! || a - b);
  for (let i = 0; i < split.length && sum < wanted; i++) {
    whole.push(split[i]!);
    sum += weights[split[i]!]!;
  }
  return { ids: Int32Array.from(whole), values: Float64Array.from(whole, (id) => weights[id]!) };
}

/** The first of the ranked tokens, as few as weigh at least `wanted` together. */
function nucleus(ranked: Weighted, wanted: number): Weighted {
  let sum = 0;
  let count = 0;
  while (count < ranked.values.length && sum < wanted) sum += ranked.values[count++]!;
  return { ids: ranked.ids?.subarray(0, count), values: ranked.values.subarray(0, count) };
}

function total(values: Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}

/** The token at the fraction `at`, 0 <= at < 1, of the whole weight. */
function draw(from: Weighted, at: number): number {
  let rest = at * total(from.values);
  let last = 0;
  for (let i = 0; i < from.values.length; i++) {
    const weight = from.values[i]!;
    if (weight === 0) continue;
    last = i;
    rest -= weight;
    if (rest < 0) break;
  }
  return from.ids?.[last] ?? last;
}

const STEPS = 1024;
const FRACTION = Float64Array.from({ length: STEPS }, (_, i) => 2 ** (i / STEPS));
const POWER = Float64Array.from({ length: 1100 }, (_, i) => 2 ** -i);

/**
 * e^x for x <= 0, to a relative error below 1e-13: 2^(k/1024) from tables times a cubic in the rest. Four
 * times as fast as Math.exp, which at 128k tokens costs more than everything else here together.
 */
export function expNegative(x: number): number {
  if (x < -700) return 0;
  const k = Math.floor(x * (STEPS / Math.LN2));
  const r = x - k * (Math.LN2 / STEPS);
  return FRACTION[k & (STEPS - 1)]! * POWER[-(k >> 10)]! * (1 + r * (1 + r * (0.5 + r / 6)));
}
