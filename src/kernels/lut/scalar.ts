import { range } from '../../common/math.ts';
import type { FunctionBuilder } from '../../loops/builder.ts';
import { add, and, cast, float, int, mul, shift, sub } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { lineOfColumn, PLANE_BYTES, TILE_ROWS, tileBytes } from '../group/bit-planes.ts';
import { joinPlanes, planesOf, storeResult, tokenStride } from '../group/shape.ts';
import { sumGroups } from '../group/sums.ts';
import { rowStride } from '../kernel.ts';
import type { LutParams } from './gemv.ts';
import type { LutShape } from './shape.ts';
import { BASE_BITS, ENTRIES, EXACT_BIAS, QUAD, tableBytes } from './tables.ts';

/** Columns of a byte of weights. */
const COLUMNS = 8;

interface Products {
  readonly b: FunctionBuilder;
  readonly p: LutParams;
  readonly shape: LutShape;
  /** Where the codes' lowest bits are, and the activations. */
  readonly from: Expr;
  readonly x: Expr;
  /** Of the planes of activations. */
  readonly dots: readonly Expr[];
}

/** Adds the products of 8 columns. */
function addProducts({ b, p, shape: { k, bits }, from, x, dots }: Products): void {
  const bytes = range(bits).map((plane) =>
    b.let('byte', cast(b.load(p.weight, add(from, plane * PLANE_BYTES)), 'i32')),
  );
  const codes = range(COLUMNS).map((column) =>
    b.let(
      'code',
      bytes
        .map((byte, plane) => shift('left', and(shift('right', byte, column), 1), plane))
        .reduce((code, bit) => add(code, bit)),
    ),
  );
  for (const [plane, dot] of dots.entries()) {
    const products = codes.map((code, column) =>
      mul(code, cast(b.load(p.q, add(x, plane * rowStride(k) + column)), 'i32')),
    );
    b.set(
      dot,
      products.reduce((sum, product) => add(sum, product), dot),
    );
  }
}

/**
 * Exact products without vectors, in little code: a row at a time, entries loaded from memory, or in batch `many` the
 * activations.
 */
export function writeLutScalar(b: FunctionBuilder, p: LutParams, shape: LutShape): void {
  const { m, k, bits } = shape;
  const entryBytes = (2 * ENTRIES) / QUAD;
  b.thread('tile', rowStride(m) / TILE_ROWS, (tile) => {
    b.for('token', 0, p.n, 1, (token) => {
      const table = b.let('table', mul(token, tableBytes(shape)));
      const x = b.let('x', mul(token, tokenStride(shape)));
      b.for('inTile', 0, TILE_ROWS, 1, (inTile) => {
        const row = b.let('row', add(mul(tile, TILE_ROWS), inTile));
        const inUnit = add(mul(and(inTile, 7), 2), and(shift('right', inTile, 3), 1));
        const start = b.let('start', add(mul(tile, tileBytes(shape)), add(and(inTile, 48), inUnit)));
        const total = b.var('total', float(0));
        const totals = { get: () => total, set: (_: number, value: Expr) => b.set(total, value) };
        const place = { rows: 1, tokens: 1, token, row };
        sumGroups(b, p, shape, place, totals, (column, width) => {
          const dots = range(planesOf(shape)).map(() => b.var('dot', int(0)));
          b.for('k', 0, width, COLUMNS, (offset) => {
            const at = b.let('at', add(column, offset));
            const from = b.let('from', add(start, lineOfColumn(at, bits)));
            if (shape.batch === 'many') {
              addProducts({ b, p, shape, from, x: add(x, at), dots });
              return;
            }
            for (const weightPlane of range(bits)) {
              const byte = b.let('byte', cast(b.load(p.weight, add(from, weightPlane * PLANE_BYTES)), 'i32'));
              for (const [half, nibble] of [and(byte, 15), shift('right', byte, 4)].entries()) {
                const quad = b.let('entry', add(add(table, mul(at, entryBytes)), nibble));
                for (const [plane, dot] of dots.entries()) {
                  const entry = add(quad, plane * rowStride(k) * entryBytes + 2 * ENTRIES * half);
                  const low = cast(b.load(p.tables, entry), 'i32');
                  const high = cast(b.load(p.tables, add(entry, ENTRIES)), 'i32');
                  const sum = sub(add(low, shift('left', high, BASE_BITS)), EXACT_BIAS);
                  b.set(dot, add(dot, shift('left', sum, weightPlane)));
                }
              }
            }
          });
          return [[b.let('joined', joinPlanes(dots))]];
        });
        storeResult(b, p, shape, token, row, total);
      });
    });
  });
}
