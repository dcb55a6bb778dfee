import { describe, expect, it } from 'vitest';
import { type FakeModelOptions, fakeModel } from '../../test/support/fake-model.ts';
import { LutraError } from '../common/errors.ts';
import type { ChatMessage } from '../runtime/types.ts';
import { chat, type Entry, type Terminal } from './chat-loop.ts';

interface Scripted extends Terminal {
  readonly written: () => string;
  interrupt(): void;
  /** Entries that were never read. */
  readonly left: Entry[];
}

/** A person who types these lines; `^C` stands for Ctrl-C on an empty line. */
function person(...lines: readonly string[]): Scripted {
  const left: Entry[] = lines.map((text) => (text === '^C' ? { kind: 'interrupt' } : { kind: 'line', text }));
  const listeners = new Set<() => void>();
  let written = '';
  return {
    read: async () => {
      written += '> ';
      return left.shift() ?? { kind: 'end' };
    },
    write: (text) => {
      written += text;
    },
    onInterrupt: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    interrupt: () => {
      for (const listener of listeners) listener();
    },
    written: () => written,
    left,
  };
}

function talk(options: FakeModelOptions = {}) {
  const seen: (readonly ChatMessage[])[] = [];
  const model = fakeModel({
    ...options,
    answer: (messages, given) => {
      seen.push(messages);
      return options.answer?.(messages, given) ?? `answer ${seen.length}`;
    },
  });
  return { model, seen };
}

const user = (content: string) => ({ role: 'user', content });
const assistant = (content: string) => ({ role: 'assistant', content });

describe('chat', () => {
  it('remembers the conversation until it is reset', async () => {
    const { model, seen } = talk();
    const terminal = person('one', '  ', 'two ', '/reset', 'three');
    await chat(terminal, model, {});
    expect(seen).toEqual([[user('one')], [user('one'), assistant('answer 1'), user('two')], [user('three')]]);
    expect(terminal.written()).toBe('> answer 1\n> > answer 2\n> (a new conversation)\n> answer 3\n> ');
    expect(model.openSessions()).toBe(0);
  });

  it('sets, keeps and drops the system message', async () => {
    const { model, seen } = talk();
    await chat(person('a', '/system Be  brief', 'b', '/reset', 'c', '/system', 'd'), model, {}, 'Old.');
    const system = (content: string) => ({ role: 'system', content });
    expect(seen).toEqual([
      [system('Old.'), user('a')],
      [system('Be brief'), user('b')],
      [system('Be brief'), user('c')],
      [user('d')],
    ]);
  });

  it('stops an answer on Ctrl-C and goes on', async () => {
    const terminal = person('tell', 'more');
    let pieces = 0;
    const { model, seen } = talk({
      answer: () => 'a long story',
      onPiece: () => {
        if (++pieces === 7) terminal.interrupt();
      },
    });
    await chat(terminal, model, {});
    expect(terminal.written()).toBe('> a long ... (stopped)\n> a long story\n> ');
    expect(seen[1]).toEqual([user('tell'), assistant('a long'), user('more')]);
  });

  it('forgets a question whose answer was stopped before it began', async () => {
    const terminal = person('tell', 'more');
    let first = true;
    const { model, seen } = talk({
      onPiece: () => {
        if (first) terminal.interrupt();
        first = false;
      },
    });
    await chat(terminal, model, {});
    expect(seen[1]).toEqual([user('more')]);
  });

  it('leaves on the second Ctrl-C in a row, on /exit and at the end of input', async () => {
    const { model, seen } = talk();
    const twice = person('^C', 'hi', '^C', '^C', 'never');
    await chat(twice, model, {});
    expect(twice.left).toHaveLength(1);
    expect(seen).toHaveLength(1);
    const exit = person('/exit', 'never');
    await chat(exit, model, {});
    expect(exit.left).toHaveLength(1);
    await chat(person(), model, {});
  });

  it('helps, gives statistics, and knows what is no command', async () => {
    const terminal = person('/help', '/stats', 'hi', '/stats', '/dance', '//path');
    const { model, seen } = talk();
    await chat(terminal, model, {});
    const text = terminal.written();
    for (const command of ['/help', '/reset', '/system', '/stats', '/exit']) expect(text).toContain(command);
    expect(text).toContain('fake on fake:scalar, 1 threads\ncontext: 0 of 128 tokens\n');
    expect(text).toContain(
      'last answer: 5 prompt tokens in 0.50 s (10.0/s), 8 new tokens in 0.25 s (32.0/s)',
    );
    expect(text).toContain('(there is no /dance: /help lists what there is)');
    expect(seen[1]!.at(-1)).toEqual(user('/path'));
  });

  it('says why there is no answer and goes on, but does not hide defects', async () => {
    let fail: Error | undefined = new LutraError('usage', 'the prompt has 200 tokens; the context holds 128');
    const { model, seen } = talk({
      answer: () => {
        if (fail !== undefined) throw fail;
        return 'fine';
      },
    });
    const terminal = person('long', 'short');
    const reading = terminal.read;
    terminal.read = async () => {
      const entry = await reading();
      if (entry.kind === 'line' && entry.text === 'short') fail = undefined;
      return entry;
    };
    await chat(terminal, model, {});
    expect(terminal.written()).toContain(
      '(the prompt has 200 tokens; the context holds 128; /reset starts anew)',
    );
    expect(seen.at(-1)).toEqual([user('short')]);
    fail = new TypeError('broken');
    await expect(chat(person('x'), model, {})).rejects.toThrow('broken');
  });

  it('ends with the whole program', async () => {
    const controller = new AbortController();
    const { model } = talk({ onPiece: () => controller.abort() });
    await expect(chat(person('x', 'y'), model, { signal: controller.signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
  });
});
