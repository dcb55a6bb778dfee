/** What a forward step is to compute, in the form in which `main` is told. */

/** A sequence's part in a step. */
export interface StepSequence {
  readonly tokens: Int32Array;
  /** Absolute position of the first token. */
  readonly position: number;
  /** Where its KV cache begins in the memory of all caches, in lines of 64 bytes. */
  readonly cache: number;
  /** Whose logits are wanted. */
  readonly logits: 'last' | 'all';
}

/** Words of a sequence in `StepTables.sequences`, in this order. */
export const SEQUENCE_FIELDS = ['first', 'end', 'position', 'cache'] as const;

/**
 * The tables of a step. Here one with three sequences, the logits wanted of the last token of the first, of
 * all of the second, and of the third's only one:
 *
 * ```
 * tokens     a a a b b c
 * outputs    0 0 0 1 2 3 4 0    logits wanted of the tokens before; then, of all; then 1 to scan for bounds
 * sequences  [0 3 position cache] [3 5 ...] [5 6 ...]      tokens first .. end
 * ```
 */
export interface StepTables {
  /** Number of tokens. */
  readonly n: number;
  /** Number of sequences. */
  readonly count: number;
  readonly tokens: Int32Array;
  readonly sequences: Int32Array;
  readonly outputs: Int32Array;
  /** Rows of logits of each sequence. */
  readonly rows: readonly number[];
}

/** `scan`: bounds of the logits are wanted instead, in a program that has them. */
export function stepTables(sequences: readonly StepSequence[], scan = false): StepTables {
  const n = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const tokens = new Int32Array(n);
  const table = new Int32Array(sequences.length * SEQUENCE_FIELDS.length);
  const outputs = new Int32Array(n + 2);
  let at = 0;
  let wanted = 0;
  const rows = sequences.map((sequence, i) => {
    const before = wanted;
    const end = at + sequence.tokens.length;
    table.set([at, end, sequence.position, sequence.cache], i * SEQUENCE_FIELDS.length);
    tokens.set(sequence.tokens, at);
    for (; at < end; at++) {
      outputs[at] = wanted;
      if (sequence.logits === 'all' || at === end - 1) wanted++;
    }
    return wanted - before;
  });
  outputs[n] = wanted;
  outputs[n + 1] = scan ? 1 : 0;
  return { n, count: sequences.length, tokens, sequences: table, outputs, rows };
}

/**
 * The tables of a step without tokens, which computes single logits of the step before: `tokens` has the pairs,
 * [output, row of the table] each, and `count`, the number of sequences otherwise, is theirs.
 */
export function pairTables(pairs: Int32Array): StepTables {
  const count = pairs.length / 2;
  return { n: 0, count, tokens: pairs, sequences: new Int32Array(1), outputs: new Int32Array(2), rows: [] };
}
