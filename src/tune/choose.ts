import { stat } from 'node:fs/promises';
import type { TunedSchedule } from '../plan/types.ts';
import { hasCompiler } from '../targets/c/compile.ts';
import type { CpuInfo } from '../targets/cpu.ts';
import { recordsPath, tuneHost } from './host.ts';
import { adoptedChoices, readRecords } from './records.ts';

/**
 * The schedules that tuning adopted for these machines: those in a file of records, wherever they were measured,
 * or by default those that were measured on this computer, with this compiler and this lutra. `model` is the name of
 * what they are for: see `adoptedChoices`.
 */
export async function chooseTuned(
  machines: readonly string[],
  cpu: CpuInfo,
  model: string,
  records?: string,
): Promise<readonly TunedSchedule[]> {
  if (records !== undefined) return adoptedChoices(await readRecords(records), machines, { model });
  const path = recordsPath();
  if ((await stat(path).catch(() => undefined)) === undefined) return [];
  const known = await readRecords(path);
  const compiles = await hasCompiler();
  const choices: TunedSchedule[] = [];
  for (const code of ['c:', 'wasm:']) {
    const own = machines.filter((machine) => machine.startsWith(code));
    const [first] = own;
    if (first === undefined || (code === 'c:' && !compiles)) continue;
    choices.push(...adoptedChoices(known, own, { host: await tuneHost(cpu, first), model }));
  }
  return choices;
}
