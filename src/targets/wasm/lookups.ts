/**
 * Tables of which a step reads only the rows that its tokens name: embeddings. They are most of a small model's
 * bytes, and of a conversation few of their rows are ever read, so rows come from the file when they are wanted.
 */
import type { LookupTable } from '../executable.ts';

export interface Stretch {
  readonly offset: number;
  readonly bytes: number;
}

/** What of `bytes` bytes of weights lies outside the tables. */
export function outside(tables: readonly LookupTable[], bytes: number): readonly Stretch[] {
  const stretches: Stretch[] = [];
  let from = 0;
  const until = (end: number) => {
    if (end > from) stretches.push({ offset: from, bytes: end - from });
  };
  for (const table of [...tables].sort((a, b) => a.offset - b.offset)) {
    until(table.offset);
    from = table.offset + table.bytes;
  }
  until(bytes);
  return stretches;
}

/**
 * Gives a function that makes the rows of tokens be in memory: `load` gets each row once, several at a time. A row
 * that could not be loaded is tried again the next time.
 */
export function rowLoader(
  tables: readonly LookupTable[],
  load: (stretch: Stretch) => Promise<void>,
): (tokens: Iterable<number>) => Promise<void> {
  const present = new Set<number>();
  return async (tokens) => {
    if (tables.length === 0) return;
    const missing = new Set([...tokens].filter((token) => !present.has(token)));
    const loadRow = async (token: number) => {
      for (const { offset, rowBytes } of tables) {
        await load({ offset: offset + token * rowBytes, bytes: rowBytes });
      }
      present.add(token);
    };
    await Promise.all([...missing].map(loadRow));
  };
}
