/** Ctrl-C at any moment: code 130, nothing half-finished stays, no process stays. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltCli, buildCli, finished, readFrom } from './support/built-cli.ts';

let cli: BuiltCli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

const onLinux = process.platform === 'linux';
const hasCompiler = spawnSync('cc', ['--version'], { stdio: 'ignore' }).status === 0;

/** Command lines of processes that have the test's folder in their environment: ours and what they started. */
function remaining(): string[] {
  const found: string[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'utf8').includes(cli.scratch)) continue;
      found.push(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim());
    } catch {
      // It has ended.
    }
  }
  return found;
}

/** A killed child's entry may outlive the parent by a moment. */
async function expectNothingRuns(): Promise<void> {
  for (let tries = 0; tries < 50 && remaining().length > 0; tries++) await sleep(100);
  expect(remaining()).toEqual([]);
}

describe.skipIf(!onLinux)('Ctrl-C', () => {
  it.each([
    ['while Node starts', 0],
    ['soon', 400],
    ['later', 900],
    ['late', 1800],
  ])('ends a compilation %s', async (_, delay) => {
    const folder = join(cli.scratch, `compile-${delay}`);
    const target = hasCompiler ? 'c' : 'wasm';
    const child = cli.start(['compile', '-o', join(folder, 'out'), '--target', target]);
    const end = finished(child);
    await sleep(delay);
    child.kill('SIGINT');
    const { code, signal, error } = await end;
    // Before the program has begun, the signal ends Node itself; on a fast machine everything may be done.
    if (signal === null) expect([130, 0]).toContain(code);
    else expect({ signal, error }).toEqual({ signal: 'SIGINT', error: '' });
    if (code === 130) expect(error).toMatch(/^lutra: .*cancelled\n$/);
    if (code !== 0) expect(existsSync(folder)).toBe(false);
    await expectNothingRuns();
  });

  it.skipIf(!hasCompiler)('ends a C compiler that is running', async () => {
    const folder = join(cli.scratch, 'compiling');
    const child = cli.start(['compile', '-o', join(folder, 'out'), '--target', 'c']);
    const end = finished(child);
    // The compiler's processes name the folder they write to.
    const compiling = () =>
      remaining().some((line) => /-shared|cc1|model\.c/.test(line) && !line.includes('main.js'));
    while (!compiling() && child.exitCode === null) await sleep(20);
    child.kill('SIGINT');
    expect((await end).code).toBe(130);
    expect(existsSync(folder)).toBe(false);
    await expectNothingRuns();
  });

  it('ends an answer with what there is of it', async () => {
    const args = [
      'run',
      'embedded',
      'Long ago, ',
      '--raw',
      '--target',
      'wasm',
      '-t',
      '2',
      '--temperature',
      '1',
    ];
    // No end of text in sight: a penalty below 1 makes it repeat itself.
    const child = cli.start([...args, '--repetition-penalty', '0.1', '--seed', '1']);
    const end = finished(child);
    await readFrom(child).until(/\w/);
    child.kill('SIGINT');
    const { code, out, error } = await end;
    expect(out.length).toBeGreaterThan(1);
    expect(error).toBe(code === 0 ? '' : 'lutra: cancelled\n');
    expect([130, 0]).toContain(code);
    await expectNothingRuns();
  });

  it('ends a benchmark and its measuring process', async () => {
    const child = cli.start(['bench', '-p', '256', '-n', '200', '-r', '100000', '--target', 'wasm']);
    const end = finished(child);
    while (!remaining().some((line) => line.includes('bench/child.js')) && child.exitCode === null)
      await sleep(20);
    await sleep(500);
    child.kill('SIGINT');
    expect(await end).toMatchObject({ code: 130, out: '', error: 'lutra: cancelled\n' });
    await expectNothingRuns();
  });

  it('ends the writing of a synthetic checkpoint and removes it', async () => {
    const folder = join(cli.scratch, 'synth');
    const child = cli.start(['synth', 'bitnet-2b-4t', '-o', folder]);
    const end = finished(child);
    while (!(existsSync(folder) && readdirSync(folder).some((name) => name.endsWith('.partial'))))
      await sleep(20);
    child.kill('SIGTERM');
    expect((await end).code).toBe(130);
    expect(existsSync(folder)).toBe(false);
    await expectNothingRuns();
  });

  it('ends piped chat', async () => {
    const child = spawn(process.execPath, [cli.main, 'chat', '--target', 'wasm', '-t', '1'], {
      env: { ...process.env, LUTRA_CACHE: join(cli.scratch, 'cache') },
    });
    const end = finished(child);
    child.stdin.write('What is 4 + 106?\n');
    await readFrom(child).until(/110/);
    child.kill('SIGINT');
    expect((await end).code).toBe(130);
    await expectNothingRuns();
  });
});

const hasScript = onLinux && spawnSync('script', ['--version'], { stdio: 'ignore' }).status === 0;

/** A chat on a pseudo-terminal, which `script` makes. */
function chatOnTerminal(...options: string[]): ChildProcess {
  const words = [process.execPath, cli.main, 'chat', '--target', 'wasm', '-t', '1', ...options];
  const command = words.map((word) => `'${word}'`).join(' ');
  return spawn('script', ['-qefc', command, '/dev/null'], {
    env: { ...process.env, LUTRA_CACHE: join(cli.scratch, 'cache'), TERM: 'xterm' },
  });
}

describe.skipIf(!hasScript)('chat on a terminal', () => {
  it('answers, keeps a history, and leaves on the second Ctrl-C', async () => {
    const child = chatOnTerminal('--temperature', '0');
    const end = finished(child);
    const screen = readFrom(child);
    const type = (text: string) => child.stdin?.write(text);
    await screen.until(/tiny-bitnet on wasm/);
    await screen.until(/> /);
    type('What is 4 + 106?\r');
    await screen.until(/\n4 \+ 106 = 110\r\n/);
    await screen.until(/> /);
    // On a line with text Ctrl-C empties the line only.
    type('unfinished');
    await screen.until(/d/);
    type('\x03');
    await screen.until(/> /);
    type('\x03');
    await screen.until(/Ctrl-C again/);
    await screen.until(/> /);
    // The arrow brings the last line back.
    type('\x1b[A\r');
    await screen.until(/\n4 \+ 106 = 110\r\n/);
    await screen.until(/> /);
    type('\x03');
    await screen.until(/Ctrl-C again/);
    await screen.until(/> /);
    type('\x03');
    expect((await end).code).toBe(0);
    const history = readFileSync(join(cli.scratch, 'cache', 'chat-history'), 'utf8');
    expect(history).toBe('What is 4 + 106?\nWhat is 4 + 106?\n');
    await expectNothingRuns();
  });

  it('stops an answer on Ctrl-C and goes on', async () => {
    const child = chatOnTerminal('--temperature', '1', '--repetition-penalty', '0.1', '--seed', '1');
    const end = finished(child);
    const screen = readFrom(child);
    await screen.until(/> /);
    child.stdin?.write('Tell me a story.\r');
    await screen.until(/story\.[\r\n]+\w/);
    child.stdin?.write('\x03');
    // On a fast machine the context may be full before.
    await screen.until(/\(stopped\)|context is full|Ctrl-C again/);
    await screen.until(/> /);
    child.stdin?.write('/exit\r');
    expect((await end).code).toBe(0);
    await expectNothingRuns();
  });
});
