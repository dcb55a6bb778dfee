import {
  type CacheHandle,
  type Executable,
  type Logits,
  MAX_SEQUENCES,
  type SelectRequest,
  type StepRequest,
} from '../targets/executable.ts';

/** Computes steps of sequences, each of which asks for one at a time. */
export interface Stepper {
  createCache(): CacheHandle;
  /** Logits, [1 or tokens.length, vocab], freshly allocated. */
  step(request: StepRequest): Promise<Float32Array>;
  /** The logits of each output; only those chosen, where that saves work. */
  stepSelected(request: SelectRequest): Promise<readonly Logits[]>;
  /** Takes back logits that nobody looks at any more and that are alone in their memory. */
  recycle?(logits: Float32Array): void;
}

/** Tokens that may share a step: a prompt's chunk, and a token each of sequences that go on beside it. */
const STEP_TOKENS = 256 + MAX_SEQUENCES;

interface Pending {
  readonly request: StepRequest | SelectRequest;
  resolve(logits: readonly Logits[]): void;
  reject(error: unknown): void;
}

/** Runs a task once whoever waits for the last step's logits has asked for the next step. */
const afterAnswers: (task: () => void) => void =
  typeof setImmediate === 'function' ? (task) => void setImmediate(task) : (task) => void setTimeout(task);

/**
 * Merges the steps of sequences that run at the same time: what is asked for while a step runs waits, and then
 * runs together, first come, first served. All sequences of a step share one sweep over the weights, which is
 * most of what a token costs; nobody's result changes by it.
 *
 * ```
 * a:  prompt ------>  token   token   token
 * b:     prompt ... ------->  token   token        columns are steps
 * ```
 */
export class StepScheduler implements Stepper {
  readonly #executable: Executable;
  readonly #maxBatch: number;
  #pending: Pending[] = [];
  #busy = false;

  /** `maxBatch`: sequences of a step, 1 to MAX_SEQUENCES. */
  constructor(executable: Executable, maxBatch = MAX_SEQUENCES) {
    this.#executable = executable;
    this.#maxBatch = maxBatch;
  }

  createCache(): CacheHandle {
    return this.#executable.createCache();
  }

  async step(request: StepRequest): Promise<Float32Array> {
    // Whoever chooses nothing is given all logits of all outputs, as one array.
    return (await this.#ask(request))[0] as Float32Array;
  }

  stepSelected(request: SelectRequest): Promise<readonly Logits[]> {
    return this.#ask(request);
  }

  recycle(logits: Float32Array): void {
    this.#executable.recycle?.(logits);
  }

  #ask(request: Pending['request']): Promise<readonly Logits[]> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ request, resolve, reject });
      if (this.#busy) return;
      this.#busy = true;
      // Not at once: others may ask in the same turn of the event loop.
      queueMicrotask(() => void this.#run());
    });
  }

  /** Takes what runs together; a sequence that asked twice gets its second turn later. */
  #take(): readonly Pending[] {
    const batch: Pending[] = [];
    const rest: Pending[] = [];
    const caches = new Set<CacheHandle>();
    let tokens = 0;
    for (const pending of this.#pending) {
      const { request } = pending;
      const fits = batch.length < this.#maxBatch && tokens + request.tokens.length <= STEP_TOKENS;
      if (batch.length === 0 || (fits && !caches.has(request.cache))) {
        batch.push(pending);
        tokens += request.tokens.length;
      } else {
        rest.push(pending);
      }
      caches.add(request.cache);
    }
    this.#pending = rest;
    return batch;
  }

  /** Where one wants all logits, all are computed for everyone. */
  async #compute(requests: readonly Pending['request'][]): Promise<readonly (readonly Logits[])[]> {
    const selects = (request: Pending['request']): request is SelectRequest => 'select' in request;
    if (requests.every(selects)) return this.#executable.stepSelected(requests);
    const logits = await this.#executable.step(requests);
    return requests.map((request, i) => {
      const all = logits[i]!;
      if (!selects(request)) return [all];
      const outputs = request.logits === 'all' ? request.tokens.length : 1;
      const vocab = all.length / outputs;
      return Array.from({ length: outputs }, (_, row) => all.subarray(row * vocab, (row + 1) * vocab));
    });
  }

  async #run(): Promise<void> {
    const batch = this.#take();
    if (batch.length === 0) {
      this.#busy = false;
      return;
    }
    try {
      const logits = await this.#compute(batch.map(({ request }) => request));
      for (const [i, { resolve }] of batch.entries()) resolve(logits[i]!);
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
    if (batch.length > 1 || this.#pending.length > 0) afterAnswers(() => void this.#run());
    else queueMicrotask(() => void this.#run());
  }
}
