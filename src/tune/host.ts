import { join } from 'node:path';
import { cacheFolder } from '../artifact/cache.ts';
import { VERSION } from '../common/version.ts';
import { findCompiler } from '../targets/c/compile.ts';
import type { CpuInfo } from '../targets/cpu.ts';

/** Where lutra keeps what tuning found on this computer. */
export function recordsPath(): string {
  return join(cacheFolder(), 'tune', 'records.jsonl');
}

/** What times of a machine's code depend on: processor, compiler or engine, lutra. Throws `environment` without a compiler. */
export async function tuneHost(cpu: CpuInfo, machine: string): Promise<string> {
  const code = machine.startsWith('c:')
    ? (await findCompiler()).version
    : `Node ${process.version} V8 ${process.versions.v8}`;
  return `${cpu.model}, ${cpu.physicalCores} cores; ${code}; lutra ${VERSION}`;
}
