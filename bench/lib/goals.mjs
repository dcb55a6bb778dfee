// @ts-check
/**
 * What is to be reached on two cores like those the goals were set on (AVX-512, 41 to 50 GB/s),
 * and the best of the peers there. Figures go by their ids.
 */

/**
 * @typedef {{ goal: number, peer?: number, atMost?: true }} Goal
 * @type {readonly { match: RegExp, goal: Goal }[]}
 */
const GOALS = [
  { match: /^native\.decode\.2t\.(?!stored)/, goal: { goal: 70, peer: 45.6 } },
  { match: /^native\.decode\.1t\.(?!stored)/, goal: { goal: 55, peer: 28.4 } },
  { match: /^native\.prefill512\.2t$/, goal: { goal: 380, peer: 185 } },
  { match: /^native\.prefill512\.1t$/, goal: { goal: 195, peer: 108 } },
  { match: /^wasm\.node20\.decode\.2t$/, goal: { goal: 32, peer: 2.2 } },
  { match: /^wasm\.node2[4-9]\.decode\.2t$/, goal: { goal: 42, peer: 2.2 } },
  { match: /^wasm\.node20\.prefill128\.2t$/, goal: { goal: 70, peer: 2.9 } },
  { match: /^wasm\.node2[4-9]\.prefill128\.2t$/, goal: { goal: 85, peer: 2.9 } },
  { match: /^memory\.decode2048\.(?!stored)/, goal: { goal: 800, peer: 810, atMost: true } },
  { match: /^compile\.seconds$/, goal: { goal: 45, atMost: true } },
  { match: /^compile\.memory$/, goal: { goal: 2000, atMost: true } },
  { match: /^load\.firstToken$/, goal: { goal: 0.6, atMost: true } },
  { match: /^bitnet-3b\.decode\.2t$/, goal: { goal: 52, peer: 32.6 } },
  { match: /^llama2-w2\.decode\.2t\./, goal: { goal: 65, peer: 39.8 } },
  { match: /^llama2-w2\.decode\.1t\./, goal: { goal: 48, peer: 27.1 } },
  { match: /^llama2-w4\.decode\.2t\./, goal: { goal: 42, peer: 33.5 } },
  { match: /^llama2-w2\.prefill128\.2t\./, goal: { goal: 340, peer: 216 } },
  { match: /^llama2-w4\.prefill128\.2t\./, goal: { goal: 340, peer: 209 } },
  { match: /^context\.\w+\.share\.2000$/, goal: { goal: 85 } },
  { match: /^context\.i(nt)?8\.share\.4000$/, goal: { goal: 85 } },
  { match: /^busy\.share$/, goal: { goal: 60 } },
  { match: /^defaults\./, goal: { goal: 15, atMost: true } },
];

/** @param {string} id @returns {Goal | undefined} */
export function goalOf(id) {
  return GOALS.find(({ match }) => match.test(id))?.goal;
}

/** @param {Goal} goal @param {number} median */
export function reaches({ goal, atMost }, median) {
  return atMost ? median <= goal : median >= goal;
}
