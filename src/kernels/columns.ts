import { add, int } from '../loops/expr.ts';
import { fixedKernel } from './fixed.ts';
import { forPieces, LANES, rowStart, threadPairs } from './lanes.ts';

/** Widths of what is put side by side; c may be 0. */
export type ColumnsShape = { readonly a: number; readonly b: number; readonly c: number };

/** Rows side by side: the columns of a, then those of b, then those of c. */
export const columns = fixedKernel<ColumnsShape>('columns', (builder, widths) => {
  const names = widths.c === 0 ? (['a', 'b'] as const) : (['a', 'b', 'c'] as const);
  const parts = names.map((name) => ({ k: widths[name], x: builder.buffer(name, 'f32', 'read') }));
  const out = builder.buffer('out', 'f32', 'write');
  const n = builder.scalar('n');
  const width = parts.reduce((sum, { k }) => sum + k, 0);
  threadPairs(builder, n, 1, (token) => {
    const to = rowStart(builder, token, width);
    let start = 0;
    for (const { k, x } of parts) {
      const from = rowStart(builder, token, k);
      const first = int(start);
      forPieces(builder, k, LANES, (i, lanes) => {
        builder.store(out, add(add(to, first), i), builder.load(x, add(from, i), lanes));
      });
      start += k;
    }
  });
});
