import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type FakeIo, type FakeIoOptions, fakeIo } from '../../test/support/fake-io.ts';
import { type FakeModel, type FakeModelOptions, fakeModel } from '../../test/support/fake-model.ts';
import { startHub } from '../../test/support/hub-server.ts';
import { LutraError } from '../common/errors.ts';
import { VERSION } from '../common/version.ts';
import type { ChatMessage, GenerateOptions, LoadOptions } from '../runtime/types.ts';
import { measure } from './bench/measure.ts';
import type { Deps } from './deps.ts';
import { runCli } from './program.ts';

interface Run {
  readonly code: number;
  readonly out: string;
  readonly error: string;
  readonly loads: { source: string; options: NonNullable<Parameters<Deps['load']>[1]> }[];
  readonly models: FakeModel[];
}

interface Setting extends FakeIoOptions, FakeModelOptions {
  readonly load?: (options: LoadOptions) => void;
  readonly io?: FakeIo;
  readonly bandwidth?: number;
}

async function lutra(args: readonly string[], setting: Setting = {}): Promise<Run> {
  const io = setting.io ?? fakeIo(setting);
  const loads: Run['loads'] = [];
  const models: FakeModel[] = [];
  const load: Deps['load'] = async (source, options = {}) => {
    loads.push({ source, options });
    setting.load?.(options);
    const model = fakeModel(setting);
    models.push(model);
    return model;
  };
  const deps: Deps = {
    io,
    load,
    loadEmbedder: async () => ({
      name: 'fake',
      target: 'wasm',
      context: 16,
      dimensions: 2,
      embed: async (text) => Float32Array.of(0.5, text.length),
      dispose: async () => undefined,
      [Symbol.asyncDispose]: async () => undefined,
    }),
    compile: async () => 'nowhere',
    convert: async () => {
      throw new Error('not used here');
    },
    standalone: async (_, { output, arch = 'x64' }) => ({
      name: 'fake',
      path: output,
      arch: arch as 'x64',
      variants: ['c:neon', 'c:scalar'],
      bytes: 1234,
    }),
    tune: async () => {
      throw new Error('not used here');
    },
    bench: {
      prepare: async ({ source, options }) => (await load(source, options)).dispose(),
      measure: (request) => measure(load, request),
      profile: async () => {
        throw new Error('not used here');
      },
      bandwidth: async (_, threads) => (setting.bandwidth ?? 1e9) * threads,
    },
  };
  const code = await runCli(args, deps);
  return { code, ...io.written, loads, models };
}

let folder: string;
const file = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'lutra-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('embed', () => {
  it('prints a vector for every text, or one JSON object', async () => {
    const plain = await lutra(['embed', 'some-model', 'ab', 'c']);
    expect([plain.code, plain.out]).toEqual([0, '0.500000 2.000000\n0.500000 1.000000\n']);
    const { out } = await lutra(['embed', 'some-model', 'ab', '--json']);
    expect(JSON.parse(out)).toEqual({ model: 'fake', target: 'wasm', dimensions: 2, embeddings: [[0.5, 2]] });
  });

  it('needs a text', async () => {
    expect((await lutra(['embed', 'some-model'])).code).toBe(2);
  });
});

