import { chmod, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type Compiler, compileC, findCompiler, findCompilers, hasCompiler } from './compile.ts';
import { emitC } from './emit.ts';
import { openLibrary } from './library.ts';
import { type Arch, C_MACHINES, machinesFor } from './machines.ts';
import { legalVariant, MIXER_INFO, mixer, withFolder, writeSource } from './testing.ts';

async function script(folder: string, name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
  return path;
}

const FAKE_VERSION = 'if [ "$1" = --version ]; then echo "fake clang 99"; exit 0; fi';

describe('finding a compiler', () => {
  test('none: says so, and what to install', async () => {
    await withFolder(async (folder) => {
      const env = { CC: join(folder, 'no-such-cc') };
      await expect(findCompiler(env)).rejects.toMatchObject({
        code: 'environment',
        message: expect.stringContaining('no-such-cc'),
        hint: expect.stringMatching(/clang|gcc/),
      });
      expect(await findCompilers(env)).toEqual([]);
      expect(await hasCompiler(env)).toBe(false);
    });
  });

  test('a program that fails is none', () =>
    withFolder(async (folder) => {
      const CC = await script(folder, 'cc', 'exit 3');
      await expect(findCompiler({ CC })).rejects.toMatchObject({ code: 'environment' });
    }));

  test('CC may be a command with arguments', () =>
    withFolder(async (folder) => {
      const wrapper = await script(folder, 'ccache', 'shift; echo "clang version 15 by $0"');
      const found = await findCompiler({ CC: `${wrapper} clang -pipe` });
      expect(found.command).toEqual([wrapper, 'clang', '-pipe']);
      expect(found.kind).toBe('clang');
      expect(found.version).toContain('clang version 15');
    }));
});

const compilerHere = await hasCompiler();

