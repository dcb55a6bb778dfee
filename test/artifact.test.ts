/** Artifacts: damaged ones are refused, wrong code falls back and says so, nothing half-written stays. */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { load } from '../src/api/load.ts';
import { MANIFEST_FILE, type Manifest, SELF_TEST_FILE, WEIGHTS_FILE } from '../src/artifact/manifest.ts';
import type { LutraError } from '../src/common/errors.ts';
import { compileC, findCompiler } from '../src/targets/c/compile.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-artifact-'));
const original = join(scratch, 'original');
const hasCompiler = await findCompiler().then(
  () => true,
  () => false,
);

beforeAll(async () => {
  process.env.LUTRA_CACHE = join(scratch, 'cache');
  await compile('models/tiny-bitnet', { output: original, context: 64 });
}, 300_000);

afterAll(() => {
  delete process.env.LUTRA_CACHE;
  rmSync(scratch, { recursive: true, force: true });
});

let copies = 0;
function copy(): string {
  const path = join(scratch, `copy-${copies++}`);
  cpSync(original, path, { recursive: true });
  return path;
}

function changeManifest(path: string, change: (manifest: Manifest) => void): void {
  const file = join(path, MANIFEST_FILE);
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as Manifest;
  change(manifest);
  writeFileSync(file, JSON.stringify(manifest));
}

/** Makes the manifest agree with a file that was changed, so that only the self-test can find out. */
function forgeHash(path: string, name: string): void {
  const bytes = readFileSync(join(path, name));
  changeManifest(path, (manifest) => {
    manifest.files[name] = {
      bytes: bytes.length,
      sha256: createHash('sha256').update(bytes).digest('hex'),
    };
  });
}

function flipBit(path: string, name: string, at: number, bit: number): void {
  const bytes = readFileSync(join(path, name));
  bytes[at]! ^= 1 << bit;
  writeFileSync(join(path, name), bytes);
}

async function answer(path: string, warnings: string[] = []): Promise<{ target: string; text: string }> {
  await using model = await load(path, { onWarning: (message) => warnings.push(message) });
  await using session = model.createSession();
  const { text } = await session
    .generate('What is 4 + 106?', { temperature: 0 })
    .result.catch(() => ({ text: '' }));
  return { target: model.target, text };
}

