import { appendFile, mkdir, mkdtemp, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openCheckpoint } from './open.ts';

/** A safetensors file, written byte by byte and independently of write.ts. */
function safetensors(
  tensors: readonly { name: string; dtype: string; shape: number[]; data: number[] }[],
): Uint8Array {
  let header = '{';
  let offset = 0;
  for (const { name, dtype, shape, data } of tensors) {
    if (offset > 0) header += ',';
    header += `"${name}":{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offset},${offset + data.length}]}`;
    offset += data.length;
  }
  header += '}';
  const bytes = [header.length & 255, header.length >> 8, 0, 0, 0, 0, 0, 0];
  for (const char of header) bytes.push(char.charCodeAt(0));
  for (const { data } of tensors) bytes.push(...data);
  return Uint8Array.from(bytes);
}

const A = { name: 'a', dtype: 'BF16', shape: [2, 2], data: [1, 2, 3, 4, 5, 6, 7, 8] };
const B = { name: 'b', dtype: 'U8', shape: [3], data: [250, 251, 252] };
const C = { name: 'c', dtype: 'I32', shape: [1], data: [1, 0, 0, 128] };
const WIDE = { name: 'wide', dtype: 'I64', shape: [1], data: [1, 0, 0, 0, 0, 0, 0, 0] };

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lutra-open-'));
  await writeFile(join(folder, 'config.json'), '{"model_type":"bitnet","hidden_size":4}');
});
afterEach(() => rm(folder, { recursive: true }));

function put(name: string, content: string | Uint8Array): Promise<void> {
  return writeFile(join(folder, name), content);
}

function putIndex(weightMap: Record<string, unknown>): Promise<void> {
  return put('model.safetensors.index.json', JSON.stringify({ metadata: {}, weight_map: weightMap }));
}

/** Expects opening to fail; gives the error's message and hint as one text. */
async function failure(path: string, code: string): Promise<string> {
  const error = await openCheckpoint(path).then(
    async (opened) => {
      await opened.close();
      throw new Error('it opened');
    },
    (error: unknown) => error,
  );
  expect(error).toMatchObject({ name: 'LutraError', code, hint: expect.any(String) });
  const { message, hint } = error as { message: string; hint: string };
  return `${message} | ${hint}`;
}

