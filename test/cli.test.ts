/** The command line in a process of its own: results, exit codes, messages. */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltCli, buildCli, type Finished } from './support/built-cli.ts';

const EMBEDDED = fileURLToPath(new URL('../models/tiny-bitnet', import.meta.url));
const WASM = ['--target', 'wasm', '-t', '1'];

let cli: BuiltCli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

/** A copy of the embedded checkpoint, changed. */
function checkpoint(name: string, change: (folder: string) => void): string {
  const folder = join(cli.scratch, name);
  rmSync(folder, { recursive: true, force: true });
  cpSync(EMBEDDED, folder, { recursive: true });
  change(folder);
  return folder;
}

function expectFailure({ code, out, error }: Finished, wanted: number, message: string): void {
  expect(error).toContain(message);
  expect(code).toBe(wanted);
  expect(out).toBe('');
  // One line of what was wrong, at most one of what to do; no stack.
  expect(error).toMatch(/^lutra: .+\n( {2}.+\n)?$/);
}

describe('lutra', () => {
  it('answers a prompt', async () => {
    const { code, out, error } = await cli.run(['run', 'embedded', 'What is 4 + 106?', ...WASM]);
    expect({ code, out, error }).toEqual({ code: 0, out: '4 + 106 = 110\n', error: '' });
  });

  it('answers a prompt from standard input with one JSON object', async () => {
    const { code, out } = await cli.run(['run', '--json', ...WASM], { input: 'What is 4 + 106?\n' });
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({
      text: '4 + 106 = 110',
      tokens: [19, 314, 220, 16, 15, 21, 296, 220, 16, 16, 15],
      finishReason: 'stop',
      promptTokens: 20,
      timings: { prefillSeconds: expect.any(Number), decodeSeconds: expect.any(Number) },
    });
  });

  it('holds a conversation with what is piped in', async () => {
    const { code, out } = await cli.run(['chat', '--temperature', '0', ...WASM], {
      input: 'What is 4 + 106?\n/reset\nWhat is the capital of France?\n/exit\nnever\n',
    });
    expect(out).toBe('4 + 106 = 110\n(a new conversation)\nThe capital of France is Paris.\n');
    expect(code).toBe(0);
  });

  it('evaluates answers and perplexity', async () => {
    const tests = join(cli.scratch, 'tests.jsonl');
    const cases = [
      { skill: 'add', prompt: 'What is 4 + 106?', answer: '4 + 106 = 110' },
      { skill: 'wrong', prompt: 'What is 4 + 106?', answer: '4 + 106 = 111' },
    ];
    writeFileSync(tests, cases.map((test) => JSON.stringify(test)).join('\n'));
    const text = join(cli.scratch, 'text.txt');
    writeFileSync(text, 'Long ago, a gentle pig named Pip lived in the garden.\n');
    const { code, out } = await cli.run(['eval', '--tests', tests, '--text', text, '--json', ...WASM]);
    expect(code).toBe(0);
    const report = JSON.parse(out);
    expect(report.target).toMatch(/^wasm:/);
    expect(report.accuracy).toEqual({ overall: 0.5, skills: { add: 1, wrong: 0 } });
    // Of this line alone, most of it the cost of its first words.
    expect(report.perplexity).toBeCloseTo(10.7476, 3);
  });

  it('benchmarks in processes of their own', async () => {
    const args = ['bench', '-p', '8', '-n', '4', '-r', '2', '-t', '1,2', '--target', 'wasm', '--json'];
    const { code, out, error } = await cli.run(args);
    expect(error).toBe('');
    expect(code).toBe(0);
    const rate = { median: expect.any(Number), min: expect.any(Number), max: expect.any(Number) };
    const pair = (threads: number) => [
      { threads, test: 'prefill', tokens: 8, tokensPerSecond: rate },
      { threads, test: 'decode', tokens: 4, tokensPerSecond: rate },
    ];
    expect(JSON.parse(out)).toEqual({
      model: 'tiny-bitnet',
      target: expect.stringMatching(/^wasm:/),
      results: [...pair(1), ...pair(2)],
      peakMemoryBytes: expect.any(Number),
      loadSeconds: expect.any(Number),
      memoryBandwidth: { 1: expect.any(Number), 2: expect.any(Number) },
    });
  });

  it('passes a failure of the measuring process on', async () => {
    const failed = await cli.run(['bench', '-p', '600', '-n', '1', '--target', 'wasm']);
    expectFailure(failed, 2, '601 tokens are asked for; the context holds 512');
  });

  it('compiles a folder that runs, and refuses it once it is damaged', async () => {
    const artifact = join(cli.scratch, 'compiled');
    const { code, out } = await cli.run(['compile', '-o', artifact, '--json', '--target', 'wasm']);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ model: 'tiny-bitnet', output: artifact });
    const answer = await cli.run(['run', artifact, 'What is 4 + 106?', '-t', '1']);
    expect(answer).toMatchObject({ code: 0, out: '4 + 106 = 110\n' });
    const summary = await cli.run(['inspect', artifact]);
    expect(summary.out).toContain('wasm:baseline');
    expectFailure(await cli.run(['inspect', artifact, '--stage', 'graph']), 5, 'has no graph');
    expectFailure(await cli.run(['compile', artifact, '-o', join(cli.scratch, 'x')]), 2, 'already compiled');

    const manifest = join(artifact, 'manifest.json');
    const text = readFileSync(manifest, 'utf8');
    for (const [version, advice] of [
      [99, 'Update lutra'],
      [1, 'Compile the model again.'],
    ] as const) {
      writeFileSync(manifest, text.replace(/"version": \d+/, `"version": ${version}`));
      const refused = await cli.run(['run', artifact, 'hi']);
      expectFailure(refused, 5, `artifact version ${version}`);
      expect(refused.error).toContain(advice);
    }
    writeFileSync(manifest, text);
    truncateSync(join(artifact, 'weights.bin'), 1000);
    expectFailure(await cli.run(['run', artifact, 'hi']), 4, 'weights.bin has 1000 bytes');
  });

  it('synthesizes nothing into a folder with files, nor a shape it does not know', async () => {
    const folder = join(cli.scratch, 'full');
    mkdirSync(folder);
    writeFileSync(join(folder, 'file'), '');
    expectFailure(await cli.run(['synth', 'bitnet-2b-4t', '-o', folder]), 2, 'is not empty');
    expect(readdirSync(folder)).toEqual(['file']);
    expectFailure(await cli.run(['synth', 'gpt-5', '-o', folder]), 2, 'there is no shape named gpt-5');
  });

  it('shows every stage of a model', async () => {
    const stages = [
      [['--stage', 'summary'], /^model +tiny-bitnet\n/],
      [['--stage', 'graph'], /^graph tiny-bitnet \{\n/],
      [['--stage', 'graph', '--imported'], / quantize\(/],
      [['--stage', 'graph', '--format', 'dot'], /^digraph /],
      [['--stage', 'graph', '--format', 'svg'], /^<svg /],
      [['--stage', 'plan'], /kernels\n/],
      [['--stage', 'loops', '--target', 'wasm:baseline'], /^fn /],
      [['--stage', 'code', '--target', 'wasm:baseline'], /^\(module\n/],
      [['--stage', 'code', '--target', 'c:avx512vnni'], /avx512/],
    ] as const;
    const shown = await Promise.all(stages.map(([args]) => cli.run(['inspect', ...args])));
    for (const [i, [, pattern]] of stages.entries()) {
      expect(shown[i]).toMatchObject({ code: 0, error: '' });
      expect(shown[i]!.out).toMatch(pattern);
    }
    const json = await cli.run(['inspect', '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ name: 'tiny-bitnet', layers: 6 });
  });

  it('says what the machine has', async () => {
    const { code, out } = await cli.run(['doctor', '--json']);
    expect(code).toBe(0);
    const report = JSON.parse(out);
    expect(report.threads).toBeGreaterThan(0);
    expect(report.variants.map(({ name }: { name: string }) => name)).toContain('wasm:baseline');
    const without = await cli.run(['doctor'], { env: { PATH: '/nonexistent', CC: '' } });
    expect(without.out).toMatch(/\ncompilers +none\n/);
    expect(without.out).toMatch(/\ntarget +wasm:\S+: WebAssembly, as there is no C compiler/);
  });

  it.skipIf(process.platform === 'win32')('ends quietly when its reader does', () => {
    const { status, stdout, stderr } = spawnSync(
      'bash',
      [
        '-c',
        `set -o pipefail; "$0" "$1" inspect --stage code --target wasm | head -n 1`,
        process.execPath,
        cli.main,
      ],
      { encoding: 'utf8' },
    );
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '(module\n', stderr: '' });
  });
});

describe('bad input', () => {
  it('of usage', async () => {
    const cases: [string[], string][] = [
      [['run', 'embedded', 'hi', '-t', '0'], '--threads takes a number of threads'],
      [['bench', '-t', '1,zwei'], '--threads takes a number of threads'],
      [['run', 'embedded', 'hi', '--target', 'pdp11'], 'unknown target pdp11'],
      [['run', 'embedded', ''], 'the prompt is empty'],
      [['run', 'embedded', 'hi', '--top-p', '2', ...WASM], 'topP must be above 0 and at most 1'],
      [['run', 'embedded', 'hi', '--context', '513'], 'context must be 1 to 512'],
      [['run', 'embedded', 'hello '.repeat(600), ...WASM], 'tokens; the context holds 512'],
      [['run', 'embedded', 'hi', '--frobnicate'], "unknown option '--frobnicate'"],
    ];
    const results = await Promise.all(cases.map(([args]) => cli.run(args)));
    for (const [i, [, message]] of cases.entries()) expectFailure(results[i]!, 2, message);
  });

  it('that is not UTF-8', async () => {
    const failed = await cli.run(['run', 'embedded'], { input: Uint8Array.of(0x68, 0x69, 0xff) });
    expectFailure(failed, 4, 'standard input is not UTF-8: see byte 2');
  });

  it('of models that are not there, or broken', async () => {
    expectFailure(await cli.run(['run', join(cli.scratch, 'no/model'), 'hi']), 3, 'there is no folder');
    const noTokenizer = checkpoint('no-tokenizer', (folder) => rmSync(join(folder, 'tokenizer.json')));
    expectFailure(await cli.run(['run', noTokenizer, 'hi', ...WASM]), 3, 'tokenizer.json is missing');
    const noTemplate = checkpoint('no-template', (folder) => rmSync(join(folder, 'tokenizer_config.json')));
    const failed = await cli.run(['run', noTemplate, 'hi', ...WASM]);
    expectFailure(failed, 3, 'has no chat template');
    expect(failed.error).toContain('--raw');
    const cut = checkpoint('cut', (folder) => truncateSync(join(folder, 'model.safetensors'), 1_000_000));
    expectFailure(await cli.run(['run', cut, 'hi', ...WASM]), 4, 'model.safetensors');
    const noKey = checkpoint('no-key', (folder) => {
      const path = join(folder, 'config.json');
      const { hidden_size: _, ...rest } = JSON.parse(readFileSync(path, 'utf8'));
      writeFileSync(path, JSON.stringify(rest));
    });
    const missing = await cli.run(['run', noKey, 'hi', ...WASM]);
    expect(missing.error).toContain('hidden_size');
    expect([3, 4]).toContain(missing.code);
    const foreign = checkpoint('foreign', (folder) =>
      writeFileSync(
        join(folder, 'config.json'),
        JSON.stringify({ model_type: 'mamba', architectures: ['M'] }),
      ),
    );
    expectFailure(await cli.run(['run', foreign, 'hi', ...WASM]), 5, 'mamba');
  });

  it('of machines without a C compiler', async () => {
    const env = { PATH: '/nonexistent', CC: '' };
    const failed = await cli.run(['run', 'embedded', 'hi', '--target', 'c'], { env });
    expectFailure(failed, 6, 'no C compiler was found');
    const auto = await cli.run(['run', 'embedded', 'What is 4 + 106?', '-t', '1'], { env });
    expect(auto).toMatchObject({ code: 0, out: '4 + 106 = 110\n' });
    expect(auto.error).toMatch(/^lutra: warning: there is no C compiler, so the model becomes WebAssembly/);
    const again = await cli.run(['run', 'embedded', 'What is 4 + 106?', '-t', '1'], { env });
    expect(again).toMatchObject({ code: 0, error: '' });
  });

  it('keeps the stack for --verbose', async () => {
    const { code, error } = await cli.run(['run', '/no/model', 'hi', '--verbose']);
    expect(code).toBe(3);
    expect(error).toMatch(/\n {4}at .+\.js:\d+/);
  });

  const canMount = spawnSync('sh', ['-c', 'test "$(id -u)" = 0 && command -v mount umount'], {
    stdio: 'ignore',
  });
  it.skipIf(canMount.status !== 0)('of a disk that is full', async (context) => {
    const disk = join(cli.scratch, 'disk');
    mkdirSync(disk);
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', disk]).status === 0;
    if (!mounted) return context.skip('mounting is not allowed here');
    try {
      const failed = await cli.run(['compile', '-o', join(disk, 'out'), '--target', 'wasm']);
      expectFailure(failed, 6, 'the disk is full');
      expect(readdirSync(disk)).toEqual([]);
      const cached = await cli.run(['run', 'embedded', 'hi', '--target', 'wasm'], {
        env: { LUTRA_CACHE: disk },
      });
      expectFailure(cached, 6, 'the disk is full');
      expect(existsSync(join(disk, 'models')) ? readdirSync(join(disk, 'models')) : []).toEqual([]);
    } finally {
      spawnSync('umount', [disk]);
    }
  });
});