describe('lutra', () => {
  it('prints help and version, and takes no command as a mistake', async () => {
    const help = await lutra(['--help']);
    expect(help.code).toBe(0);
    for (const command of ['run', 'chat', 'bench', 'eval']) expect(help.out).toContain(`  ${command} `);
    expect(await lutra(['--version'])).toMatchObject({ code: 0, out: `${VERSION}\n` });
    const none = await lutra([]);
    expect(none.code).toBe(2);
    expect(none.error).toContain('Usage: lutra');
  });

  it('says what changes nothing with a model that is greedy', async () => {
    const idle = await lutra(['run', 'some-model', 'hi', '--top-k', '3', '--seed', '1']);
    expect(idle.code).toBe(0);
    expect(idle.error).toContain(
      'warning: --top-k and --seed changed nothing: fake takes the likeliest token',
    );
    expect((await lutra(['run', 'some-model', 'hi', '--top-k', '3', '--temperature', '1'])).error).toBe('');
    expect((await lutra(['run', 'some-model', 'hi'])).error).toBe('');
  });

  it('writes C projects for an architecture', async () => {
    const args = ['compile', '--standalone', '--arch', 'arm64', '-o', 'device'];
    expect(await lutra(args)).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^fake as C in device: .* for c:neon, c:scalar;.*\nREADME\.md there/),
    });
    const json = JSON.parse((await lutra([...args, '--json'])).out);
    expect(json).toMatchObject({ model: 'fake', output: 'device', arch: 'arm64', bytes: 1234 });
    expect(await lutra([...args, '--target', 'c'])).toMatchObject({
      code: 2,
      error: expect.stringContaining('--target and --standalone exclude each other'),
    });
    expect(await lutra(['compile', '-o', 'device', '--arch', 'arm64'])).toMatchObject({
      code: 2,
      error: expect.stringContaining('--arch is for --standalone'),
    });
  });

  it.each([
    [['rum'], "unknown command 'rum'", '(Did you mean run?)'],
    [['run', '--nonsense'], "unknown option '--nonsense'", 'See lutra --help'],
    [['run', '-t', '0', 'embedded', 'hi'], '--threads takes a number of threads from 1 to 256, not "0"', ''],
    [['run', '-t', 'NaN', 'embedded', 'hi'], 'not "NaN"', ''],
    [['run', '-t', '1.5', 'embedded', 'hi'], 'not "1.5"', ''],
    [['run', '-n', '-3', 'embedded', 'hi'], 'not "-3"', ''],
    [['run', '--temperature', 'hot', 'embedded', 'hi'], '--temperature takes a number, not "hot"', ''],
    [['run', '--context', '0', 'embedded', 'hi'], '--context takes a whole number above 0, not "0"', ''],
    [['run', '--threads'], 'argument missing', ''],
    [['bench', '-t', '1,0'], 'not "0"', ''],
    [['bench', '-t', ''], 'not ""', ''],
    [['bench', '-p', '0', '-n', '0'], 'nothing to measure', ''],
    [['bench', '--profile', '-t', '1,2'], 'one number of threads', 'a single number'],
    [['bench', '--profile', '-b', '1,2'], 'one number of threads and of sequences', 'a single number'],
    [['bench', '--profile', '-r', '3'], '--repetitions means nothing', ''],
    [['compile', '-o', 'x', '--group', '64'], 'group says how weights are rounded', 'Give --bits too'],
    [['tune', '--symmetric'], 'symmetric says how weights are rounded', 'Give --bits too'],
    [['compile', '-o', 'x', '--bits', 'ternary', '--symmetric'], 'ternary weights never have', ''],
    [['tune', '--report', 'x.svg', '--kernel-seconds', '3'], '--kernel-seconds means nothing', '--records'],
    [['inspect', '--stage', 'graph', '--target', 'c'], '--target means nothing for --stage graph', ''],
    [['run', '--temperature', '0', '--top-k', '4', 'embedded', 'hi'], '--top-k means nothing', ''],
    [['bench', '-b', '17'], '--batch takes a number of sequences from 1 to 16, not "17"', ''],
    [['bench', 'a', 'b'], 'too many arguments', ''],
    [['eval'], 'nothing to evaluate', ''],
    [['run', '--raw', '--system', 'x', 'embedded', 'hi'], '--system needs the chat template', ''],
  ])('takes %j as a mistake in usage', async (args, message, hint) => {
    const { code, out, error, loads } = await lutra(args);
    expect(code).toBe(2);
    expect(out).toBe('');
    expect(error).toMatch(/^lutra: /);
    expect(error).toContain(message);
    expect(error).toContain(hint);
    expect(loads).toEqual([]);
  });

  it.each([
    ['internal', 1],
    ['usage', 2],
    ['not-found', 3],
    ['invalid', 4],
    ['unsupported', 5],
    ['environment', 6],
    ['network', 7],
    ['cancelled', 130],
  ] as const)('turns an error of kind %s into exit code %i', async (kind, wanted) => {
    const load = () => {
      throw new LutraError(kind, 'what was wrong\nand more of it', { hint: 'What to do.' });
    };
    const plain = await lutra(['run', 'some/model', 'hi'], { load });
    expect(plain).toMatchObject({ code: wanted, out: '', error: 'lutra: what was wrong\n  What to do.\n' });
    const verbose = await lutra(['run', 'some/model', 'hi', '--verbose'], { load });
    expect(verbose.code).toBe(wanted);
    expect(verbose.error).toContain('and more of it');
    expect(verbose.error).toContain('program.test.ts');
  });

  it('calls an unexpected error a defect, and an aborted signal a cancellation', async () => {
    const broken = await lutra(['run', 'm', 'hi'], {
      load: () => {
        throw new TypeError('x is not a function');
      },
    });
    expect(broken).toMatchObject({ code: 1 });
    expect(broken.error).toContain('internal error: x is not a function\n  This is a defect of lutra');
    const aborted = await lutra(['run', 'm', 'hi'], { load: () => AbortSignal.abort().throwIfAborted() });
    expect(aborted).toMatchObject({ code: 130, error: 'lutra: cancelled\n' });
  });
});

