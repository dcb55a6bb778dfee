import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import type { Entry, Terminal } from './chat-loop.ts';

const HISTORY_LINES = 500;

export interface OpenTerminal extends Terminal, Disposable {}

/**
 * A terminal with line editing and a history that outlives the program; of piped input, its lines. What is
 * typed while an answer is written is kept unseen and comes up with the next prompt.
 */
export function openTerminal(historyFile: string): OpenTerminal {
  const interactive = process.stdin.isTTY === true && process.stdout.isTTY === true;
  let muted = true;
  const output = new Writable({
    write(chunk, encoding, done) {
      if (!muted) process.stdout.write(chunk, encoding);
      done();
    },
  });
  // The line editor wraps lines by the width of its output.
  Object.defineProperty(output, 'columns', { get: () => process.stdout.columns });
  const onResize = () => output.emit('resize');
  process.stdout.on('resize', onResize);

  const lines = createInterface({
    input: process.stdin,
    output,
    terminal: interactive,
    history: interactive ? loadHistory(historyFile) : [],
    historySize: HISTORY_LINES,
    removeHistoryDuplicates: true,
    prompt: '> ',
  });
  const queue: Entry[] = [];
  let waiting: ((entry: Entry) => void) | undefined;
  let closed = false;
  let stopping = false;
  const interrupts = new Set<() => void>();

  const enter = (entry: Entry) => {
    if (waiting === undefined) {
      queue.push(entry);
      return;
    }
    const resolve = waiting;
    waiting = undefined;
    muted = true;
    resolve(entry);
  };
  lines.on('line', (text) => {
    if (interactive && text.trim() !== '') saveLine(historyFile, text);
    enter({ kind: 'line', text });
  });
  lines.on('close', () => {
    if (interactive && waiting !== undefined) process.stdout.write('\n');
    closed = true;
    enter({ kind: 'end' });
  });
  lines.on('SIGINT', () => {
    if (waiting === undefined) {
      // The first stops the answer; where that takes long, the next is one for the whole program.
      if (stopping) process.kill(process.pid, 'SIGINT');
      else for (const listener of interrupts) listener();
      stopping = true;
    } else if (lines.line === '') {
      process.stdout.write('\n');
      enter({ kind: 'interrupt' });
    } else {
      lines.write(null, { ctrl: true, name: 'e' });
      lines.write(null, { ctrl: true, name: 'u' });
    }
  });

  return {
    read() {
      stopping = false;
      const early = queue.shift();
      if (early !== undefined) {
        if (interactive && early.kind === 'line') process.stdout.write(`> ${early.text}\n`);
        return Promise.resolve(early);
      }
      if (closed) return Promise.resolve({ kind: 'end' });
      return new Promise((resolve) => {
        waiting = resolve;
        if (!interactive) return;
        muted = false;
        lines.prompt(true);
      });
    },
    write: (text) => void process.stdout.write(text),
    onInterrupt(listener) {
      interrupts.add(listener);
      return () => interrupts.delete(listener);
    },
    [Symbol.dispose]() {
      lines.close();
      process.stdout.off('resize', onResize);
    },
  };
}

/** Newest first, as the line editor wants it; empty where there is none to read. */
function loadHistory(file: string): string[] {
  let stored: string[];
  try {
    stored = readFileSync(file, 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
  const kept = stored.slice(-HISTORY_LINES);
  if (stored.length > 2 * HISTORY_LINES) tryWrite(() => writeFileSync(file, `${kept.join('\n')}\n`));
  return kept.reverse();
}

function saveLine(file: string, text: string): void {
  tryWrite(() => {
    mkdirSync(dirname(file), { recursive: true });
    // Prompts are private.
    appendFileSync(file, `${text}\n`, { mode: 0o600 });
  });
}

/** A history that cannot be written is no reason to stop a conversation. */
function tryWrite(write: () => void): void {
  try {
    write();
  } catch {
    // Nothing to do.
  }
}
