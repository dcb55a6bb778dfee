import { LutraError } from '../common/errors.ts';
import type { ChatMessage, GenerateOptions, GenerationResult, Model, Session } from '../runtime/types.ts';
import { speed } from './speed.ts';

/** What the user did at the prompt. */
export type Entry =
  | { readonly kind: 'line'; readonly text: string }
  /** Ctrl-C on an empty line. */
  | { readonly kind: 'interrupt' }
  /** Ctrl-D, or the end of piped input. */
  | { readonly kind: 'end' };

export interface Terminal {
  read(): Promise<Entry>;
  write(text: string): void;
  /** Calls `listener` on a Ctrl-C while nothing is read; returns how to stop listening. */
  onInterrupt(listener: () => void): () => void;
}

const HELP = `/help           this list
/reset          forget the conversation
/system TEXT    start anew with TEXT as the system message; without TEXT, with none
/stats          speed of the last answer and what the context holds
/exit           leave; so do Ctrl-D, and Ctrl-C twice
Ctrl-C stops an answer. A message that begins with a slash is written with two.
`;

/** A conversation with a person until they leave. */
export async function chat(
  terminal: Terminal,
  model: Model,
  options: GenerateOptions,
  system?: string,
): Promise<void> {
  await using session = model.createSession();
  const start = (text: string | undefined): ChatMessage[] =>
    text === undefined ? [] : [{ role: 'system', content: text }];
  let instruction = system;
  let messages = start(instruction);
  let last: GenerationResult | undefined;
  let warned = false;

  for (;;) {
    const entry = await terminal.read();
    if (entry.kind === 'end') return;
    if (entry.kind === 'interrupt') {
      if (warned) return;
      warned = true;
      terminal.write('(Ctrl-C again or Ctrl-D leaves)\n');
      continue;
    }
    warned = false;
    const line = entry.text.trim();
    if (line === '') continue;
    if (!line.startsWith('/') || line.startsWith('//')) {
      const question: ChatMessage = { role: 'user', content: line.startsWith('//') ? line.slice(1) : line };
      const answered = await answer(terminal, session, [...messages, question], options);
      if (answered === undefined) continue;
      last = answered;
      // An answer that was stopped before its first word leaves no trace.
      if (last.text !== '') messages = [...messages, question, { role: 'assistant', content: last.text }];
      continue;
    }
    const [command, ...words] = line.split(/\s+/);
    if (command === '/exit') return;
    if (command === '/help') terminal.write(HELP);
    else if (command === '/stats') terminal.write(stats(model, session, last));
    else if (command === '/reset' || command === '/system') {
      if (command === '/system') instruction = words.length === 0 ? undefined : words.join(' ');
      messages = start(instruction);
      session.rewind(0);
      terminal.write('(a new conversation)\n');
    } else terminal.write(`(there is no ${command}: /help lists what there is)\n`);
  }
}

/** Streams one answer; undefined when it could not be given, and why was said. */
async function answer(
  terminal: Terminal,
  session: Session,
  messages: readonly ChatMessage[],
  options: GenerateOptions,
): Promise<GenerationResult | undefined> {
  const controller = new AbortController();
  const outer = options.signal;
  const signal = outer === undefined ? controller.signal : AbortSignal.any([outer, controller.signal]);
  const stopListening = terminal.onInterrupt(() => controller.abort());
  try {
    const generation = session.generate(messages, { ...options, signal });
    for await (const piece of generation) terminal.write(piece);
    const result = await generation.result;
    terminal.write(ENDINGS[result.finishReason]);
    if (outer?.aborted) throw new LutraError('cancelled', 'cancelled');
    return result;
  } catch (error) {
    if (!(error instanceof LutraError) || error.code === 'cancelled') throw error;
    terminal.write(`(${error.message}${error.code === 'usage' ? '; /reset starts anew' : ''})\n`);
    return undefined;
  } finally {
    stopListening();
  }
}

const ENDINGS: Readonly<Record<GenerationResult['finishReason'], string>> = {
  stop: '\n',
  length: ' ...\n',
  context: '\n(the context is full: /reset starts anew)\n',
  cancelled: ' ... (stopped)\n',
};

function stats(model: Model, session: Session, last: GenerationResult | undefined): string {
  const place = `${model.name} on ${model.target}, ${model.threads} threads`;
  const room = `context: ${session.position} of ${model.context} tokens`;
  return `${place}\n${room}\n${last === undefined ? '' : `last answer: ${speed(last)}\n`}`;
}
