import { describe, expect, it } from 'vitest';
import type { Host } from '../../runtime/targets.ts';
import type { Compiler } from '../../targets/c/compile.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import { examine } from './doctor.ts';

const CLANG: Compiler = { command: ['clang'], kind: 'clang', version: 'clang version 18.1' };
const AVX512 = ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni'];

function host(features: readonly string[], wasm: Host['wasm'] = [], arch = 'x64'): Host {
  const caches = { l1d: 32768, l2: 0, l3: 0 };
  return {
    cpu: { arch, model: 'A chip', physicalCores: 4, logicalCores: 8, features: new Set(features), caches },
    wasm,
  };
}

/** Variants by name: true, or why not. */
function verdicts(report: ReturnType<typeof examine>): Record<string, true | string> {
  return Object.fromEntries(
    report.variants.map(({ name, available, reason }) => [name, available || reason!]),
  );
}

describe('examine', () => {
  it('takes the best native code that the CPU runs, and says what the better ones need', () => {
    const report = examine(host(['avx2', 'f16c', 'fma']), [CLANG]);
    expect(report.target).toEqual({
      name: 'c:avx2',
      reason: 'native code by clang version 18.1, the best this CPU runs',
    });
    expect(verdicts(report)).toMatchObject({
      'c:avx512vnni': `this CPU lacks ${AVX512.join(', ')}`,
      'c:avxvnni': 'this CPU lacks avx_vnni',
      'c:avx2': true,
      'c:scalar': true,
    });
    expect(report.threads).toBe(3);
    expect(report.compilers).toEqual([{ command: 'clang', version: 'clang version 18.1' }]);
    expect(examine(host(['avx2', 'f16c', ...AVX512]), [CLANG]).target.name).toBe('c:avx512vnni');
    expect(examine(host([], [], 'arm64'), [CLANG]).target.name).toBe('c:scalar');
  });

  it("takes the engine's best WebAssembly without a compiler", () => {
    const preferred = [...WASM_MACHINES].reverse();
    const report = examine(host(['avx2', 'f16c'], preferred), []);
    expect(report.target.name).toBe(preferred[0]!.name);
    expect(report.target.reason).toContain('no C compiler');
    expect(verdicts(report)['c:scalar']).toBe('there is no C compiler');
    const names = report.variants.filter(({ available }) => available).map(({ name }) => name);
    expect(names).toEqual(preferred.map(({ name }) => name));
  });

  it('says when nothing can run', () => {
    const report = examine(host([]), []);
    expect(report.target.name).toBe('none');
    expect(report.variants.some(({ available }) => available)).toBe(false);
  });
});