describe('lutra run', () => {
  it('makes a checkpoint into the form that is asked for, as chat, eval and bench do', async () => {
    const form = ['--head', 'int4', '--cache', 'int8'];
    for (const args of [
      ['run', 'm', 'hi'],
      ['chat', 'm'],
      ['eval', 'm', '--text', file('line', 'one line')],
      ['bench', 'm', '-p', '0', '-n', '1', '-r', '1'],
    ]) {
      // A chat that loads would read this process's input.
      const load = () => {
        if (args[0] === 'chat') throw new LutraError('not-found', 'no model');
      };
      const { loads } = await lutra([...args, ...form], { load });
      expect(loads.length).toBeGreaterThan(0);
      for (const { options } of loads) expect(options).toMatchObject({ head: 'int4', cache: 'int8' });
    }
    expect((await lutra(['run', 'm', 'hi', '--head', 'int5'])).error).toContain("'int5' is invalid");
  });

  it('says what came of guesses and of the bounds of an exact head', async () => {
    const counts = { speculation: { proposed: 4, accepted: 3 }, head: { median: 5, max: 9, full: 1 } };
    const json = await lutra(['run', 'm', 'hi', '--json'], { counts });
    expect(JSON.parse(json.out)).toMatchObject(counts);
    const { out, error } = await lutra(['run', 'm', 'hi', '--verbose'], { counts });
    expect(out).toBe('yes\n');
    expect(error).toContain(
      '3 of 4 guesses right, exact logits a token: 5 (median), 9 at most, all of them 1 times',
    );
  });

  it('streams an answer and ends it with a line break', async () => {
    const seen: (readonly ChatMessage[])[] = [];
    const answer = (messages: readonly ChatMessage[]) => {
      seen.push(messages);
      return '4 + 106 = 110';
    };
    const { code, out, error, loads, models } = await lutra(
      ['run', 'some/model', 'What is', '4 + 106?', '--target', 'wasm', '-t', '2', '--context', '99'],
      { answer },
    );
    expect({ code, out, error }).toEqual({ code: 0, out: '4 + 106 = 110\n', error: '' });
    expect(seen).toEqual([[{ role: 'user', content: 'What is 4 + 106?' }]]);
    expect(loads[0]).toMatchObject({
      source: 'some/model',
      options: { target: 'wasm', threads: 2, context: 99 },
    });
    expect(models[0]!.disposed()).toBe(true);
    expect(models[0]!.openSessions()).toBe(0);
  });

  it('prints exactly the documented object with --json', async () => {
    const { out } = await lutra(['run', 'embedded', 'hi', '--json'], { answer: () => 'ja' });
    expect(JSON.parse(out)).toEqual({
      text: 'ja',
      tokens: [106, 97],
      finishReason: 'stop',
      promptTokens: 5,
      timings: { prefillSeconds: 0.5, decodeSeconds: 0.25 },
    });
  });

  it('hands its options to the generation, and no others', async () => {
    const given: GenerateOptions[] = [];
    const answer = (_: unknown, options: GenerateOptions) => {
      given.push(options);
      return '';
    };
    const sampling =
      '--temperature 0.5 --top-k 3 --top-p .9 --min-p 1e-2 --repetition-penalty 1.1 --seed 7 --speculate 4';
    await lutra(['run', 'm', 'hi', '-n', '12', ...sampling.split(' '), '--stop', 'a', '--stop', 'b'], {
      answer,
    });
    await lutra(['run', 'm', 'hi'], { answer });
    const { signal, ...options } = given[0]!;
    expect(options).toEqual({
      maxTokens: 12,
      temperature: 0.5,
      topK: 3,
      topP: 0.9,
      minP: 0.01,
      repetitionPenalty: 1.1,
      seed: 7,
      speculate: 4,
      stop: ['a', 'b'],
    });
    expect(Object.keys(given[1]!)).toEqual(['signal']);
    expect(signal).toBeInstanceOf(AbortSignal);
  });

  it('takes the embedded model by name and by default, and prompts from standard input', async () => {
    const answer = (messages: readonly ChatMessage[]) =>
      messages.map((m) => `${m.role}: ${m.content}`).join('|');
    const piped = await lutra(['run'], { input: 'Grüße\n', answer });
    expect(piped).toMatchObject({ code: 0, out: 'user: Grüße\n' });
    expect(piped.loads[0]!.source).toMatch(/models.tiny-bitnet$/);
    const dash = await lutra(['run', 'embedded', '-', '--system', 'Be brief.'], { input: 'hi', answer });
    expect(dash.out).toBe('system: Be brief.|user: hi\n');
  });

  it.each([
    [['run', 'embedded', ''], {}, 2, 'the prompt is empty'],
    [['run', 'embedded'], { input: ' \n' }, 2, 'the prompt is empty'],
    [['run', 'embedded'], { inputIsTerminal: true }, 2, 'no prompt given'],
    [['run', 'What is 4 + 106?'], {}, 2, 'there is no model "What is 4 + 106?"'],
    [
      ['run', 'embedded'],
      { input: Uint8Array.of(0x68, 0xc3, 0x28) },
      4,
      'standard input is not UTF-8: see byte 1',
    ],
  ])('refuses the prompt of %j before loading anything', async (args, setting, wanted, message) => {
    const { code, error, loads } = await lutra(args as string[], setting as Setting);
    expect(code).toBe(wanted);
    expect(error).toContain(message);
    expect(loads).toEqual([]);
  });

  it('stops on Ctrl-C with what it has, code 130, and everything freed', async () => {
    const io = fakeIo();
    let pieces = 0;
    const { code, out, error, models } = await lutra(['run', 'm', 'hi'], {
      io,
      answer: () => 'endless talk',
      onPiece: () => {
        if (++pieces === 4) io.interrupt();
      },
    });
    expect({ code, out, error }).toEqual({ code: 130, out: 'end\n', error: 'lutra: cancelled\n' });
    expect(models[0]!.disposed()).toBe(true);
  });

  it('shows progress on a terminal only, and warnings always', async () => {
    const load = (options: LoadOptions) => {
      options.onProgress?.({ stage: 'compile', done: 1, total: 2 });
      options.onWarning?.('fell back to wasm');
    };
    const piped = await lutra(['run', 'm', 'hi'], { load });
    expect(piped.error).toBe('lutra: warning: fell back to wasm\n');
    const terminal = await lutra(['run', 'm', 'hi'], { load, errorIsTerminal: true });
    expect(terminal.error).toContain('compile   [===============>              ]  50%');
    expect(terminal.error).toContain('\r\x1b[Klutra: warning: fell back to wasm\n');
    expect(terminal.out).toBe('yes\n');
  });
});