/** Whether a process exists. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function waitFor<T>(what: () => Promise<T | undefined>): Promise<T> {
  for (let i = 0; i < 500; i++) {
    const value = await what().catch(() => undefined);
    if (value !== undefined) return value;
    await sleep(20);
  }
  throw new Error('waited in vain');
}

describe('compiling', () => {
  test('an error of the compiler is passed on, and nothing is left behind', () =>
    withFolder(async (folder) => {
      const text = `${FAKE_VERSION}
echo "model.c:1:1: note: something" >&2
echo "model.c:7:3: error: unknown type name 'u9'" >&2
exit 1`;
      const compiler = await findCompiler({ CC: await script(folder, 'cc', text) });
      const source = await writeSource(folder, 'u9 x;');
      const output = join(folder, 'model.so');
      await expect(compileC({ compiler, source, output })).rejects.toMatchObject({
        code: 'environment',
        message: expect.stringContaining("model.c:7:3: error: unknown type name 'u9'"),
        hint: expect.stringContaining('fake clang 99'),
      });
      expect((await readdir(folder)).sort()).toEqual(['cc', 'model.c']);
    }));

  test.skipIf(!compilerHere)('a real compiler and an error of its own', () =>
    withFolder(async (folder) => {
      const source = await writeSource(folder, 'int f(void) { return missing; }\n');
      const output = join(folder, 'model.so');
      const compiler = await findCompiler();
      await expect(compileC({ compiler, source, output })).rejects.toThrow(/error: .*missing/);
      expect(await readdir(folder)).toEqual(['model.c']);
    }),
  );

  test.skipIf(!compilerHere)('variants compiled side by side are the library that they are in one', () =>
    withFolder(async (folder) => {
      const compiler = await findCompiler();
      const machines = C_MACHINES.filter(
        (m) => m.isa === 'scalar' || machinesFor(process.arch as Arch).includes(m),
      );
      const variants = machines.map((machine) => legalVariant(machine, mixer(2, 5)));
      const source = await writeSource(folder, emitC(variants, MIXER_INFO));
      const found = [];
      for (const count of [1, variants.length]) {
        const output = join(folder, `model-${count}.so`);
        await compileC({ compiler, source, output, variants: count });
        const library = await openLibrary(output);
        found.push([library.describe(), machines.map(({ isa }) => library.supported(isa))]);
        library.unload();
      }
      expect(found[1]).toEqual(found[0]);
      expect((await readdir(folder)).sort()).toEqual(
        ['model.c', 'model-1.so', `model-${variants.length}.so`].sort(),
      );
    }),
  );

  test.skipIf(!compilerHere)('an error in one of the parts is told, and ends the others', () =>
    withFolder(async (folder) => {
      const compiler = await findCompiler();
      const text = '#if LUTRA_PART == 2\nint f(void) { return missing; }\n#else\nint g;\n#endif\n';
      const source = await writeSource(folder, text);
      const output = join(folder, 'model.so');
      await expect(compileC({ compiler, source, output, variants: 3 })).rejects.toThrow(/error: .*missing/);
      expect(await readdir(folder)).toEqual(['model.c']);
    }),
  );

  test('the library appears only when it is complete', () =>
    withFolder(async (folder) => {
      // Writes the file named after -o in two goes.
      const text = `${FAKE_VERSION}
while [ "$1" != -o ]; do shift; done
echo half > "$2"; sleep 0.3; echo whole > "$2"`;
      const compiler = await findCompiler({ CC: await script(folder, 'cc', text) });
      const output = join(folder, 'model.so');
      const done = compileC({ compiler, source: await writeSource(folder, ''), output });
      const seen = new Set<string>();
      const watch = (async () => {
        for (let i = 0; i < 20; i++) {
          seen.add(await readFile(output, 'utf8').catch(() => 'none'));
          await sleep(20);
        }
      })();
      await done;
      await watch;
      expect([...seen].filter((text) => text !== 'none' && text !== 'whole\n')).toEqual([]);
      expect(await readFile(output, 'utf8')).toBe('whole\n');
      expect((await readdir(folder)).sort()).toEqual(['cc', 'model.c', 'model.so']);
    }));

  test('cancelling ends the compiler and its children and leaves no file', () =>
    withFolder(async (folder) => {
      const pids = join(folder, 'pids');
      const text = `${FAKE_VERSION}
sleep 100 & echo $$ $! > ${pids}; echo part > "$TMPDIR/part"; wait`;
      const compiler = await findCompiler({ CC: await script(folder, 'cc', text) });
      const cancel = new AbortController();
      const done = compileC({
        compiler,
        source: await writeSource(folder, ''),
        output: join(folder, 'model.so'),
        signal: cancel.signal,
      });
      const ended = expect(done).rejects.toMatchObject({ code: 'cancelled' });
      const running = await waitFor(async () => {
        const found = (await readFile(pids, 'utf8')).trim().split(' ').map(Number);
        return found.length === 2 ? found : undefined;
      });
      expect(running.every(isAlive)).toBe(true);
      cancel.abort();
      await ended;
      await waitFor(async () => (running.some(isAlive) ? undefined : true));
      expect((await readdir(folder)).sort()).toEqual(['cc', 'model.c', 'pids']);
    }));

  test('nothing is started when it is cancelled already', () =>
    withFolder(async (folder) => {
      const compiler: Compiler = { command: [join(folder, 'none')], kind: 'gcc', version: '' };
      const request = { compiler, source: '', output: join(folder, 'a.so'), signal: AbortSignal.abort() };
      await expect(compileC(request)).rejects.toMatchObject({ code: 'cancelled' });
      expect(await readdir(folder)).toEqual([]);
    }));

  test('a compiler that has gone since is an environment error', () =>
    withFolder(async (folder) => {
      const compiler: Compiler = { command: [join(folder, 'none')], kind: 'gcc', version: 'gone' };
      const request = { compiler, source: await writeSource(folder, ''), output: join(folder, 'a.so') };
      await expect(compileC(request)).rejects.toMatchObject({ code: 'environment' });
    }));

  test('a folder that does not exist is named', async () => {
    const compiler: Compiler = { command: ['true'], kind: 'gcc', version: '' };
    const output = '/no/such/folder/model.so';
    const request = { compiler, source: 'a.c', output };
    await expect(compileC(request)).rejects.toThrow(/cannot write to \/no\/such\/folder/);
  });
});
