import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { expectKernels } from '../artifact/self-test.ts';
import { type Alternative, alternatives } from '../kernels/alternatives.ts';
import { kernelFor } from '../kernels/registry.ts';
import { hasCompiler } from '../targets/c/compile.ts';
import { C_MACHINES, runnableMachines } from '../targets/c/machines.ts';
import { detectCpu } from '../targets/cpu.ts';
import { WASM_MACHINES } from '../targets/wasm/machines.ts';
import type { MeasureJob } from './job.ts';
import { machineNamed } from './kernels.ts';
import { measure, ratioOf } from './measure.ts';
import { runJob } from './run-job.ts';

const kernel = {
  op: 'lowbit.matmul',
  family: 'mad',
  shape: { m: 192, k: 128, residual: false, batch: 'one', encoding: 'i2' },
};
const tests = expectKernels({ kernels: [{ name: 'k', ...kernel }] }, [C_MACHINES.at(-1)!], 9);

function job(machine: string): MeasureJob {
  const [first, second = first] = kernelFor(kernel.op).schedules(kernel.shape, machineNamed(machine));
  const { seed, digest } = tests.k!;
  return {
    machine,
    candidate: { ...kernel, schedule: { ...second! } },
    against: { ...kernel, schedule: { ...first! } },
    test: { seed, digest },
    tokens: [1],
    position: 0,
    threads: 1,
    turns: 2,
    turnSeconds: 0.001,
  };
}

describe('measuring', async () => {
  const machines = [
    ...((await hasCompiler()) ? [runnableMachines(await detectCpu())[0]!] : []),
    WASM_MACHINES.at(-1)!,
  ].map(({ name }) => name);

  it.each(machines)('times two schedules on %s, after a test', async (machine) => {
    const result = await measure(job(machine));
    expect(result).toMatchObject({ outcome: 'ok' });
    if (result.outcome !== 'ok') return;
    expect(result.seconds).toBeGreaterThan(0);
    expect(result.ratio).toBeGreaterThan(0);
  });

  it('times several numbers of tokens, each schedule by all of them', async () => {
    const shape = { ...kernel.shape, batch: 'many' };
    const { many } = expectKernels(
      { kernels: [{ name: 'many', ...kernel, shape }] },
      [C_MACHINES.at(-1)!],
      9,
    );
    const machine = machines[0]!;
    const [first, second] = kernelFor(kernel.op).schedules(shape, machineNamed(machine));
    const use = (schedule: typeof first) => ({ ...kernel, shape, schedule: { ...schedule! } });
    const result = await measure({
      ...{ ...job(machine), candidate: use(second), against: use(first), test: many!, tokens: [16, 2] },
    });
    expect(result).toMatchObject({ outcome: 'ok', ratios: [expect.any(Number), expect.any(Number)] });
    expect(ratioOf([0.8, 0.9])).toBeCloseTo(Math.sqrt(0.72));
    expect(ratioOf([0.5, 1.1])).toBe(1.1);
  });

  it.runIf(machines.length > 1)(
    'times native code on several threads, work split in several ways',
    async () => {
      const right = job(machines[0]!);
      const candidate = { ...right.candidate, schedule: { ...right.candidate.schedule, grain: 4 } };
      const result = await measure({ ...right, candidate, threads: 2 });
      expect(result).toMatchObject({ outcome: 'ok' });
      const wasm = job(WASM_MACHINES.at(-1)!.name);
      expect(await measure({ ...wasm, threads: 2 })).toMatchObject({
        outcome: 'failed',
        reason: expect.stringContaining('not tuned on several threads'),
      });
    },
  );

  it.each(machines)('times another family with what it needs first, on %s', async (machine) => {
    const shape = {
      ...{ m: 64, k: 128, bits: 1, group: 64, activationGroup: 64, zero: 1, zeros: 'none', scales: 'f16' },
      ...{ to: 'int8', residual: false, batch: 'one', encoding: 'code-tiles' },
    };
    const [mad, lut] = alternatives({ op: 'lowbit.matmul.group', family: 'mad', shape });
    expect(lut).toMatchObject({ family: 'lut', before: { op: 'lut.tables' } });
    const scheduled = ({ op, family, shape }: Pick<Alternative, 'op' | 'family' | 'shape'>) => ({
      ...{ op, family, shape: { ...shape } },
      schedule: { ...kernelFor(op, family).defaultSchedule(shape, machineNamed(machine)) },
    });
    const { lut: test } = expectKernels({ kernels: [{ name: 'lut', ...lut! }] }, [C_MACHINES.at(-1)!], 9);
    const candidate = { ...scheduled(lut!), before: scheduled(lut!.before!) };
    const result = await measure({ ...job(machine), candidate, against: scheduled(mad!), test: test! });
    expect(result).toMatchObject({ outcome: 'ok' });
    expect(
      await measure({ ...job(machine), candidate: scheduled(mad!), against: candidate, test: test! }),
    ).toMatchObject({
      outcome: 'wrong',
    });
  });

  it('does not time what computes something else', async () => {
    const wrong = { ...job(machines[0]!), test: { ...tests.k!, digest: '0123456789abcdef' } };
    expect(await measure(wrong)).toMatchObject({ outcome: 'wrong' });
  });

  it('says why something cannot be measured', async () => {
    const right = job(machines[0]!);
    const candidate = { ...right.candidate, shape: { ...kernel.shape, encoding: 'zip' } };
    expect(await measure({ ...right, candidate })).toMatchObject({
      outcome: 'failed',
      reason: expect.stringContaining('zip'),
    });
    expect(await measure({ ...job(machines[0]!), machine: 'c:odd' })).toMatchObject({ outcome: 'failed' });
  });
});

