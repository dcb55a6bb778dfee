/** A seeded stream of pseudo-random numbers. */
export interface Random {
  /** The next 32 bits, 0 <= x < 2^32. */
  uint32(): number;
  /** Uniform in [0, 1) with 53 random bits. */
  uniform(): number;
}

/**
 * xoshiro128++ 1.0 (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2019): 128 bits
 * of state, the same sequence on every platform. The seed, any safe integer >= 0, is spread over the state
 * by the finalizer of MurmurHash3, so that neighbouring seeds give unrelated sequences.
 */
export function createRandom(seed: number): Random {
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) >>> 0;
  const word = (i: number): number => mix(mix(low + Math.imul(i, 0x9e3779b9)) ^ high);
  // Four different arguments of a bijection: never the all-zero state, which would stay zero.
  return fromState([word(0), word(1), word(2), word(3)]);
}

/** The generator at a given state, which must not be all zero. */
export function fromState(state: readonly [number, number, number, number]): Random {
  let [a, b, c, d] = state;
  const uint32 = (): number => {
    const result = (rotl((a + d) | 0, 7) + a) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotl(d, 11);
    return result;
  };
  return {
    uint32,
    uniform: () => ((uint32() >>> 5) * 2 ** 26 + (uint32() >>> 6)) / 2 ** 53,
  };
}

function rotl(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}

function mix(x: number): number {
  let h = x | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
