/** Tuning from the command line, on the embedded model: trials, records, going on, the drawing, what compile takes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { planCheckpoint } from '../src/artifact/build.ts';
import { openArtifact } from '../src/artifact/open.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { kernelFor } from '../src/kernels/registry.ts';
import { machineNamed } from '../src/tune/kernels.ts';
import { readRecords, type Trial } from '../src/tune/records.ts';
import { type BuiltCli, buildCli } from './support/built-cli.ts';

const EMBEDDED = fileURLToPath(new URL('../models/tiny-bitnet', import.meta.url));

const MACHINE = 'wasm:baseline';
let cli: BuiltCli;
let records: string;
beforeAll(() => {
  cli = buildCli();
  records = join(cli.scratch, 'records.jsonl');
});
afterAll(() => cli.remove());

const tune = (...more: string[]) =>
  cli.run([
    ...['tune', 'embedded', '--target', MACHINE, '--ops', 'lowbit.matmul', '--records', records, '--json'],
    ...more,
  ]);
const trials = async () => (await readRecords(records)).filter((r): r is Trial => r.kind === 'trial');

describe('lutra tune', () => {
  it('measures schedules within its limits, and records all of them', async () => {
    const { code, out, error } = await tune('--trials', '1', '--seconds', '600', '--timeout', '120');
    expect({ code, error }).toEqual({ code: 0, error: '' });
    const result = JSON.parse(out);
    expect(result).toMatchObject({ machine: MACHINE, records });
    expect(result.kernels).toBeGreaterThan(1);
    const found = await trials();
    expect(found.length).toBeGreaterThanOrEqual(result.kernels);
    for (const { op, machine, outcome, ratio } of found) {
      expect({ op, machine, outcome }).toEqual({ op: 'lowbit.matmul', machine: MACHINE, outcome: 'ok' });
      expect(ratio).toBeGreaterThan(0);
    }
    // What is faster alone is tried in the whole model before it is adopted.
    expect(result.check === undefined).toBe(result.choices.length === 0);
  });

  it('goes on from the records: what was tried is not tried again', async () => {
    const before = await trials();
    const { code } = await tune('--trials', '2', '--seconds', '600', '--timeout', '120');
    expect(code).toBe(0);
    const after = await trials();
    const fresh = after.slice(before.length);
    expect(fresh.length).toBeGreaterThan(0);
    const name = ({ shape, schedule }: Trial) => JSON.stringify([shape, schedule]);
    // Finalists alone are measured once more: faster than the default, or of another variant and close to the best.
    const again = fresh.filter((trial) => before.some((old) => name(old) === name(trial)));
    for (const trial of again) {
      const earlier = [...before, ...fresh].filter((other) => name(other) === name(trial));
      expect(Math.min(...earlier.map(({ ratio }) => ratio!))).toBeLessThan(1.05);
    }
  });

  it('draws the search', async () => {
    const svg = join(cli.scratch, 'search.svg');
    const { code } = await cli.run(['tune', '--records', records, '--report', svg]);
    expect(code).toBe(0);
    expect(readFileSync(svg, 'utf8')).toContain(`Tuning on ${MACHINE}`);
    const none = await cli.run(['tune', '--records', records, '--report', svg, '--target', 'c:avx2']);
    expect(none.code).toBe(2);
    expect(none.error).toContain('there are no trials on c:avx2');
  });

  it('refuses what is not there', async () => {
    expect((await tune('--ops', 'nonsense')).error).toContain('no operator is called nonsense');
    const missing = await cli.run(['compile', '-o', join(cli.scratch, 'x'), '--records', 'nowhere.jsonl']);
    expect(missing.error).toContain('cannot read nowhere.jsonl');
    writeFileSync(join(cli.scratch, 'bad.jsonl'), '{}\n');
    const bad = await cli.run([
      'compile',
      '-o',
      join(cli.scratch, 'x'),
      '--records',
      join(cli.scratch, 'bad.jsonl'),
    ]);
    expect(bad.error).toContain('bad.jsonl:1 is no tuning record');
  });

  it('makes compile take what was adopted, with the same results', async () => {
    const checkpoint = await openCheckpoint(EMBEDDED);
    const { plan } = planCheckpoint(checkpoint, { cacheElem: 'f32', head: 'stored' });
    await checkpoint.close();
    const choicesOf = (encoding: string, wanted: (m: number) => boolean, family = 'mad') =>
      plan.kernels
        .filter(({ op, shape }) => op === 'lowbit.matmul' && wanted(Number(shape.m)))
        .map(({ op, shape: own }) => {
          const shape = { ...own, encoding };
          const schedule = kernelFor(op, family).schedules(shape, machineNamed(MACHINE)).at(-1)!;
          return { op, family, shape, machine: MACHINE, schedule };
        });
    const speeds = { default: 1, tuned: 2 };
    const adopt = (name: string, choices: readonly unknown[]) => {
      const adoption = {
        ...{ kind: 'adoption', host: 'another', model: 'm', machine: MACHINE, choices },
        ...{ decode: speeds, prefill: speeds, adopted: true },
      };
      const file = join(cli.scratch, name);
      writeFileSync(file, `${JSON.stringify(adoption)}\n`);
      return file;
    };
    const schedules = adopt(
      'schedules.jsonl',
      choicesOf('i2', () => true),
    );
    const encodings = adopt(
      'encodings.jsonl',
      choicesOf('t5b', (m) => m === 512),
    );
    const lookups = adopt(
      'lookups.jsonl',
      choicesOf('bit-planes', (m) => m === 512, 'lut'),
    );
    const others = ['t5b', 'bit-planes'];
    const digests: string[] = [];
    const codes: Buffer[] = [];
    const reencoded: number[] = [];
    for (const more of [
      [],
      ['--records', schedules],
      ['--records', encodings],
      ['--records', encodings, '--encoding', 'i2'],
      ['--records', lookups],
      ['--records', lookups, '--family', 'mad'],
    ]) {
      const output = join(cli.scratch, `artifact-${digests.length}`);
      const { code } = await cli.run(['compile', '-o', output, '--target', MACHINE, ...more]);
      expect(code).toBe(0);
      const artifact = await openArtifact(output);
      digests.push(artifact.selfTest.steps.digest);
      reencoded.push(artifact.plan.weights.filter(({ encoding }) => others.includes(encoding)).length);
      codes.push(readFileSync(join(output, 'code', 'wasm-baseline.wasm')));
    }
    expect(new Set(digests).size).toBe(1);
    expect(codes[1]!.equals(codes[0]!)).toBe(false);
    // One product of each layer, unless the user says otherwise.
    const layers = plan.weights.filter(({ encoding }) => encoding === 'i2').length / 4;
    expect(reencoded).toEqual([0, 0, layers, 0, layers, 0]);
  });
});