describe('a measuring process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lutra-job-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const scripted = (name: string, code: string) => {
    const worker = join(folder, `${name}.mjs`);
    writeFileSync(worker, code);
    return { worker, timeoutSeconds: 5 };
  };
  const request = job(C_MACHINES.at(-1)!.name);

  it('gives its result', async () => {
    const good = { outcome: 'ok', seconds: 1, againstSeconds: 2, ratio: 0.5, ratios: [0.5] };
    const options = scripted(
      'good',
      `process.once('message', (m) => process.send({ ...${JSON.stringify(good)}, seconds: m.turns }, () => process.exit(0)));`,
    );
    expect(await runJob(request, options)).toEqual({ ...good, seconds: 2 });
  });

  it('may crash', async () => {
    const options = scripted('crash', `process.once('message', () => process.kill(process.pid, 'SIGSEGV'));`);
    expect(await runJob(request, options)).toMatchObject({
      outcome: 'crashed',
      reason: expect.stringContaining('SIGSEGV'),
    });
    const throws = scripted('throw', `process.once('message', () => { throw new Error('odd kernel'); });`);
    expect(await runJob(request, throws)).toMatchObject({ outcome: 'crashed' });
  });

  it('may hang', async () => {
    const options = scripted('hang', `process.once('message', () => { for (;;); });`);
    expect(await runJob(request, { ...options, timeoutSeconds: 0.5 })).toMatchObject({ outcome: 'timeout' });
  });

  it('may talk nonsense', async () => {
    const options = scripted(
      'nonsense',
      `process.once('message', () => process.send({ outcome: 'ok' }, () => process.exit(0)));`,
    );
    expect(await runJob(request, options)).toMatchObject({ outcome: 'failed' });
  });

  it('that is interrupted with everything else is no schedule that crashed', async () => {
    const options = scripted(
      'interrupted',
      `process.once('message', () => process.kill(process.pid, 'SIGINT'));`,
    );
    await expect(runJob(request, options)).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('ends when it is cancelled', async () => {
    const stop = new AbortController();
    const running = runJob(request, {
      ...scripted('wait', `process.once('message', () => { for (;;); });`),
      signal: stop.signal,
    });
    setTimeout(() => stop.abort(), 100);
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    await expect(runJob(request, { ...scripted('x', ''), signal: stop.signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
  });
});