describe('lutra eval', () => {
  const tests = [
    { skill: 'add', prompt: '1+1', answer: '2' },
    { skill: 'add', prompt: '2+2', answer: '4' },
    { skill: 'spell', prompt: 'cat', answer: 'c a t' },
  ];
  const answer = ([question]: readonly ChatMessage[]) =>
    ({ '1+1': '2', '2+2': '44', cat: 'c a t' })[question!.content] ?? '';

  it('prints the share of exact answers per skill and the perplexity', async () => {
    const jsonl = file('tests.jsonl', `${tests.map((test) => JSON.stringify(test)).join('\n')}\n\n`);
    const text = file('text.txt', 'ab\r\n\ncd\n');
    const { code, out, models } = await lutra(['eval', 'm', '--tests', jsonl, '--text', text, '--json'], {
      answer,
    });
    expect(code).toBe(0);
    const report = JSON.parse(out);
    expect(report).toEqual({
      target: 'fake:scalar',
      accuracy: { overall: 2 / 3, skills: { add: 0.5, spell: 1 } },
      perplexity: expect.any(Number),
    });
    // begin, a, b, end and begin, c, d, end: three predictions each.
    const logit = (last: number, next: number) => Math.fround(Math.sin(last * 7 + next * 3) * 4);
    const loss = (last: number, next: number) => {
      const all = Array.from({ length: 256 }, (_, id) => Math.exp(logit(last, id)));
      return Math.log(all.reduce((a, b) => a + b)) - logit(last, next);
    };
    const lines = [
      [1, 97, 98, 2],
      [1, 99, 100, 2],
    ];
    const losses = lines.flatMap((line) => line.slice(1).map((next, i) => loss(line[i]!, next)));
    const wanted = Math.exp(losses.reduce((a, b) => a + b) / losses.length);
    expect(report.perplexity / wanted).toBeCloseTo(1, 10);
    expect(models[0]!.disposed()).toBe(true);
  });

  it('leaves out as null what was not asked for, and writes a table without --json', async () => {
    const text = file('one.txt', 'a');
    const json = await lutra(['eval', 'm', '--text', text, '--json']);
    expect(JSON.parse(json.out)).toMatchObject({ accuracy: null, perplexity: expect.any(Number) });
    const jsonl = file('tests.jsonl', tests.map((test) => JSON.stringify(test)).join('\n'));
    const table = await lutra(['eval', 'm', '--tests', jsonl], { answer });
    expect(table.out).toBe(
      'target      fake:scalar\nexact answers\n  add       50.0 %\n  spell    100.0 %\n  overall   66.7 %\n',
    );
  });

  it('counts an answer that does not end as wrong, and stops there', async () => {
    const jsonl = file('endless.jsonl', JSON.stringify({ skill: 's', prompt: 'p', answer: 'aa' }));
    let pieces = 0;
    const { out } = await lutra(['eval', 'm', '--tests', jsonl, '--json'], {
      answer: () => 'a'.repeat(1000),
      onPiece: () => pieces++,
    });
    expect(JSON.parse(out).accuracy.overall).toBe(0);
    expect(pieces).toBeLessThan(6);
  });

  it.each([
    ['', 'has no tests'],
    ['{"skill": "a"', 'line 1: not JSON'],
    ['\n{"skill": "a", "prompt": 3, "answer": "b"}', 'line 2: needs the texts skill, prompt and answer'],
    ['[]', 'line 1: needs the texts'],
  ])('refuses the tests %j', async (content, message) => {
    const { code, error, loads } = await lutra(['eval', 'm', '--tests', file('bad.jsonl', content)]);
    expect(code).toBe(4);
    expect(error).toContain(message);
    expect(loads).toEqual([]);
  });

  it('names files that are missing, not UTF-8, empty, or have a line too long', async () => {
    const missing = await lutra(['eval', 'm', '--text', join(folder, 'missing')]);
    expect(missing.code).toBe(3);
    expect(missing.error).toContain('missing: there is no such file');
    const binary = await lutra(['eval', 'm', '--text', file('binary', Uint8Array.of(97, 255))]);
    expect(binary.code).toBe(4);
    expect(binary.error).toContain('binary is not UTF-8: see byte 1');
    expect((await lutra(['eval', 'm', '--text', file('empty', '\n')])).code).toBe(4);
    const long = await lutra(['eval', 'm', '--text', file('long', `ok\n${'x'.repeat(8)}`)], { context: 8 });
    expect(long.code).toBe(2);
    expect(long.error).toContain('line 2 has 9 tokens to read; the context holds 8');
  });
});

