import type { Machine } from '../../loops/machine.ts';
import type { CpuInfo } from '../cpu.ts';

/** The instruction set of a piece of generated C; each includes the ones before it, as far as it uses them. */
export type Isa = 'scalar' | 'avx2' | 'avxvnni' | 'avx512vnni';

/** A variant of the C target: what its code may use, and what a processor must have to run it. */
export interface CMachine extends Machine {
  readonly isa: Isa;
  /** Processor features the code uses, as Linux spells them. */
  readonly requires: readonly string[];
  /** The same as compilers spell them, for `__attribute__((target))`; empty for portable C. */
  readonly gccTarget: string;
}

const AVX512_VNNI: CMachine = {
  name: 'c:avx512vnni',
  isa: 'avx512vnni',
  vectorBytes: 64,
  vectorRegisters: 32,
  native: new Set(['dot2', 'madd', 'dot4', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 1 << 20,
  requires: ['avx2', 'f16c', 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni'],
  gccTarget: 'avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni',
};

const AVX_VNNI: CMachine = {
  name: 'c:avxvnni',
  isa: 'avxvnni',
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
  vectorBytes: 32,
  vectorRegisters: 16,
  native: new Set(['dot2', 'madd', 'lookup16', 'averageRound', 'f16']),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 256 << 10,
  requires: ['avx2', 'f16c'],
  gccTarget: 'avx2,f16c',
};

const SCALAR: CMachine = {
  name: 'c:scalar',
  isa: 'scalar',
  vectorBytes: 4,
  vectorRegisters: 16,
  native: new Set(),
  dotCodeMax: 255,
  l1Bytes: 32 << 10,
  l2Bytes: 256 << 10,
  requires: [],
  gccTarget: '',
};

/** All variants, the most capable first: the order of fallback. FMA is not among their features: it would change results. */
export const C_MACHINES: readonly CMachine[] = [AVX512_VNNI, AVX_VNNI, AVX2, SCALAR];

/** The variants that this processor can run, best first; `c:scalar` is always among them. */
export function runnableMachines(cpu: Pick<CpuInfo, 'arch' | 'features'>): readonly CMachine[] {
  return C_MACHINES.filter(
    (machine) =>
      machine.isa === 'scalar' ||
      (cpu.arch === 'x64' && machine.requires.every((name) => cpu.features.has(name))),
  );
}

/** By name, `c:avx2`; undefined when there is none. */
export function findMachine(name: string): CMachine | undefined {
  return C_MACHINES.find((machine) => machine.name === name);
}
