import { describe, expect, it } from 'vitest';
import type { CpuInfo } from '../targets/cpu.ts';
import { WASM_MACHINES } from '../targets/wasm/machines.ts';
import { candidates, checkTarget, defaultThreads, type Host } from './targets.ts';

function cpu(features: readonly string[], arch = 'x64', physicalCores = 4): CpuInfo {
  const caches = { l1d: 0, l2: 0, l3: 0 };
  return {
    arch,
    model: 'test',
    physicalCores,
    logicalCores: physicalCores,
    features: new Set(features),
    caches,
  };
}

const AVX2 = ['avx2', 'f16c'];
const CODE = [
  { file: 'native', machines: ['c:avx512vnni', 'c:avxvnni', 'c:avx2', 'c:scalar'] },
  { file: 'relaxed', machines: ['wasm:relaxed'] },
  { file: 'baseline', machines: ['wasm:baseline'] },
];
const wasm = WASM_MACHINES.filter(({ name }) => name !== 'wasm:relaxed-dot4');
const names = (target: string, host: Host, code = CODE) =>
  candidates(target, code, host).map((c) => c.machine);

describe('candidates', () => {
  it('goes from the most capable code down; scalar C last when left to itself', () => {
    const host = { cpu: cpu(AVX2), wasm };
    expect(names('auto', host)).toEqual(['c:avx2', 'wasm:relaxed', 'wasm:baseline', 'c:scalar']);
    expect(names('c', host)).toEqual(['c:avx2', 'c:scalar', 'wasm:relaxed', 'wasm:baseline']);
    expect(names('wasm', host)).toEqual(['wasm:relaxed', 'wasm:baseline']);
    expect(names('wasm:baseline', host)).toEqual(['wasm:baseline']);
    expect(names('auto', { cpu: cpu([], 'arm64'), wasm: [] })).toEqual(['c:scalar']);
  });

  it('takes NEON code on 64-bit ARM, as far as the processor has its instructions', () => {
    const code = [
      { file: 'native', machines: ['c:i8mm', 'c:dotprod', 'c:neon', 'c:scalar'] },
      ...CODE.slice(1),
    ];
    const arm = (...features: string[]) => names('auto', { cpu: cpu(features, 'arm64'), wasm }, code);
    const rest = ['wasm:relaxed', 'wasm:baseline', 'c:scalar'];
    expect(arm('asimd')).toEqual(['c:neon', ...rest]);
    expect(arm('asimd', 'asimddp')).toEqual(['c:dotprod', 'c:neon', ...rest]);
    expect(arm('asimd', 'asimddp', 'i8mm')).toEqual(['c:i8mm', 'c:dotprod', 'c:neon', ...rest]);
    const named = { cpu: cpu(['asimd'], 'arm64'), wasm };
    expect(() => names('c:dotprod', named, code)).toThrow(/cannot run c:dotprod: it lacks asimddp/);
    expect(() => names('c:neon', { cpu: cpu(AVX2), wasm }, code)).toThrow(/it is x64, not arm64/);
  });

  it('takes code as the engine makes it by itself after what the platform has it make', () => {
    const chain = candidates('wasm', CODE, { cpu: cpu(AVX2), wasm, optimizes: true });
    const told = chain.map(({ label, machine, plain = false }) => [label ?? machine, plain]);
    expect(told).toEqual([
      ['wasm:relaxed with joined vectors', false],
      ['wasm:relaxed', true],
      ['wasm:baseline with joined vectors', false],
      ['wasm:baseline', true],
    ]);
  });

  it('begins at a named instruction set', () => {
    expect(names('c:scalar', { cpu: cpu(AVX2), wasm })).toEqual([
      'c:scalar',
      'wasm:relaxed',
      'wasm:baseline',
    ]);
  });

  it('names what the machine lacks', () => {
    const host = { cpu: cpu(AVX2), wasm };
    expect(() => names('c:avx512vnni', host)).toThrow(/cannot run c:avx512vnni: it lacks .*avx512_vnni/);
    expect(() => names('c:avx2', { cpu: cpu([], 'arm64'), wasm })).toThrow(/cannot run c:avx2/);
    expect(() => names('c', host, CODE.slice(1))).toThrow(/no code for c that runs here/);
    expect(() => names('wasm:relaxed', { ...host, wasm: [] })).toThrow(/engine cannot run wasm:relaxed/);
    expect(() => names('auto', { ...host, wasm: [] }, [])).toThrow(/nothing of this artifact runs/);
    expect(() => checkTarget('avx2')).toThrow(/unknown target avx2/);
  });
});

it('takes four fifths of the cores by default, and at least one', () => {
  expect([1, 2, 4, 8, 16].map((cores) => defaultThreads(cpu([], 'x64', cores)))).toEqual([1, 2, 3, 6, 13]);
});
