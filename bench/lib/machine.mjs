/** What a figure depends on: the machine, the tools and the code. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { release, totalmem } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nodePlatform } from '../../dist/platform/node.js';
import { findCompiler } from '../../dist/targets/c/compile.js';
import { runnableMachines } from '../../dist/targets/c/machines.js';
import { detectCpu } from '../../dist/targets/cpu.js';
import { detectWasmMachines } from '../../dist/targets/wasm/machines.js';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const INTERESTING = /^(sse4_2|avx|avx2|fma|f16c|avx512\w*|avx_vnni|gfni|amx\w*|asimd\w*|sve\w*|i8mm)$/;

function attempt(make) {
  try {
    return make();
  } catch {
    return undefined;
  }
}

function git(...args) {
  return attempt(() =>
    execFileSync('git', ['-C', ROOT, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim(),
  );
}

/** Names everything that is run, so that nothing compiled by other code is measured. */
export function codeFingerprint() {
  const hash = createHash('sha256');
  const visit = (folder) => {
    for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) visit(path);
      else if (entry.name.endsWith('.js')) hash.update(entry.name).update(readFileSync(path));
    }
  };
  visit(join(ROOT, 'dist'));
  return hash.digest('hex').slice(0, 12);
}

export async function describeMachine() {
  const cpu = await detectCpu();
  const compiler = await findCompiler().catch(() => undefined);
  const status = git('status', '--porcelain', '--', 'src');
  return {
    cpu: cpu.model,
    physicalCores: cpu.physicalCores,
    logicalCores: cpu.logicalCores,
    features: [...cpu.features].filter((name) => INTERESTING.test(name)).sort(),
    caches: cpu.caches,
    memoryBytes: totalmem(),
    virtual: cpu.features.has('hypervisor'),
    system: `${process.platform}-${process.arch} ${release().split('-')[0]}`,
    node: process.versions.node,
    compiler: compiler === undefined ? null : (compiler.version ?? compiler.command),
    native: runnableMachines(cpu).map(({ name }) => name),
    wasm: detectWasmMachines(nodePlatform).map(({ name }) => name),
    code: {
      commit: git('rev-parse', '--short=12', 'HEAD') ?? null,
      date: git('show', '-s', '--format=%cI', 'HEAD') ?? null,
      /** Sources that differ from the commit. */
      changed: status === undefined ? null : status.split('\n').filter(Boolean).length,
      fingerprint: codeFingerprint(),
    },
  };
}

/** Processor time so far, in ticks, all cores: what the hypervisor took away and the total. */
export function processorTime() {
  const text = attempt(() => readFileSync('/proc/stat', 'utf8'));
  const fields = text?.split('\n')[0]?.trim().split(/\s+/).slice(1).map(Number);
  if (fields === undefined) return undefined;
  // user nice system idle iowait irq softirq steal; guest times are within user and nice.
  const eight = fields.slice(0, 8);
  return { stolen: eight[7] ?? 0, total: eight.reduce((a, b) => a + b, 0) };
}

/** The share of processor time that was stolen between two looks. */
export function stolenShare(before, after) {
  if (before === undefined || after === undefined || after.total === before.total) return null;
  return (after.stolen - before.stolen) / (after.total - before.total);
}

/**
 * How this run was started, for a reader elsewhere: of paths only the last part.
 * @param {string} script
 */
export function commandText(script) {
  const args = process.argv.slice(2).map((arg) => (arg.startsWith('/') ? basename(arg) : arg));
  return ['npm run', script, ...(args.length > 0 ? ['--', ...args] : [])].join(' ');
}
