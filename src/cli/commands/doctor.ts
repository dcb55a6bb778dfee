import { freemem, totalmem } from 'node:os';
import type { Command } from 'commander';
import { cacheFolder } from '../../artifact/cache.ts';
import { VERSION } from '../../common/version.ts';
import { detectHost } from '../../runtime/load.ts';
import { defaultThreads, type Host } from '../../runtime/targets.ts';
import { type Compiler, findCompilers } from '../../targets/c/compile.ts';
import { C_MACHINES, machinesFor, runnableMachines } from '../../targets/c/machines.ts';
import { WASM_MACHINES } from '../../targets/wasm/machines.ts';
import type { Deps } from '../deps.ts';
import { byteSize, table } from '../render.ts';

/** One variant of code, and why this machine cannot run it, if so. */
interface VariantReport {
  readonly name: string;
  readonly available: boolean;
  readonly reason?: string;
}

/** What `--json` prints. */
interface DoctorReport {
  readonly version: string;
  readonly node: string;
  readonly platform: string;
  readonly cpu: {
    readonly model: string;
    readonly physicalCores: number;
    readonly logicalCores: number;
    readonly features: readonly string[];
    /** Bytes of the first core's; 0 where unknown. */
    readonly caches: Host['cpu']['caches'];
  };
  readonly memory: { readonly totalBytes: number; readonly freeBytes: number };
  readonly compilers: readonly { readonly command: string; readonly version: string }[];
  readonly variants: readonly VariantReport[];
  readonly threads: number;
  readonly target: { readonly name: string; readonly reason: string };
  readonly cache: string;
}

/** `lutra doctor`: what this machine has, and what lutra makes of it. */
export function addDoctorCommand(program: Command, deps: Deps): void {
  program
    .command('doctor')
    .description('say what this machine has, and which target will be used and why')
    .option('--json', 'print one JSON object')
    .action(async ({ json }: { readonly json?: true }) => {
      const report = examine(await detectHost(), await findCompilers());
      deps.io.out(json ? `${JSON.stringify(report)}\n` : render(report));
    });
}

/** The report for a machine; `compilers` in order of preference. */
export function examine(host: Host, compilers: readonly Compiler[]): DoctorReport {
  const { arch: _, features, ...cpu } = host.cpu;
  const native = nativeVariants(host, compilers);
  const isScalar = ({ name }: VariantReport) => name === 'c:scalar';
  // As `auto` takes them: WebAssembly has vectors, scalar code has not.
  const variants = [...native.filter((v) => !isScalar(v)), ...wasmVariants(host), ...native.filter(isScalar)];
  return {
    version: VERSION,
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    cpu: { ...cpu, features: [...features] },
    memory: { totalBytes: totalmem(), freeBytes: freemem() },
    compilers: compilers.map(({ command, version }) => ({ command: command.join(' '), version })),
    variants,
    threads: defaultThreads(host.cpu),
    target: chooseTarget(variants, compilers),
    cache: cacheFolder(),
  };
}

function nativeVariants({ cpu }: Host, compilers: readonly Compiler[]): readonly VariantReport[] {
  const runnable = runnableMachines(cpu);
  return machinesFor(cpu.arch).map((machine) => {
    const { name } = machine;
    if (compilers.length === 0) return { name, available: false, reason: 'there is no C compiler' };
    if (runnable.includes(machine)) return { name, available: true };
    const missing = machine.requires.filter((feature) => !cpu.features.has(feature));
    return { name, available: false, reason: `this CPU lacks ${missing.join(', ')}` };
  });
}

function wasmVariants({ wasm }: Host): readonly VariantReport[] {
  return WASM_MACHINES.map((machine) =>
    wasm.includes(machine)
      ? { name: machine.name, available: true }
      : { name: machine.name, available: false, reason: 'this JavaScript engine lacks its instructions' },
  ).sort((a, b) => rank(wasm, a.name) - rank(wasm, b.name));
}

/** The engine's order of preference; what it lacks comes last. */
function rank(wasm: Host['wasm'], name: string): number {
  const at = wasm.findIndex((machine) => machine.name === name);
  return at < 0 ? wasm.length : at;
}

function chooseTarget(
  variants: readonly VariantReport[],
  compilers: readonly Compiler[],
): DoctorReport['target'] {
  const chosen = variants.find(({ available }) => available);
  if (chosen === undefined) {
    return { name: 'none', reason: 'there is no C compiler, and the JavaScript engine has no SIMD' };
  }
  const [compiler] = compilers;
  if (compiler === undefined) {
    return {
      name: chosen.name,
      reason: 'WebAssembly, as there is no C compiler: install clang or gcc for speed',
    };
  }
  return { name: chosen.name, reason: `native code by ${compiler.version}, the best this CPU runs` };
}

function render(report: DoctorReport): string {
  const { cpu, memory, compilers, variants, threads, target } = report;
  const caches = Object.entries(cpu.caches).map(
    ([name, bytes]) => `${name} ${bytes ? byteSize(bytes) : '?'}`,
  );
  const relevant = cpu.features.filter((name) => USED_FEATURES.has(name));
  const facts = table([
    ['lutra', report.version],
    ['node', `${report.node} on ${report.platform}`],
    ['CPU', cpu.model],
    ['cores', `${cpu.physicalCores} physical, ${cpu.logicalCores} logical`],
    ['caches', caches.join(', ')],
    ['features', relevant.join(' ') || 'none that lutra uses'],
    ['memory', `${byteSize(memory.totalBytes)}, ${byteSize(memory.freeBytes)} free`],
    ['compilers', compilers.map(({ command, version }) => `${command} (${version})`).join('; ') || 'none'],
    ['threads', `${threads} by default`],
    ['cache', report.cache],
    ['target', `${target.name}: ${target.reason}`],
  ]);
  const rows = variants.map(({ name, available, reason }) => [name, available ? 'yes' : `no: ${reason}`]);
  return `${facts}\nvariants, best first\n${table(rows)}`;
}

const USED_FEATURES: ReadonlySet<string> = new Set(C_MACHINES.flatMap(({ requires }) => requires));