describe('a single file', () => {
  test('gives configuration, texts, tensors and their bytes', async () => {
    await put('model.safetensors', safetensors([A, B, C]));
    await put('generation_config.json', '{"temperature":0.5}');
    await put('tokenizer.json', '\ufeff{"größe":1}');
    await put('chat_template.jinja', '{{ messages }}');
    await put('notes.txt', 'not read');
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.path).toBe(folder);
    expect(checkpoint.config).toEqual({ model_type: 'bitnet', hidden_size: 4 });
    expect(checkpoint.generationConfig).toEqual({ temperature: 0.5 });
    expect([...checkpoint.textFiles.keys()]).toEqual([
      'config.json',
      'generation_config.json',
      'tokenizer.json',
      'chat_template.jinja',
    ]);
    expect(checkpoint.textFiles.get('tokenizer.json')).toBe('{"größe":1}');
    expect([...checkpoint.tensors.values()]).toEqual([
      { name: 'a', dtype: 'bf16', shape: [2, 2], bytes: 8 },
      { name: 'b', dtype: 'u8', shape: [3], bytes: 3 },
      { name: 'c', dtype: 'i32', shape: [1], bytes: 4 },
    ]);
    const all = await Promise.all(['c', 'a', 'b'].map((name) => checkpoint.read(name)));
    expect(all.map((bytes) => [...bytes])).toEqual([C.data, A.data, B.data]);
    await checkpoint.close();
    await checkpoint.close();
  });

  test('is read through links, as in the cache of the hub', async () => {
    await mkdir(join(folder, 'blobs'));
    await put('blobs/0123', safetensors([B]));
    await symlink('blobs/0123', join(folder, 'model.safetensors'));
    const checkpoint = await openCheckpoint(folder);
    expect([...(await checkpoint.read('b'))]).toEqual(B.data);
    await checkpoint.close();
  });

  test('may have tensors of other dtypes, which are refused by name when read', async () => {
    await put('model.safetensors', safetensors([A, WIDE]));
    const checkpoint = await openCheckpoint(folder);
    expect([...checkpoint.tensors.keys()]).toEqual(['a']);
    await expect(checkpoint.read('wide')).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/tensor "wide" has the dtype "I64"/),
      hint: expect.stringMatching(/BF16/),
    });
    await checkpoint.close();
  });

  test('refuses unknown names, reading after close, and a file cut short since it was opened', async () => {
    await put('model.safetensors', safetensors([A, B]));
    const checkpoint = await openCheckpoint(folder);
    await expect(checkpoint.read('z')).rejects.toMatchObject({ code: 'not-found', message: /"z"/ });
    await truncate(join(folder, 'model.safetensors'), safetensors([A, B]).length - 1);
    await expect(checkpoint.read('b')).rejects.toMatchObject({ code: 'invalid' });
    expect([...(await checkpoint.read('a'))]).toEqual(A.data);
    await checkpoint.close();
    await expect(checkpoint.read('a')).rejects.toMatchObject({ code: 'usage' });
  });

  test('may have tensors that take several reads', async () => {
    const bytes = 64 * 1024 * 1024 + 3;
    const start = safetensors([{ ...B, shape: [bytes], data: [] }]);
    const header = new TextDecoder().decode(start.subarray(8)).replace('[0,0]', `[0,${bytes}]`);
    const path = join(folder, 'model.safetensors');
    await writeFile(path, Uint8Array.of(header.length, 0, 0, 0, 0, 0, 0, 0));
    await appendFile(path, header);
    await truncate(path, 8 + header.length + bytes - 3);
    await appendFile(path, Uint8Array.from(B.data));
    const checkpoint = await openCheckpoint(folder);
    const read = await checkpoint.read('b');
    expect(read).toHaveLength(bytes);
    expect([...read.subarray(-4)]).toEqual([0, ...B.data]);
    await checkpoint.close();
  });

  test('may have another name, if there is no other', async () => {
    await put('gptq_model-4bit-128g.safetensors', safetensors([A]));
    await put('model.gguf', 'not looked at');
    const checkpoint = await openCheckpoint(folder);
    expect([...(await checkpoint.read('a'))]).toEqual(A.data);
    await checkpoint.close();
    await put('adapter.safetensors', safetensors([B]));
    await rm(join(folder, 'model.gguf'));
    expect(await failure(folder, 'not-found')).toMatch(/2 safetensors files, such as "adapter/);
  });

  test('comes before an index, as in transformers', async () => {
    await put('model.safetensors', safetensors([A]));
    await putIndex({ a: 'model-00001-of-00002.safetensors' });
    const checkpoint = await openCheckpoint(folder);
    expect([...checkpoint.tensors.keys()]).toEqual(['a']);
    await checkpoint.close();
  });

  test.each([0, 1, 7, 8, 9, 40])('is refused when only %i bytes of it are there', async (size) => {
    await put('model.safetensors', safetensors([A, B]).subarray(0, size));
    expect(await failure(folder, 'invalid')).toMatch(/model\.safetensors: .*expected.*download/);
  });

  test('is refused when bytes are missing or follow', async () => {
    const path = join(folder, 'model.safetensors');
    await put('model.safetensors', safetensors([A, B]).subarray(0, -1));
    expect(await failure(folder, 'invalid')).toMatch(/cut short/);
    await put('model.safetensors', safetensors([A, B]));
    await appendFile(path, 'x');
    expect(await failure(folder, 'invalid')).toMatch(/1 bytes follow/);
  });
});

describe('shards', () => {
  const FIRST = 'model-00001-of-00002.safetensors';
  const SECOND = 'model-00002-of-00002.safetensors';

  beforeEach(async () => {
    await put(FIRST, safetensors([A, WIDE]));
    await put(SECOND, safetensors([B, C]));
  });

  test('are found by the index', async () => {
    await putIndex({ c: SECOND, a: FIRST, b: SECOND, wide: FIRST });
    const checkpoint = await openCheckpoint(folder);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(['a', 'b', 'c']);
    for (const { name, data } of [A, B, C]) expect([...(await checkpoint.read(name))]).toEqual(data);
    await expect(checkpoint.read('wide')).rejects.toMatchObject({ code: 'unsupported' });
    await checkpoint.close();
  });

  test('missing or cut short are named', async () => {
    await putIndex({ a: FIRST, b: SECOND });
    await truncate(join(folder, SECOND), safetensors([B, C]).length - 2);
    expect(await failure(folder, 'invalid')).toMatch(/00002-of-00002.*cut short/);
    await rm(join(folder, SECOND));
    expect(await failure(folder, 'not-found')).toMatch(
      /00002-of-00002.safetensors is missing.*Get all files/,
    );
  });

  test('without a tensor that the index promises are refused', async () => {
    await putIndex({ a: FIRST, c: FIRST });
    expect(await failure(folder, 'invalid')).toMatch(/tensor "c" in model-00001-of-00002/);
  });

  test('without an index are refused, the last of them alone too', async () => {
    expect(await failure(folder, 'not-found')).toMatch(
      /2 safetensors files.*no model.safetensors.index.json/,
    );
    await rm(join(folder, FIRST));
    expect(await failure(folder, 'not-found')).toMatch(/one shard.*00002-of-00002/);
  });

  test('are found by an index of another name, if there is no other', async () => {
    await put('gptq.safetensors.index.json', JSON.stringify({ weight_map: { a: FIRST, b: SECOND } }));
    const checkpoint = await openCheckpoint(folder);
    expect([...checkpoint.tensors.keys()]).toEqual(['a', 'b']);
    await checkpoint.close();
    await put('other.safetensors.index.json', '{}');
    expect(await failure(folder, 'not-found')).toMatch(/2 safetensors files/);
  });

  test.each([
    '../model-00001-of-00002.safetensors',
    '/etc/model.safetensors',
    'sub/model.safetensors',
    '..\\model.safetensors',
    'C:model.safetensors',
    '..safetensors',
    'model.safetensors\0',
    'config.json',
    '',
    7,
    null,
  ])('named %j are refused', async (file) => {
    await putIndex({ a: file });
    expect(await failure(folder, 'invalid')).toMatch(/index\.json: .*tensor "a".*plain name/);
  });

  test.each([
    ['', /not valid JSON/],
    ['[]', /not a JSON object/],
    ['{"metadata":{}}', /no "weight_map"/],
    ['{"weight_map":[]}', /no "weight_map"/],
    [`{"weight_map":{"a":"${FIRST}","a":"${SECOND}"}}`, /key "a" twice/],
  ])('with the index %s are refused', async (text, message) => {
    await put('model.safetensors.index.json', text);
    expect(await failure(folder, 'invalid')).toMatch(message);
  });
});

