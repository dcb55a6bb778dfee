import type { Machine } from '../../loops/machine.ts';
import type { CpuInfo } from '../cpu.ts';

/** An architecture that variants are written for, as Node names it. */
export type Arch = 'x64' | 'arm64';

/**
 * The instruction set of a piece of generated C; on its architecture, each includes the ones before it, as far
 * as it uses them.
 */
export type Isa = 'scalar' | 'avx2' | 'avxvnni' | 'avx512vnni' | 'avx512vbmi' | 'neon' | 'dotprod' | 'i8mm';

/** A variant of the C target: what its code may use, and what a processor must have to run it. */
export interface CMachine extends Machine {
  readonly isa: Isa;
  /** `any`: portable C. */
  readonly arch: Arch | 'any';
  /** Processor features the code uses, as Linux spells them. */
  readonly requires: readonly string[];
  /** The same as compilers of x86 spell them, for `__attribute__((target))`; empty for the others. */
  readonly gccTarget: string;
}

const AVX512_VNNI: CMachine = {
  name: 'c:avx512vnni',
  isa: 'avx512vnni',
  arch: 'x64',
  vectorBytes: 64,
  vectorRegisters: 32,
  native: new Set(['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 1 << 20,
  requires: ['avx2', 'f16c', 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni'],
  gccTarget: 'avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni',
};

/** Tables of 128 bytes, which weights in the encoding `t5b` are read through. */
const AVX512_VBMI: CMachine = {
  ...AVX512_VNNI,
  name: 'c:avx512vbmi',
  isa: 'avx512vbmi',
  native: new Set([...AVX512_VNNI.native, 'lookup128']),
  requires: [...AVX512_VNNI.requires, 'avx512vbmi'],
  gccTarget: `${AVX512_VNNI.gccTarget},avx512vbmi`,
};

const AVX_VNNI: CMachine = {
  name: 'c:avxvnni',
  isa: 'avxvnni',
  arch: 'x64',
  vectorBytes: 32,
  vectorRegisters: 16,
  native: new Set(['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 1 << 20,
  requires: ['avx2', 'f16c', 'avx_vnni'],
  gccTarget: 'avx2,f16c,avxvnni',
};

const AVX2: CMachine = {
  name: 'c:avx2',
  isa: 'avx2',
  arch: 'x64',
  vectorBytes: 32,
  vectorRegisters: 16,
  native: new Set(['dot2', 'madd', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 256 << 10,
  requires: ['avx2', 'f16c'],
  gccTarget: 'avx2,f16c',
};

/** Every 64-bit ARM processor: 128-bit vectors, table lookup, conversions of f16. */
const NEON: CMachine = {
  name: 'c:neon',
  isa: 'neon',
  arch: 'arm64',
  vectorBytes: 16,
  vectorRegisters: 32,
  native: new Set(['dot2', 'madd', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 127,
  l1Bytes: 32 << 10,
  l2Bytes: 256 << 10,
  requires: ['asimd'],
  gccTarget: '',
};

/** sdot multiplies signed by signed bytes: codes up to 127 are both. From about 2018 on (Cortex-A55, A76). */
const DOTPROD: CMachine = {
  ...NEON,
  name: 'c:dotprod',
  isa: 'dotprod',
  native: new Set([...NEON.native, 'dot4']),
  requires: ['asimd', 'asimddp'],
};

/** usdot multiplies unsigned by signed bytes. From about 2021 on (Armv8.6, Armv9). */
const I8MM: CMachine = {
  ...DOTPROD,
  name: 'c:i8mm',
  isa: 'i8mm',
  dotCodeMax: 255,
  l1Bytes: 64 << 10,
  l2Bytes: 512 << 10,
  requires: ['asimd', 'asimddp', 'i8mm'],
};

const SCALAR: CMachine = {
  name: 'c:scalar',
  isa: 'scalar',
  arch: 'any',
  vectorBytes: 4,
  vectorRegisters: 16,
  native: new Set(),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 256 << 10,
  requires: [],
  gccTarget: '',
};

/**
 * All variants, of each architecture the most capable first: the order of fallback. FMA is not among their
 * features: it would change results.
 */
export const C_MACHINES: readonly CMachine[] = [
  AVX512_VBMI,
  AVX512_VNNI,
  AVX_VNNI,
  AVX2,
  I8MM,
  DOTPROD,
  NEON,
  SCALAR,
];

/** The variants of a C file for an architecture, best first; for an unknown one, those that run on any. */
export function machinesFor(arch: string): readonly CMachine[] {
  return C_MACHINES.filter((machine) => machine.arch === arch || machine.arch === 'any');
}

/** The variants that this processor can run, best first; `c:scalar` is always among them. */
export function runnableMachines(cpu: Pick<CpuInfo, 'arch' | 'features'>): readonly CMachine[] {
  return machinesFor(cpu.arch).filter((machine) => machine.requires.every((name) => cpu.features.has(name)));
}

/** By name, `c:avx2`; undefined when there is none. */
export function findMachine(name: string): CMachine | undefined {
  return C_MACHINES.find((machine) => machine.name === name);
}