describe('lutra bench', () => {
  it('prints exactly the documented object with --json', async () => {
    const { code, out, loads, models } = await lutra(
      ['bench', 'm', '-p', '16', '-n', '4', '-t', '1,2', '-r', '3', '--json', '--target', 'wasm'],
      { bandwidth: 20.04e9 },
    );
    expect(code).toBe(0);
    const rate = { median: expect.any(Number), min: expect.any(Number), max: expect.any(Number) };
    // The fake model always says that it has one thread.
    expect(JSON.parse(out)).toEqual({
      model: 'fake',
      target: 'fake:scalar',
      results: [
        { threads: 1, test: 'prefill', tokens: 16, tokensPerSecond: rate },
        { threads: 1, test: 'decode', tokens: 4, tokensPerSecond: rate },
        { threads: 1, test: 'prefill', tokens: 16, tokensPerSecond: rate },
        { threads: 1, test: 'decode', tokens: 4, tokensPerSecond: rate },
      ],
      peakMemoryBytes: expect.any(Number),
      loadSeconds: expect.any(Number),
      memoryBandwidth: { 1: 20 },
    });
    expect(loads.map(({ options }) => options.threads)).toEqual([undefined, 1, 2]);
    expect(loads.every(({ options }) => options.target === 'wasm')).toBe(true);
    expect(models.every((model) => model.disposed())).toBe(true);
    const { results, peakMemoryBytes } = JSON.parse(out);
    for (const { tokensPerSecond: t } of results) expect(t.min <= t.median && t.median <= t.max).toBe(true);
    expect(peakMemoryBytes).toBeGreaterThan(1e7);
  });

  it('measures several sequences at once', async () => {
    const { out } = await lutra(['bench', 'm', '-p', '0', '-n', '3', '-b', '1,4', '--json']);
    const { results } = JSON.parse(out);
    expect(results).toMatchObject([{ test: 'decode' }, { test: 'decode', batch: 4 }]);
    expect(results[0]).not.toHaveProperty('batch');
  });

  it('writes a table, and leaves out a test of no tokens', async () => {
    const { out, loads } = await lutra(['bench', 'm', '-p', '0', '-n', '3', '-r', '1']);
    expect(out).toMatch(
      /^fake on fake:scalar\nthreads {2}batch {2}test {4}tokens {2}tokens\/s\s+range\n\s+1\s+1\s+decode\s+3\s/,
    );
    expect(out).not.toContain('prefill');
    expect(out).toMatch(/load \d+\.\d\d s, peak memory [\d.]+ MiB\nmemory reads: 1 GB\/s with 1 threads\n$/);
    expect(loads.at(-1)!.options).not.toHaveProperty('threads');
  });

  it('says when the context cannot hold what is asked for', async () => {
    const { code, error } = await lutra(['bench', 'm', '-p', '100', '-n', '29']);
    expect(code).toBe(2);
    expect(error).toContain('129 tokens are asked for; the context holds 128');
  });
});

