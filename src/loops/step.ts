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
 * outputs    0 0 0 1 2 3 4      logits wanted of the tokens before; at the end, of all
 * sequences  [0 3 position cache] [3 5 ...] [5 6 ...]      tokens first .. end
 * ```
 */
export interface StepTables {
  readonly tokens: Int32Array;
  readonly sequences: Int32Array;
  readonly outputs: Int32Array;
  /** Rows of logits of each sequence. */
  readonly rows: readonly number[];
}

export function stepTables(sequences: readonly StepSequence[]): StepTables {
  const n = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const tokens = new Int32Array(n);
  const table = new Int32Array(sequences.length * SEQUENCE_FIELDS.length);
  const outputs = new Int32Array(n + 1);
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
  return { tokens, sequences: table, outputs, rows };
}