describe('an artifact', () => {
  it('answers', async () => {
    await using model = await load(original);
    await using session = model.createSession();
    let text = '';
    for await (const piece of session.generate('What is 4 + 106?', { temperature: 0 })) text += piece;
    expect(text).toBe('4 + 106 = 110');
  });

  it.each([
    [
      'a truncated file',
      (p: string) => truncateSync(join(p, WEIGHTS_FILE), 1000),
      /weights\.bin has 1000 bytes/,
    ],
    ['an edited file', (p: string) => flipBit(p, WEIGHTS_FILE, 5000, 3), /weights\.bin was changed/],
    ['a missing file', (p: string) => rmSync(join(p, 'plan.json')), /plan\.json is missing/],
    ['a manifest that is not JSON', (p: string) => writeFileSync(join(p, MANIFEST_FILE), '{'), /is not JSON/],
    ['an empty manifest', (p: string) => writeFileSync(join(p, MANIFEST_FILE), '{}'), /manifest\.json/],
    [
      'a newer version',
      (p: string) => changeManifest(p, (m) => Object.assign(m, { version: 99 })),
      /version 99/,
    ],
    [
      'files outside the folder',
      (p: string) =>
        changeManifest(p, (m) => Object.assign(m.files, { '../x': { bytes: 0, sha256: '0'.repeat(64) } })),
      /outside the artifact/,
    ],
    [
      'another CPU',
      (p: string) => changeManifest(p, (m) => Object.assign(m, { target: 'c:avx512vnni', code: [] })),
      /cannot run c:avx512vnni|no code for c:avx512vnni/,
    ],
    [
      'code for nothing that runs here',
      (p: string) => changeManifest(p, (m) => Object.assign(m, { target: 'auto', code: [] })),
      /nothing of this artifact runs/,
    ],
  ])('is refused for %s', async (_, damage, message) => {
    const path = copy();
    damage(path);
    await expect(load(path)).rejects.toThrow(message);
  });

  it('is refused when a weight differs from what was compiled, even with matching hashes', async () => {
    const path = copy();
    // A byte in the middle of the ternary weights: 5 becomes another code for one weight.
    const at = JSON.parse(readFileSync(join(path, 'plan.json'), 'utf8')).weights.find(
      (slot: { encoding: string }) => slot.encoding === 'i2',
    ).regions[0].offset as number;
    const bytes = readFileSync(join(path, WEIGHTS_FILE));
    // Codes 00 and 01 differ in one bit: -1 becomes 0.
    for (let i = at; ; i++) {
      if ((bytes[i]! & 3) === 0) {
        flipBit(path, WEIGHTS_FILE, i, 0);
        break;
      }
    }
    forgeHash(path, WEIGHTS_FILE);
    const warnings: string[] = [];
    await expect(load(path, { onWarning: (m) => warnings.push(m) })).rejects.toThrow(
      /no target runs this model/,
    );
    expect(warnings.length).toBeGreaterThan(1);
    expect(warnings.join()).toContain('wrong logits');
  });

  it('falls back to another target when a wasm kernel is wrong, and says so', async () => {
    const path = copy();
    const manifest = JSON.parse(readFileSync(join(path, MANIFEST_FILE), 'utf8')) as Manifest;
    changeManifest(path, (m) => Object.assign(m, { target: 'wasm' }));
    const best = manifest.code.find((c) => c.machines.includes('wasm:relaxed'))!.file;
    // i16x8.relaxed_dot_i8x16_i7x16_s is fd 92 02 (LEB128 of 0x112); i16x8.add is fd 8e 01. Turn an add after
    // a dot into i16x8.sub, fd 91 01.
    const bytes = readFileSync(join(path, best));
    const dot = bytes.indexOf(Buffer.from([0xfd, 0x92, 0x02]));
    const add = bytes.indexOf(Buffer.from([0xfd, 0x8e, 0x01]), dot);
    expect(dot).toBeGreaterThan(0);
    expect(add).toBeGreaterThan(0);
    bytes[add + 1] = 0x91;
    writeFileSync(join(path, best), bytes);
    forgeHash(path, best);
    const warnings: string[] = [];
    expect(await answer(path, warnings)).toEqual({ target: 'wasm:baseline', text: '4 + 106 = 110' });
    expect(warnings.join()).toMatch(/wasm:relaxed failed its self-test \(wrong results from lowbit_matmul/);
  });

  it.skipIf(!hasCompiler)('falls back when one instruction of the C code is wrong, and says so', async () => {
    const path = copy();
    const source = readFileSync(join(path, 'code/model.c'), 'utf8');
    const best = JSON.parse(readFileSync(join(path, MANIFEST_FILE), 'utf8')).code[0].machines as string[];
    await using sound = await load(original);
    const isa = sound.target.slice(2);
    expect(best).toContain(sound.target);
    // A division becomes a multiplication, in the variant in use only.
    const start = source.indexOf(`rmsNorm_quantize_256_${isa}(`);
    const at = source.indexOf(' / ', start);
    expect(start).toBeGreaterThan(0);
    expect(at).toBeGreaterThan(start);
    const broken = `${source.slice(0, at)} * ${source.slice(at + 3)}`;
    const file = join(scratch, 'broken.c');
    writeFileSync(file, broken);
    const library = (JSON.parse(readFileSync(join(path, MANIFEST_FILE), 'utf8')) as Manifest).code[0]!.file;
    await compileC({ compiler: await findCompiler(), source: file, output: join(path, library) });
    forgeHash(path, library);
    const warnings: string[] = [];
    const { target, text } = await answer(path, warnings);
    expect(target).not.toBe(sound.target);
    expect(text).toBe('4 + 106 = 110');
    expect(warnings.join()).toMatch(/failed its self-test \(wrong results from rmsNorm_quantize_256/);
  });

  it.skipIf(!hasCompiler)('runs as WebAssembly on another platform, and says so', async () => {
    const path = copy();
    changeManifest(path, (manifest) => {
      for (const entry of manifest.code) {
        if (entry.platform !== undefined) Object.assign(entry, { platform: 'plan9-mips' });
      }
    });
    const warnings: string[] = [];
    await using model = await load(path, { onWarning: (message) => warnings.push(message) });
    expect(model.target).toMatch(/^wasm:/);
    expect(warnings).toEqual([expect.stringContaining('has native code for plan9-mips, not for')]);
    await expect(load(path, { target: 'c' })).rejects.toMatchObject({
      code: 'environment',
      message: 'the artifact has no code for c that runs here',
    });
  });
});

describe('loading', () => {
  it('ends at once by a signal that was aborted before', async () => {
    const signal = AbortSignal.abort();
    await expect(load(original, { signal })).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('compiling', () => {
  it('makes again what is damaged in the cache, and says so', async () => {
    const warnings: string[] = [];
    const options = { target: 'wasm', context: 32, onWarning: (message: string) => warnings.push(message) };
    const path = await compile('models/tiny-bitnet', options);
    expect(await compile('models/tiny-bitnet', options)).toBe(path);
    expect(warnings).toEqual([]);
    truncateSync(join(path, WEIGHTS_FILE), 100);
    await using model = await load('models/tiny-bitnet', options);
    expect(model.target).toMatch(/^wasm:/);
    expect(warnings).toEqual([expect.stringMatching(/cache is damaged and is made again: .* has 100 bytes/)]);
  });

  it('leaves nothing behind when it is cancelled', async () => {
    const folder = mkdtempSync(join(scratch, 'cancel-'));
    const controller = new AbortController();
    const compiling = compile('models/tiny-bitnet', {
      output: join(folder, 'out'),
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(compiling).rejects.toMatchObject({ code: 'cancelled' });
    expect(readdirSync(folder)).toEqual([]);
  });

  it.each([1, 30, 120, 250, 400, 700])(
    'leaves all or nothing when it is cancelled after %i ms',
    async (delay) => {
      const folder = mkdtempSync(join(scratch, 'when-'));
      const controller = new AbortController();
      const timer = setTimeout(() => controller.abort(), delay);
      const output = join(folder, 'out');
      const options = { output, head: 'int8', context: 64, signal: controller.signal } as const;
      const end = await compile('models/tiny-bitnet', options).then(
        () => 'done',
        (error: LutraError) => error.code,
      );
      clearTimeout(timer);
      expect(['done', 'cancelled']).toContain(end);
      expect(readdirSync(folder)).toEqual(end === 'done' ? ['out'] : []);
    },
  );

  it('computes the same bits from weights of 1.6 bits', async () => {
    const output = join(scratch, 't5b');
    await compile('models/tiny-bitnet', { output, target: 'wasm', context: 64, encoding: 't5b' });
    const read = (path: string, name: string) => JSON.parse(readFileSync(join(path, name), 'utf8'));
    expect(read(output, SELF_TEST_FILE).steps).toEqual(read(original, SELF_TEST_FILE).steps);
    const bytes = (path: string) => (read(path, MANIFEST_FILE) as Manifest).files[WEIGHTS_FILE]!.bytes;
    expect(bytes(output)).toBeLessThan(bytes(original));
  });

  it('replaces an older artifact as a whole', async () => {
    const folder = mkdtempSync(join(scratch, 'replace-'));
    const output = join(folder, 'out');
    cpSync(original, output, { recursive: true });
    writeFileSync(join(output, 'stray'), '');
    await compile('models/tiny-bitnet', { output, target: 'wasm', context: 32 });
    expect(readdirSync(folder)).toEqual(['out']);
    expect(readdirSync(output)).not.toContain('stray');
  });

  it.each([3, 4])('is tested and runs with a context of %d', async (context) => {
    const output = join(scratch, `context-${context}`);
    await compile('models/tiny-bitnet', { output, target: 'wasm:baseline', context, cache: 'int8' });
    await using model = await load(output);
    await using session = model.createSession();
    const { tokens, finishReason } = await session.generate('4', { raw: true }).result;
    expect([1 + tokens.length, finishReason]).toEqual([context, 'context']);
  });

  it.each([
    [{ target: 'cuda' }, /unknown target cuda/],
    [{ context: 0 }, /context must be 1 to 512/],
    [{ context: 4096 }, /context must be 1 to 512/],
    [{ target: 'c:avx512vnni' }, /c:avx512vnni/],
  ])('refuses %j', async (options, message) => {
    if ('target' in options && options.target === 'c:avx512vnni') {
      await using model = await load(original);
      if (model.target === options.target) return;
    }
    await expect(
      compile('models/tiny-bitnet', { ...options, output: join(scratch, 'never') }),
    ).rejects.toThrow(message);
    expect(readdirSync(scratch).filter((name) => name.startsWith('never'))).toEqual([]);
  });

  it('refuses a broken tokenizer by the name of the checkpoint', async () => {
    const folder = join(scratch, 'broken-texts');
    cpSync('models/tiny-bitnet', folder, { recursive: true });
    writeFileSync(join(folder, 'tokenizer.json'), '{');
    await expect(compile(folder, { output: join(scratch, 'never'), target: 'wasm' })).rejects.toMatchObject({
      code: 'invalid',
      message: expect.stringContaining(join(folder, 'tokenizer.json')),
    });
    expect(readdirSync(scratch).filter((name) => name.startsWith('never'))).toEqual([]);
  });

  it('refuses what is compiled already', async () => {
    await expect(compile(original)).rejects.toThrow(/already compiled/);
  });
});
