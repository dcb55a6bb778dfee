/** The package as npm packs it, in a project of its own. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BuiltCli, buildCli } from './support/built-cli.ts';

const scratch = mkdtempSync(join(tmpdir(), 'lutra-package-'));
const project = join(scratch, 'project');
const readme = readFileSync('README.md', 'utf8');
let built: BuiltCli;
let files: readonly string[];

beforeAll(() => {
  built = buildCli();
  const source = join(scratch, 'source');
  for (const name of ['package.json', 'README.md', 'LICENSE', 'models']) {
    cpSync(name, join(source, name), { recursive: true });
  }
  const dist = dirname(dirname(built.main));
  cpSync(dist, join(source, 'dist'), { recursive: true });
  // As `npm start` leaves it.
  writeFileSync(join(source, 'dist', '.sources'), '');
  const out = execFileSync('npm', ['pack', '--ignore-scripts', '--json'], { cwd: source, encoding: 'utf8' });
  const [packed] = JSON.parse(out) as [{ filename: string; files: { path: string }[] }];
  files = packed.files.map(({ path }) => path);
  const modules = join(project, 'node_modules');
  mkdirSync(join(modules, '@types'), { recursive: true });
  execFileSync('tar', ['xzf', join(source, packed.filename), '-C', scratch]);
  cpSync(join(scratch, 'package'), join(modules, 'lutra'), { recursive: true });
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  for (const name of [...Object.keys(dependencies), '@types/node', 'undici-types']) {
    const place = join(modules, name);
    mkdirSync(dirname(place), { recursive: true });
    if (!existsSync(place)) symlinkSync(join(process.cwd(), 'node_modules', name), place);
  }
  writeFileSync(join(project, 'package.json'), '{"type":"module"}');
});
afterAll(() => {
  built?.remove();
  rmSync(scratch, { recursive: true, force: true });
});

test('has code, types, the embedded model and nothing of development', () => {
  expect(files).toContain('dist/index.d.ts');
  expect(files).toContain('dist/api/browser.d.ts');
  expect(files).toContain('models/tiny-bitnet/model.safetensors');
  const expected = /^(dist\/.*\.(js|d\.ts)|models\/tiny-bitnet\/.*|package\.json|README\.md|LICENSE)$/;
  expect(files.filter((path) => !expected.test(path) || /\btest(ing|s)?\b(?<!self-test)/.test(path))).toEqual(
    [],
  );
});

/** The first block of code of a language in a text. */
function block(language: string, text: string): string {
  return new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(text)?.[1] ?? '';
}

/** Checks modules of the project, and all types that they see. */
function typeErrors(files: readonly string[], compilerOptions: Readonly<Record<string, unknown>>): string {
  const strict = {
    noEmit: true,
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
  };
  const config = { compilerOptions: { ...strict, target: 'es2022', ...compilerOptions }, files };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify(config));
  const tsc = join(process.cwd(), 'node_modules', 'typescript', 'bin', 'tsc');
  return spawnSync(process.execPath, [tsc, '-p', '.'], { cwd: project, encoding: 'utf8' }).stdout;
}

test('type-checks the examples of the documents, as Node resolves and without its types as bundlers do', () => {
  const example = block('ts', readme);
  expect(example).toContain("from 'lutra'");
  writeFileSync(join(project, 'example.ts'), example);
  const page = block('js', readFileSync('docs/browser.md', 'utf8'));
  expect(page).toContain("from 'lutra/browser'");
  writeFileSync(join(project, 'page.ts'), `declare function show(piece: string): void;\n${page}`);
  const lib = ['es2022', 'esnext.disposable'];
  expect(typeErrors(['example.ts'], { module: 'nodenext', types: ['node'], lib })).toBe('');
  const bundled = { module: 'esnext', moduleResolution: 'bundler' };
  expect(typeErrors(['page.ts'], { ...bundled, types: [], lib: ['es2022', 'dom', 'dom.iterable'] })).toBe('');
});

test('runs the embedded model', () => {
  const code = `
    import { load } from 'lutra';
    const model = await load('embedded', { target: 'wasm:baseline' });
    const { text } = await model.createSession().generate('What is 4 + 106?').result;
    await model.dispose();
    console.log(text);`;
  writeFileSync(join(project, 'run.js'), code);
  const env = { ...process.env, LUTRA_CACHE: join(scratch, 'cache') };
  const out = execFileSync(process.execPath, ['run.js'], { cwd: project, env, encoding: 'utf8' });
  expect(out).toBe('4 + 106 = 110\n');
});
