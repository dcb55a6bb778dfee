import { add, cast } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forGroups, LANES, rowStart } from './lanes.ts';

export type EmbeddingShape = { readonly hidden: number; readonly elem: 'bf16' | 'f16' | 'f32' };

/** Rows of a table by token id. Ids must be below the table's rows: the runtime checks them. */
export const embedding = fixedKernel<EmbeddingShape>('embedding', (b, { hidden, elem }) => {
  const tokens = b.buffer('tokens', 'i32', 'read');
  const table = b.buffer('table', elem, 'read');
  const out = b.buffer('out', 'f32', 'write');
  const n = b.scalar('n');
  b.thread('token', n, (token) => {
    const from = rowStart(b, b.let('id', b.load(tokens, token)), hidden);
    const to = rowStart(b, token, hidden);
    forGroups(b, hidden, (at) => {
      b.store(out, add(to, at), cast(b.load(table, add(from, at), LANES), 'f32'));
    });
  });
});
