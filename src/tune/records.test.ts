import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type Adoption,
  adoptedChoices,
  openRecords,
  parseRecords,
  readRecords,
  type Trial,
} from './records.ts';

const subject = { op: 'lowbit.matmul', family: 'mad', shape: { m: 64, k: 128 }, machine: 'c:avx2' };
const trial: Trial = {
  kind: 'trial',
  ...subject,
  host: 'a CPU; gcc 12',
  schedule: { rows: 8, multiply: 'dot2' },
  outcome: 'ok',
  seconds: 1e-4,
  defaultSeconds: 2e-4,
  ratio: 0.5,
};
const adoption = (host: string, rows: number, adopted: boolean): Adoption => ({
  kind: 'adoption',
  host,
  model: 'm',
  machine: 'c:avx2',
  choices: [{ ...subject, schedule: { rows } }],
  decode: { default: 10, tuned: 11 },
  prefill: { default: 100, tuned: 100 },
  adopted,
});

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-records-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe('tuning records', () => {
  it('are read back as they were appended, over several openings', async () => {
    const path = join(folder, 'deep', 'records.jsonl');
    await (await openRecords(path)).append(trial);
    const again = await openRecords(path);
    expect(again.records).toEqual([trial]);
    await again.append(adoption('h', 4, true));
    expect(await readRecords(path)).toEqual([trial, adoption('h', 4, true)]);
    expect((await readFile(path, 'utf8')).split('\n').length).toBe(3);
  });

  it('lose only a last line that was cut short', async () => {
    const path = join(folder, 'records.jsonl');
    await (await openRecords(path)).append(trial);
    await appendFile(path, JSON.stringify(trial).slice(0, 40));
    expect(await readRecords(path)).toEqual([trial]);
    const file = await openRecords(path);
    await file.append(adoption('h', 4, false));
    expect(await readRecords(path)).toEqual([trial, adoption('h', 4, false)]);
  });

  it('name the line that is wrong', async () => {
    expect(() => parseRecords('{"kind":"trial"\n{}\n', 'x')).toThrow('x:1 is not JSON');
    expect(() => parseRecords(`${JSON.stringify(trial)}\n{"kind":"other"}\n`, 'x')).toThrow(
      'x:2 is no tuning record',
    );
    expect(() => parseRecords(`${JSON.stringify({ ...trial, seconds: -1 })}\n`, 'x')).toThrow('seconds');
    await expect(readRecords(join(folder, 'none'))).rejects.toMatchObject({ code: 'not-found' });
    await writeFile(join(folder, 'bad'), 'not json\nat all\n');
    await expect(openRecords(join(folder, 'bad'))).rejects.toMatchObject({ code: 'invalid' });
  });

  it('survive any damage with an error at most', () => {
    const text = `${JSON.stringify(trial)}\n${JSON.stringify(adoption('h', 2, true))}\n`;
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.string({ maxLength: 5 }), (at, change) => {
        const damaged = text.slice(0, at) + change + text.slice(at + change.length);
        try {
          parseRecords(damaged, 'x');
        } catch (error) {
          expect(error).toMatchObject({ code: 'invalid' });
        }
      }),
      { seed: 6, numRuns: 300 },
    );
  });

  it('give what was adopted last on this host and machine', () => {
    const records = [
      adoption('h', 4, true),
      adoption('other', 6, true),
      adoption('h', 8, true),
      adoption('h', 16, false),
    ];
    const choices = adoptedChoices(records, ['c:avx2'], { host: 'h' });
    expect(choices).toEqual([{ ...subject, schedule: { rows: 8 } }]);
    expect(adoptedChoices(records, ['c:scalar'], { host: 'h' })).toEqual([]);
    expect(adoptedChoices(records.slice(0, 2), ['c:avx2'])[0]!.schedule).toEqual({ rows: 6 });
  });

  it('give a model what was adopted for itself, all of it and nothing else', () => {
    const other = { ...subject, shape: { m: 128, k: 128 } };
    const choice = (of: typeof subject, rows: number) => ({ ...of, schedule: { rows } });
    const records: Adoption[] = [
      { ...adoption('h', 2, true), choices: [choice(subject, 2), choice(other, 2)] },
      { ...adoption('h', 4, true), choices: [choice(subject, 4)] },
      { ...adoption('h', 8, true), model: 'n', choices: [choice(other, 8), choice(subject, 8)] },
    ];
    const choose = (model: string) => adoptedChoices(records, ['c:avx2'], { host: 'h', model });
    expect(choose('m')).toEqual([choice(subject, 4)]);
    expect(choose('n')).toEqual([choice(other, 8), choice(subject, 8)]);
    expect(adoptedChoices(records.slice(0, 2), ['c:avx2'], { model: 'x' })).toEqual([
      choice(other, 2),
      choice(subject, 4),
    ]);
  });

  it('give a model the defaults that its own check found as fast as what others adopted', () => {
    const adopted = adoption('h', 4, true);
    const refused = (kept: 'earlier' | 'defaults'): Adoption => ({
      ...adoption('h', 8, false),
      model: 'n',
      kept,
    });
    const rows = (records: readonly Adoption[], host = 'h') =>
      adoptedChoices(records, ['c:avx2'], { host, model: 'n' }).map(({ schedule }) => schedule.rows);
    expect(rows([adopted])).toEqual([4]);
    expect(rows([adopted, refused('earlier')])).toEqual([4]);
    expect(rows([adopted, refused('defaults')])).toEqual([]);
    // What is adopted for others later has not proved itself either; what is adopted for itself has.
    expect(rows([refused('defaults'), adopted])).toEqual([]);
    expect(rows([refused('defaults'), { ...adoption('h', 2, true), model: 'n' }])).toEqual([2]);
    expect(rows([{ ...refused('defaults'), host: 'other' }, adopted])).toEqual([4]);
  });
});
