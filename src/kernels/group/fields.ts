/** Taking codes out of the tiles of `code-tiles`: each field is the codes of some rows by 4 adjacent columns. */
import type { FunctionBuilder } from '../../loops/builder.ts';
import { and, binary, bitcast, shift, vector } from '../../loops/expr.ts';
import type { Expr } from '../../loops/ir.ts';
import { shiftBytes } from '../lowbit.ts';

/** Columns that lie together, and their tiles. */
export const SPANS: Readonly<Record<number, { readonly columns: number; readonly tiles: number }>> = {
  1: { columns: 32, tiles: 1 },
  2: { columns: 16, tiles: 1 },
  3: { columns: 32, tiles: 3 },
  4: { columns: 8, tiles: 1 },
  6: { columns: 16, tiles: 3 },
  8: { columns: 4, tiles: 1 },
};

/** A field's codes, times 2^scale, and its first column in the span. */
export interface Field {
  readonly column: number;
  readonly scale: number;
  readonly codes: Expr;
}

/** The scales that fields of codes come in when they are left in place. */
export function fieldScales(bits: number): readonly number[] {
  if (bits === 1) return [0, 1, 2, 3];
  return bits === 2 ? [0, 2] : [0];
}

/** The upper third of codes of 3 or 6 bits, which is field `field` of the bytes `high`. */
function highBits(bits: 3 | 6, high: Expr, field: number): Expr {
  const down = (bits / 3) * (field - 2);
  const moved = down < 0 ? shiftBytes(high, -down, 'left') : shiftBytes(high, down);
  return and(moved, bits === 3 ? 4 : 0x30);
}

/**
 * Calls `body` for the fields of a span, whose tiles are `tiles`. Codes `in place` are masked out of the lower or
 * the upper half of a byte and left where they are there, which saves a shift for each: at most 15 in any case.
 */
export function forFields(
  b: FunctionBuilder,
  bits: number,
  tiles: readonly Expr[],
  inPlace: boolean,
  body: (field: Field) => void,
): void {
  const [tile] = tiles as readonly [Expr];
  if (bits === 8) {
    body({ column: 0, scale: 0, codes: tile });
    return;
  }
  if (bits === 3 || bits === 6) {
    const perTile = 12 / bits;
    for (let field = 0; field < 2 * perTile; field++) {
      const lowBits = (2 * bits) / 3;
      const moved = shiftBytes(tiles[Math.floor(field / perTile)]!, lowBits * (field % perTile));
      const low = and(moved, 2 ** lowBits - 1);
      const codes = b.let('codes', binary('or', low, highBits(bits, tiles[2]!, field)));
      body({ column: 4 * field, scale: 0, codes });
    }
    return;
  }
  const perHalf = 4 / bits;
  for (const half of [0, 1]) {
    const nibbles = half === 0 ? tile : b.let('high', shiftBytes(tile, 4));
    for (let field = 0; field < perHalf; field++) {
      const scale = inPlace ? bits * field : 0;
      const from = inPlace ? nibbles : shiftBytes(nibbles, bits * field);
      const codes = b.let('codes', and(from, (2 ** bits - 1) << scale));
      body({ column: 4 * (half * perHalf + field), scale, codes });
    }
  }
}

/** Codes of 4 columns as i16 pairs: of the even columns, and of the odd ones. */
export function splitPairs(b: FunctionBuilder, codes: Expr): readonly [even: Expr, odd: Expr] {
  const words = b.let('words', bitcast(codes, vector('u16', codes.type.lanes / 2)));
  const pairs = vector('i16', codes.type.lanes / 2);
  return [
    b.let('evenCodes', bitcast(and(words, 0xff), pairs)),
    b.let('oddCodes', bitcast(shift('right', words, 8), pairs)),
  ];
}
