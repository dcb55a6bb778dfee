import { LutraError } from '../common/errors.ts';
import { GuessCosts } from '../runtime/guess-policy.ts';
import { StepScheduler } from '../runtime/scheduler.ts';
import { Sequence } from '../runtime/sequence.ts';
import type { Model, Session } from '../runtime/types.ts';
import type { Executable } from '../targets/executable.ts';
import { isGreedy } from '../text/sampling-options.ts';
import type { TextSource } from '../text/source.ts';
import { type ChatTemplate, createChatTemplate } from '../text/template.ts';
import { createTokenizer, type Tokenizer } from '../text/tokenizer.ts';
import { ModelSession, type SessionModel } from './session.ts';

/** Facts of a loaded model that are not the executable's. */
export interface ModelFacts {
  readonly name: string;
  readonly context: number;
  readonly vocab: number;
  /** Whether the output head is `exact`. */
  readonly scans: boolean;
  readonly text: TextSource;
}

/** A program on a device with its texts; owns the executable. */
export class LoadedModel implements Model, SessionModel {
  readonly #executable: Executable;
  readonly #scheduler: StepScheduler;
  readonly #facts: ModelFacts;
  readonly #sessions = new Set<ModelSession>();
  readonly guessCosts = new GuessCosts();
  #tokenizer: Tokenizer | undefined;
  #template: ChatTemplate | undefined;
  #disposed = false;

  /** `maxBatch`: sessions that may share a step. */
  constructor(executable: Executable, facts: ModelFacts, maxBatch?: number) {
    this.#executable = executable;
    this.#scheduler = new StepScheduler(executable, maxBatch);
    this.#facts = facts;
  }

  get name(): string {
    return this.#facts.name;
  }

  get target(): string {
    return this.#executable.target;
  }

  get threads(): number {
    return this.#executable.threads;
  }

  get context(): number {
    return this.#facts.context;
  }

  get vocab(): number {
    return this.#facts.vocab;
  }

  get scans(): boolean {
    return this.#facts.scans;
  }

  get generationConfig(): Readonly<Record<string, unknown>> {
    return this.#facts.text.generationConfig;
  }

  /** Made when first needed: benchmarks run models that have none. */
  get tokenizer(): Tokenizer {
    this.#tokenizer ??= createTokenizer(this.#facts.text);
    return this.#tokenizer;
  }

  template(): ChatTemplate {
    this.#template ??= createChatTemplate(this.#facts.text);
    return this.#template;
  }

  get endOfText(): number | undefined {
    return this.tokenizer.endOfText;
  }

  get greedy(): boolean {
    return isGreedy(this.generationConfig);
  }

  createSession(): Session {
    if (this.#disposed) throw new LutraError('usage', `the model ${this.name} was disposed`);
    const sequence = new Sequence(this.#scheduler, this.context, this.vocab);
    const session = new ModelSession(this, sequence, (ended) => this.#sessions.delete(ended));
    this.#sessions.add(session);
    return session;
  }

  tokenize(text: string): readonly number[] {
    return this.tokenizer.encode(text);
  }

  detokenize(ids: readonly number[]): string {
    return this.tokenizer.decode(ids);
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const session of this.#sessions) await session.dispose();
    await this.#executable.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
