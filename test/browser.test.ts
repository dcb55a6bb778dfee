/** A real browser loads an artifact over HTTP, runs it on threads and says what Node says, bit for bit. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compile } from '../src/api/compile.ts';
import { load } from '../src/api/load.ts';
import type { Model } from '../src/runtime/types.ts';
import { findChromium, type PageServer, servePages } from './support/browser.ts';
import { type BuiltCli, buildCli } from './support/built-cli.ts';

const chromium = findChromium();
if (chromium === undefined) console.warn('no Chromium found: nothing is run in a browser');

const PROMPT = 'hello';
const TOKENS = 24;

/** What a model says, and the bits of its last logits. Its source runs in the page, its types are for here. */
const outline = async (model: Model, prompt: string, maxTokens: number) => {
  const session = model.createSession();
  const { tokens, text } = await session.generate(prompt, { raw: true, temperature: 0, maxTokens }).result;
  session.rewind(0);
  const all = Int32Array.from([...model.tokenize(prompt), ...tokens]);
  const logits = await session.forward(all, 'all');
  return { tokens, text, bits: [...new Uint32Array(logits.buffer).slice(-1000)] };
};

describe.skipIf(chromium === undefined)('in a browser', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'lutra-browser-'));
  let built: BuiltCli;
  let pages: PageServer;
  beforeAll(async () => {
    built = buildCli();
    await compile('models/tiny-bitnet', { output: join(scratch, 'model'), target: 'wasm' });
    pages = await servePages({
      chromium: chromium!,
      folders: {
        dist: dirname(dirname(built.main)),
        packages: 'node_modules',
        model: join(scratch, 'model'),
      },
      imports: {
        zod: '/packages/zod/index.js',
        '@huggingface/jinja': '/packages/@huggingface/jinja/dist/index.js',
        '@huggingface/tokenizers': '/packages/@huggingface/tokenizers/dist/tokenizers.mjs',
      },
      profile: join(scratch, 'profile'),
    });
  });
  afterAll(async () => {
    await pages?.close();
    built?.remove();
    rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
  });

  const inBrowser = (threads: readonly number[], isolated: boolean) =>
    pages.run(
      `
      const { load } = await import('/dist/api/browser.js');
      const outline = ${outline};
      const reports = [];
      for (const threads of ${JSON.stringify(threads)}) {
        const warnings = [];
        const model = await load('/model', { threads, onWarning: (text) => warnings.push(text) });
        reports.push({ target: model.target, threads: model.threads, warnings, said: await outline(model, ${JSON.stringify(PROMPT)}, ${TOKENS}) });
        await model.dispose();
      }
      report(reports);
    `,
      { isolated },
    );

  test('one and two threads give the bits of Node; a page that is not isolated has one, and says so', async () => {
    await using model = await load(join(scratch, 'model'), { threads: 1 });
    const said = await outline(model, PROMPT, TOKENS);
    expect(said.tokens).toHaveLength(TOKENS);
    const seen = { target: expect.stringMatching(/^wasm:relaxed/), warnings: [], said };
    expect(await inBrowser([1, 2], true)).toEqual([1, 2].map((threads) => ({ ...seen, threads })));
    const warnings = [expect.stringContaining('Cross-Origin-Embedder-Policy')];
    expect(await inBrowser([1, 2], false)).toEqual([
      { ...seen, threads: 1 },
      { ...seen, threads: 1, warnings },
    ]);
  });

  test('a missing model is an error that says what to do', async () => {
    const script = `
      const { load } = await import('/dist/api/browser.js');
      await load('/nothing');
    `;
    expect(await pages.run(script)).toEqual({
      failure: expect.stringContaining('/nothing/manifest.json: status 404'),
      code: 'not-found',
      hint: expect.stringContaining('folder that lutra compile wrote'),
    });
  });
});
