/** For tests: compilers and emulators for another architecture than this machine's. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RandomCase } from '../../loops/testing.ts';
import { type Compiler, compilerFlags } from './compile.ts';
import { emitC } from './emit.ts';
import { buildHarness, harnessDifferences, run } from './harness.ts';
import { type CMachine, findMachine } from './machines.ts';
import { KERNELS_INFO, kernelsOnly, strict, withFolder } from './testing.ts';

/** The emulator of a 64-bit ARM processor; it starts a program that follows. */
export function emulator(cpu: string): readonly string[] {
  return ['qemu-aarch64', '-cpu', cpu];
}

async function works(command: readonly string[]): Promise<boolean> {
  return withFolder(async (folder) => {
    const source = join(folder, 'probe.c');
    const program = join(folder, 'probe');
    await writeFile(source, '#include <arm_neon.h>\n#include <pthread.h>\nint main(void) { return 0; }\n');
    try {
      await run(command[0]!, [...command.slice(1), '-static', '-o', program, source]);
      await run('qemu-aarch64', [program]);
      return true;
    } catch {
      return false;
    }
  });
}

/** Compilers for 64-bit ARM that are installed here, with an emulator that runs what they make. */
export async function armCompilers(): Promise<readonly Compiler[]> {
  const all: readonly Compiler[] = [
    { command: ['clang', '--target=aarch64-linux-gnu'], kind: 'clang', version: 'clang for aarch64' },
    { command: ['aarch64-linux-gnu-gcc'], kind: 'gcc', version: 'gcc for aarch64' },
  ];
  const working = await Promise.all(all.map(({ command }) => works(command)));
  return all.filter((_, i) => working[i]);
}

/** What installs what `armCompilers` looks for. */
export const ARM_HINT =
  'skipped: no compiler and emulator for 64-bit ARM; Debian has them as gcc-aarch64-linux-gnu, ' +
  'libc6-dev-arm64-cross and qemu-user';

/** The flags of a compiled model as far as they concern code and not shared libraries. */
export function programFlags({ kind }: Compiler): readonly string[] {
  const shared = new Set(['-fPIC', '-shared', '-fvisibility=hidden']);
  return [...compilerFlags(kind).filter((flag) => !shared.has(flag)), '-static'];
}

/** What of the cases on the machines, each on an emulated processor, differs from the interpreter. */
export async function armDifferences(
  cases: readonly RandomCase[],
  processors: readonly { readonly machine: CMachine; readonly cpu: string }[],
  compiler: Compiler,
): Promise<readonly string[]> {
  return withFolder(async (folder) => {
    const functions = cases.map((c) => c.fn);
    const machines = [...new Set([...processors.map((p) => p.machine), findMachine('c:scalar')!])];
    const source = emitC(
      machines.map((machine) => kernelsOnly(machine, functions)),
      KERNELS_INFO,
    );
    const { command } = strict(compiler);
    const program = await buildHarness(folder, source, command, programFlags(compiler));
    const found: string[] = [];
    for (const { machine, cpu } of processors) {
      found.push(...(await harnessDifferences(folder, [...emulator(cpu), program], machine.isa, cases)));
    }
    return found;
  });
}
