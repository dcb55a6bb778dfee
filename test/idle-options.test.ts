/** Options that change nothing for the model at hand: refused, or told once the model is known. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileStandalone } from '../src/api/standalone.ts';
import { openCheckpoint } from '../src/checkpoint/open.ts';
import { type CompileOptions, compile, load } from '../src/index.ts';
import { type BuiltCli, buildCli } from './support/built-cli.ts';

const EMBEDDED = 'models/tiny-bitnet';

let cli: BuiltCli;
let compiled: string;
beforeAll(async () => {
  cli = buildCli();
  compiled = join(cli.scratch, 'compiled');
  await compile(EMBEDDED, { output: compiled, target: 'wasm', context: 64 });
});
afterAll(() => cli.remove());

/** What a compile of the embedded model, all of whose weights are ternary, warns of. */
async function warningsOf(options: CompileOptions): Promise<readonly string[]> {
  const warnings: string[] = [];
  const output = join(cli.scratch, 'again');
  const onWarning = (message: string) => warnings.push(message);
  await compile(EMBEDDED, { output, target: 'wasm', context: 64, ...options, onWarning });
  return warnings;
}

describe('options that change nothing', () => {
  it('are told where that depends on the model', async () => {
    expect(await warningsOf({ activations: 'int8', family: 'lut-int8' })).toEqual([
      '--activations changed nothing: this model has no weights in groups',
      '--family lut-int8 changed nothing: this model has no weights that can be computed so',
    ]);
    const records = join(cli.scratch, 'none.jsonl');
    writeFileSync(records, '');
    const [none] = await warningsOf({ encoding: 'i2', records });
    expect(none).toContain('none.jsonl has nothing that was adopted for wasm:');
  });

  it('are refused where they are about rounding, and nothing is rounded', async () => {
    const usage = (message: string) => ({ code: 'usage', message: expect.stringContaining(message) });
    await expect(compile(EMBEDDED, { group: 64 })).rejects.toMatchObject(usage('group says how'));
    await expect(compile(EMBEDDED, { symmetric: false })).rejects.toMatchObject(usage('symmetric says'));
  });

  it('are refused where they contradict each other', async () => {
    await expect(compile(EMBEDDED, { family: 'lut', encoding: 'i2' })).rejects.toMatchObject({
      code: 'usage',
      message: 'the family lut looks up bit planes of weights, not i2',
    });
  });

  it('are refused for what is compiled already', async () => {
    const fixed = (name: string) => ({
      code: 'usage',
      message: expect.stringContaining(`is compiled: its ${name} is fixed`),
    });
    await expect(load(compiled, { cache: 'f16' })).rejects.toMatchObject(fixed('cache'));
    const output = join(cli.scratch, 'project');
    await expect(compileStandalone(compiled, { output, head: 'int8' })).rejects.toMatchObject(fixed('head'));
    const profiled = await cli.run(['bench', compiled, '--profile', '--context', '32']);
    expect([profiled.code, profiled.error]).toEqual([2, expect.stringContaining('its context is fixed')]);
    const inspected = await cli.run(['inspect', compiled, '--context', '32']);
    expect([inspected.code, inspected.error]).toEqual([2, expect.stringContaining('its context is fixed')]);
  });

  it('are refused where an order of blocks is given that no file has', async () => {
    const message = expect.stringContaining('has no weights in I2_S');
    await expect(openCheckpoint(EMBEDDED, { i2sOrder: 'arm' })).rejects.toMatchObject({
      code: 'usage',
      message,
    });
  });
});
