import { cpus } from 'node:os';
import { expect, test } from 'vitest';
import { C_MACHINES, findMachine, machinesFor, runnableMachines } from './c/machines.ts';
import { detectCpu, parseCacheSize, parseProcCpuinfo } from './cpu.ts';

const X86 = `processor	: 0
vendor_id	: AuthenticAMD
model name	: AMD EPYC 9B14
flags		: fpu sse2 AVX2 f16c fma avx512f avx512bw avx512vl avx512dq avx512_vnni

processor	: 1
vendor_id	: AuthenticAMD
model name	: AMD EPYC 9B14
flags		: fpu
`;

const ARM = `processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd asimddp
CPU part	: 0xd0b

Hardware	: BCM2835
Model		: Raspberry Pi 5 Model B Rev 1.0
`;

test('/proc/cpuinfo of x86 and of ARM', () => {
  const x86 = parseProcCpuinfo(X86);
  expect(x86).toMatchObject({ model: 'AMD EPYC 9B14', logicalCores: 2 });
  expect(x86.features.has('avx2')).toBe(true);
  const arm = parseProcCpuinfo(ARM);
  expect(arm).toMatchObject({ model: 'Raspberry Pi 5 Model B Rev 1.0', logicalCores: 1 });
  expect([...arm.features]).toEqual(['fp', 'asimd', 'asimddp']);
  expect(parseProcCpuinfo('')).toMatchObject({ model: undefined, logicalCores: 0 });
});

test('cache sizes of sysfs', () => {
  expect(['32K', '1024K\n', '32M', '1G', '512', '', 'big', '3.5M'].map(parseCacheSize)).toEqual([
    32768, 1048576, 33554432, 1073741824, 512, 0, 0, 0,
  ]);
});

test('this machine', async () => {
  const cpu = await detectCpu();
  expect(cpu.arch).toBe(process.arch);
  expect(cpu.model).not.toBe('');
  expect(cpu.logicalCores).toBe(cpus().length);
  expect(cpu.physicalCores).toBeGreaterThanOrEqual(1);
  expect(cpu.physicalCores).toBeLessThanOrEqual(cpu.logicalCores);
  if (cpu.arch === 'x64' && process.platform === 'linux') expect(cpu.features.has('sse2')).toBe(true);
});

test('a processor runs the variants whose features it has, best first, and always plain C', () => {
  const names = (arch: string, ...features: string[]) =>
    runnableMachines({ arch, features: new Set(features) }).map((m) => m.name);
  const avx512 = ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni'];
  expect(names('x64')).toEqual(['c:scalar']);
  expect(names('x64', 'avx2')).toEqual(['c:scalar']);
  expect(names('x64', 'avx2', 'f16c')).toEqual(['c:avx2', 'c:scalar']);
  expect(names('x64', 'avx2', 'f16c', 'avx_vnni')).toEqual(['c:avxvnni', 'c:avx2', 'c:scalar']);
  expect(names('x64', 'avx2', 'f16c', ...avx512)).toEqual(['c:avx512vnni', 'c:avx2', 'c:scalar']);
  expect(names('x64', 'avx2', 'f16c', ...avx512.slice(1))).toEqual(['c:avx2', 'c:scalar']);
  expect(names('x64', 'avx2', 'f16c', 'avx_vnni', ...avx512, 'avx512vbmi')).toEqual(
    machinesFor('x64').map((m) => m.name),
  );
  expect(names('arm64', 'avx2', 'f16c')).toEqual(['c:scalar']);
  expect(names('arm64', 'asimd', 'i8mm')).toEqual(['c:neon', 'c:scalar']);
  expect(names('arm64', 'asimd', 'asimddp', 'i8mm')).toEqual(machinesFor('arm64').map((m) => m.name));
  expect(names('riscv64', 'asimd')).toEqual(['c:scalar']);
});

test('no variant fuses multiplication and addition', () => {
  for (const machine of C_MACHINES) expect(machine.gccTarget.split(',')).not.toContain('fma');
  expect(findMachine('c:avx2')?.isa).toBe('avx2');
  expect(findMachine('avx2')).toBeUndefined();
});