describe('paths and other files', () => {
  test('a missing folder', async () => {
    expect(await failure(join(folder, 'none'), 'not-found')).toMatch(
      /there is no folder .*none.*config\.json/,
    );
  });

  test('a file instead of a folder', async () => {
    await put('model.safetensors', safetensors([A]));
    expect(await failure(join(folder, 'model.safetensors'), 'usage')).toMatch(/single file.*Give its folder/);
    await put('model.gguf', 'GGUF');
    expect(await failure(join(folder, 'model.gguf'), 'invalid')).toMatch(/4 bytes.*GGUF file/);
    await put('model.bin', 'PK');
    expect(await failure(join(folder, 'model.bin'), 'unsupported')).toMatch(/format/);
    expect(await failure(join(folder, 'config.json'), 'usage')).toMatch(/not a folder/);
    expect(await failure(join(folder, 'config.json', 'deeper'), 'not-found')).toMatch(/does not exist/);
  });

  test('no config.json', async () => {
    await put('model.safetensors', safetensors([A]));
    await rename(join(folder, 'config.json'), join(folder, 'konfig.json'));
    expect(await failure(folder, 'not-found')).toMatch(/no config\.json/);
    await put('ggml-model.gguf', 'GGUF');
    expect(await failure(folder, 'invalid')).toMatch(/ggml-model\.gguf: the file has 4 bytes/);
    await put('other.gguf', 'GGUF');
    expect(await failure(folder, 'usage')).toMatch(
      /2 GGUF models \| Choose one: .*ggml-model\.gguf, .*other\.gguf/,
    );
  });

  test.each([
    ['config.json', '{"a":', /config\.json: it is not valid JSON/],
    ['config.json', '[1]', /config\.json: it is not a JSON object/],
    ['config.json', Uint8Array.of(0x7b, 0xff, 0x7d), /config\.json: it is not valid UTF-8/],
    ['generation_config.json', 'no', /generation_config\.json: it is not valid JSON/],
    ['tokenizer.json', Uint8Array.of(0xc3, 0x28), /tokenizer\.json: it is not valid UTF-8/],
  ])('a malformed %s', async (name, content, message) => {
    await put('model.safetensors', safetensors([A]));
    await put(name, content);
    expect(await failure(folder, 'invalid')).toMatch(message);
  });

  test('no weights, or only of another format', async () => {
    expect(await failure(folder, 'not-found')).toMatch(/no weights.*model\.safetensors/);
    await put('pytorch_model.bin', 'x');
    expect(await failure(folder, 'unsupported')).toMatch(/"pytorch_model\.bin".*safetensors form/);
  });

  test('a folder in the place of a file', async () => {
    await mkdir(join(folder, 'model.safetensors'));
    expect(await failure(folder, 'invalid')).toMatch(/not a regular file/);
  });
});

test('the embedded model opens', async () => {
  const checkpoint = await openCheckpoint('models/tiny-bitnet');
  expect(checkpoint.tensors.get('model.layers.5.mlp.down_proj.weight')).toEqual({
    name: 'model.layers.5.mlp.down_proj.weight',
    dtype: 'u8',
    shape: [64, 768],
    bytes: 64 * 768,
  });
  const scale = await checkpoint.read('model.layers.0.self_attn.q_proj.weight_scale');
  expect(scale).toHaveLength(2);
  expect(checkpoint.textFiles.has('tokenizer.json')).toBe(true);
  await checkpoint.close();
});
