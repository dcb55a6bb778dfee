import type { Io } from '../../src/cli/io.ts';

export interface FakeIo extends Io {
  readonly written: { out: string; error: string };
  /** As Ctrl-C does. */
  interrupt(): void;
  readonly abandoned: () => boolean;
}

export interface FakeIoOptions {
  readonly input?: string | Uint8Array;
  readonly inputIsTerminal?: boolean;
  readonly errorIsTerminal?: boolean;
}

/** Streams in memory. */
export function fakeIo(options: FakeIoOptions = {}): FakeIo {
  const written = { out: '', error: '' };
  const listeners = new Set<() => void>();
  const { input = '' } = options;
  let abandoned = false;
  return {
    input: (async function* () {
      yield typeof input === 'string' ? new TextEncoder().encode(input) : input;
    })(),
    inputIsTerminal: options.inputIsTerminal ?? false,
    errorIsTerminal: options.errorIsTerminal ?? false,
    out(text) {
      written.out += text;
    },
    error(text) {
      written.error += text;
    },
    onInterrupt(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    abandon() {
      abandoned = true;
    },
    written,
    abandoned: () => abandoned,
    interrupt() {
      for (const listener of listeners) listener();
    },
  };
}