describe('inspect', () => {
  const variables = ['LUTRA_CACHE', 'HF_ENDPOINT', 'HF_HOME'] as const;
  const before = variables.map((name) => process.env[name]);
  afterAll(() => {
    for (const [i, name] of variables.entries()) {
      if (before[i] === undefined) delete process.env[name];
      else process.env[name] = before[i];
    }
  });

  it('says what a model of the hub would cost, from its headers', async () => {
    await using hub = await startHub();
    for (const name of variables)
      process.env[name] = name === 'HF_ENDPOINT' ? hub.endpoint : join(folder, name);
    const read = (name: string) => new Uint8Array(readFileSync(join('models/tiny-bitnet', name)));
    const names = ['config.json', 'generation_config.json', 'tokenizer.json', 'model.safetensors'];
    const files = new Map(names.map((name) => [name, read(name)]));
    const large = new Set(['model.safetensors']);
    hub.repos.set('org/tiny', { commit: '0123456789abcdef0123456789abcdef01234567', files, large });

    const json = await lutra(['inspect', 'hf:org/tiny', '--json', '--target', 'wasm:baseline'], {
      bandwidth: 2e9,
    });
    expect(json).toMatchObject({ code: 0, error: '' });
    const { costs, ...info } = JSON.parse(json.out);
    expect(info).toMatchObject({ name: 'org/tiny', architecture: 'bitnet', layers: 6 });
    const size = files.get('model.safetensors')!.length;
    expect(costs.downloadBytes).toBe(size);
    expect(costs.checkpointBytes).toBeLessThan(size);
    expect(costs.memoryBytes).toBeGreaterThan(costs.compiledBytes);
    const { speed } = costs;
    expect(speed.bytesPerToken).toBeGreaterThan(0.5 * costs.compiledBytes);
    expect(speed.bytesPerToken).toBeLessThanOrEqual(costs.compiledBytes);
    expect(speed.bytesPerSecond).toBe(2e9 * speed.threads);
    expect(speed.tokensPerSecond).toBeCloseTo(speed.bytesPerSecond / speed.bytesPerToken);
    // No weights came, nor the tokenizer.
    const content = hub.log.filter(({ path, server }) => server === 'content' || path.includes('tokenizer'));
    expect(content.map(({ headers }) => headers.range)).toEqual(['bytes=0-262143']);

    // The bandwidth is that of before; and the same folder here needs no download.
    const local = await lutra(['inspect', 'models/tiny-bitnet', '--target', 'wasm:baseline'], {
      bandwidth: 1,
    });
    expect(local.out).toMatch(/\nmemory +[\d.]+ MiB: [\d.]+ MiB weights, /);
    expect(local.out).toMatch(/\ndisk +[\d.]+ MiB of weights here, [\d.]+ MiB compiled\n/);
    expect(local.out).toMatch(
      /\nspeed +at most \d+ tokens\/s here if memory alone limits: .* GB\/s with \d+ threads \(wasm:baseline\)\n/,
    );
    expect(local.out).toContain(`${(speed.bytesPerSecond / 1e9).toFixed(1)} GB/s`);
    const remote = await lutra(['inspect', 'hf:org/tiny', '--target', 'wasm:baseline']);
    expect(remote.out).toMatch(/\ndisk +[\d.]+ MiB to download, then [\d.]+ MiB compiled\n/);
    expect(await lutra(['inspect', 'hf:org/none'])).toMatchObject({ code: 3 });
  });
});
