/** `lutra bench --profile` on the embedded model: the trace and the table cover the whole of real steps. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openArtifact } from '../src/artifact/open.ts';
import { renderProfile } from '../src/cli/bench/render-profile.ts';
import { runProfile } from '../src/cli/bench/run-profile.ts';
import { compile } from '../src/index.ts';
import { stepTraffic } from '../src/plan/traffic.ts';
import { hasCompiler } from '../src/targets/c/compile.ts';

interface Event {
  readonly name: string;
  readonly ph: string;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
}

const PROMPT = 20;
const NEW = 3;
const targets = (await hasCompiler()) ? ['c', 'wasm'] : ['wasm'];

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-profile-'));
  await compile('models/tiny-bitnet', { output: join(folder, 'model'), context: 64 });
});

afterAll(() => rm(folder, { recursive: true }));

describe.each(targets)('a profile on %s', (target) => {
  it.each([
    [1, 1],
    [2, 1],
    [2, 3],
  ])('covers every kernel call of every step on %i threads, of %i sequences', async (threads, batch) => {
    const source = join(folder, 'model');
    const trace = join(folder, `${target}-${threads}-${batch}.json`);
    const report = await runProfile({
      source,
      target,
      threads,
      batch,
      promptTokens: PROMPT,
      newTokens: NEW,
      trace,
    });
    expect(report.target.startsWith(target)).toBe(true);

    const { plan } = await openArtifact(source);
    const sizes = [PROMPT, ...Array<number>(NEW).fill(1)];
    const expected = sizes.flatMap((tokens, step) =>
      stepTraffic(
        plan,
        Array(batch).fill({ tokens, position: step === 0 ? 0 : PROMPT + step - 1, logits: 'last' } as const),
      )
        // Between two barriers, attention is of one token or of several: the other has nothing to do.
        .flatMap(([first]) => first?.kernel ?? []),
    );
    const { traceEvents } = JSON.parse(await readFile(trace, 'utf8')) as { traceEvents: Event[] };
    const slices = traceEvents.filter(({ ph }) => ph === 'X');
    for (const event of slices) expect(event.dur).toBeGreaterThanOrEqual(0);
    const steps = slices.filter(({ tid }) => tid === 0);
    expect(steps.map(({ name }) => name)).toEqual(['prefill', 'decode', 'decode', 'decode']);
    for (let thread = 0; thread < threads; thread++) {
      const own = slices.filter(({ tid }) => tid === thread + 1);
      expect(own.map(({ name }) => name)).toEqual(expected);
      // In order, none over the next, and each within a step: clocks agree to some microseconds.
      for (const [i, { ts, dur }] of own.entries()) {
        const next = own[i + 1];
        if (next !== undefined) expect(ts + dur).toBeLessThanOrEqual(next.ts + 0.01);
        const around = steps.some((step) => step.ts - 10 <= ts && ts + dur <= step.ts + step.dur + 10);
        expect(around).toBe(true);
      }
    }

    expect(report.phases.map(({ phase, tokens }) => [phase, tokens])).toEqual([
      ['prefill', batch * PROMPT],
      ['decode', batch * NEW],
    ]);
    for (const { kernels, milliseconds } of report.phases) {
      const sum = kernels.reduce((all, kernel) => all + kernel.milliseconds, 0);
      expect(sum).toBeGreaterThan(0);
      expect(sum).toBeLessThanOrEqual(milliseconds + 0.02);
    }
    const calls = report.phases.flatMap(({ kernels }) => kernels).reduce((all, { calls }) => all + calls, 0);
    // Sequences have calls of their own between the same barriers.
    if (batch === 1) expect(calls).toBe(expected.length);
    else expect(calls).toBeGreaterThan(expected.length);
    const text = renderProfile(report);
    for (const name of new Set(expected)) expect(text).toContain(name);
  });
});

it('refuses more tokens than the context holds', async () => {
  const request = {
    source: join(folder, 'model'),
    batch: 1,
    promptTokens: 60,
    newTokens: 5,
    trace: 'unused',
  };
  await expect(runProfile(request)).rejects.toMatchObject({ code: 'usage' });
});
