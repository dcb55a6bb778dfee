import type { CodeEntry } from '../artifact/manifest.ts';
import { LutraError } from '../common/errors.ts';
import { C_MACHINES, runnableMachines } from '../targets/c/machines.ts';
import type { CpuInfo } from '../targets/cpu.ts';
import { WASM_MACHINES, type WasmMachine } from '../targets/wasm/machines.ts';

/** One way to run an artifact here. */
export interface Candidate {
  /** `c:avx2`, `wasm:relaxed`, ... */
  readonly machine: string;
  readonly kind: 'c' | 'wasm';
  /** What to call it where its machine's name is not enough. */
  readonly label?: string;
  /** WebAssembly as the engine compiles it by itself, after what the platform has it do better. */
  readonly plain?: boolean;
}

/** What of this computer matters for the choice. */
export interface Host {
  readonly cpu: CpuInfo;
  /** WebAssembly machines this engine runs, best first. */
  readonly wasm: readonly WasmMachine[];
  /** Whether the platform has the engine make better code than it does by itself; default: no. */
  readonly optimizes?: boolean;
}

/** All names `--target` takes. */
function targetNames(): readonly string[] {
  return ['auto', 'c', ...C_MACHINES.map((m) => m.name), 'wasm', ...WASM_MACHINES.map((m) => m.name)];
}

/** Throws `usage` for a target that does not exist. */
export function checkTarget(target: string): void {
  if (!targetNames().includes(target)) {
    throw new LutraError('usage', `unknown target ${target}`, {
      hint: `Targets are ${targetNames().join(', ')}.`,
    });
  }
}

/** The C machines a target means on this host, best first. Throws `environment` when it needs more than the CPU has. */
export function nativeMachines(target: string, cpu: CpuInfo): readonly string[] {
  if (target === 'wasm' || target.startsWith('wasm:')) return [];
  const runnable = runnableMachines(cpu);
  if (!target.startsWith('c:')) return runnable.map((m) => m.name);
  const wanted = C_MACHINES.find((m) => m.name === target);
  if (wanted === undefined || !runnable.includes(wanted)) {
    const missing = wanted?.requires.filter((feature) => !cpu.features.has(feature)) ?? [];
    throw new LutraError(
      'environment',
      `this CPU cannot run ${target}: ${
        wanted?.arch === cpu.arch
          ? `it lacks ${missing.join(', ')}`
          : `it is ${cpu.arch}, not ${wanted?.arch}`
      }`,
      {
        hint: `It runs ${runnable.map((m) => m.name).join(', ')}; use --target auto to choose by itself.`,
      },
    );
  }
  // A named instruction set, and what to fall back to should its code prove wrong.
  return runnable.slice(runnable.indexOf(wanted)).map((m) => m.name);
}

/**
 * Ways to run code on this host for a target, in the order they are tried: native code from the most
 * capable instruction set down, then WebAssembly. `wasm...` targets never run native code. Left to `auto`,
 * WebAssembly comes before scalar C: with its 128-bit vectors it is several times faster.
 */
export function candidates(target: string, code: readonly CodeEntry[], host: Host): readonly Candidate[] {
  checkTarget(target);
  const available = new Set(code.flatMap((entry) => entry.machines));
  const native = nativeMachines(target, host.cpu)
    .filter((machine) => available.has(machine))
    .map((machine): Candidate => ({ machine, kind: 'c' }));
  const wasm = host.wasm
    .filter(({ name }) => available.has(name) && (!target.startsWith('wasm:') || name === target))
    .flatMap(({ name }): readonly Candidate[] => {
      const plain = { machine: name, kind: 'wasm' } as const;
      if (host.optimizes !== true) return [plain];
      return [
        { ...plain, label: `${name} with joined vectors` },
        { ...plain, plain: true },
      ];
    });
  if (target.startsWith('c') && native.length === 0) {
    throw new LutraError('environment', `the artifact has no code for ${target} that runs here`, {
      hint: 'Compile it on this kind of machine with a C compiler installed, or use --target wasm.',
    });
  }
  if (target.startsWith('wasm:') && wasm.length === 0) {
    throw new LutraError('environment', `this JavaScript engine cannot run ${target}`, {
      hint: `It runs ${host.wasm.map((m) => m.name).join(', ') || 'no SIMD at all'}.`,
    });
  }
  const scalar = native.filter(
    ({ machine }) => target === 'auto' && wasm.length > 0 && machine === 'c:scalar',
  );
  const chain = [...native.filter((c) => !scalar.includes(c)), ...wasm, ...scalar];
  if (chain.length === 0) {
    throw new LutraError('environment', 'nothing of this artifact runs on this machine', {
      hint: 'Compile the model here, or with --target auto.',
    });
  }
  return chain;
}

/** Threads by default: physical cores times 0.8, rounded, at least one. */
export function defaultThreads(cpu: CpuInfo): number {
  return Math.max(1, Math.round(cpu.physicalCores * 0.8));
}
