/** How values are cut into pieces, and how new values are put together from lanes of such pieces. */
import * as x from '../expr.ts';
import { type Expr, kindBits, type ScalarKind, type ValueType } from '../ir.ts';
import type { Machine } from '../machine.ts';
import { mapOperands } from '../walk.ts';
import type { Emitter, Pieces } from './emitter.ts';

/** Lanes of a register; 1 on a machine without vectors. */
export function capacity(machine: Machine, kind: ScalarKind): number {
  return machine.vectorBytes === 4 ? 1 : (8 * machine.vectorBytes) / kindBits(kind);
}

export interface Part {
  readonly start: number;
  readonly lanes: number;
}

/**
 * The pieces of a value: as many full registers as fit, then smaller powers of two. Kinds of other sizes but
 * the same number of bytes are cut at the same bytes.
 *
 * ```
 * u8x48 on 32 bytes: 32 16       f32x13 on 16 bytes: 4 4 4 1
 * ```
 */
export function partsOf(machine: Machine, type: ValueType): readonly Part[] {
  const parts: Part[] = [];
  let size = capacity(machine, type.kind);
  for (let start = 0; start < type.lanes; start += size) {
    while (size > type.lanes - start) size /= 2;
    parts.push({ start, lanes: size });
  }
  return parts;
}

/** Concatenates by halves: [a b c d] becomes concat(concat(a, b), concat(c, d)). */
export function concatTree(parts: readonly Expr[]): Expr {
  if (parts.length === 1) return parts[0]!;
  const half = parts.length / 2;
  return x.concat([concatTree(parts.slice(0, half)), concatTree(parts.slice(half))]);
}

/** Lane `lane` of piece `piece`. */
interface Place {
  readonly piece: number;
  readonly lane: number;
}

function placesOf(sources: Pieces): readonly Place[] {
  return sources.flatMap((source, piece) =>
    Array.from({ length: source.type.lanes }, (_, lane) => ({ piece, lane })),
  );
}

/** Lanes of one value, as cheaply as possible. */
function pick(source: Expr, lanes: readonly number[]): Expr {
  const [first] = lanes as readonly [number];
  let period = 1;
  while (period < lanes.length && lanes.some((lane, i) => lane !== first + (i % period))) period *= 2;
  const contiguous = lanes.slice(0, period).every((lane, i) => lane === first + i);
  if (contiguous) return x.repeat(x.slice(source, first, period), lanes.length / period);
  return x.shuffle(source, lanes);
}

/** A power of two of lanes from any places. */
function gather(use: (piece: number) => Expr, places: readonly Place[]): Expr {
  const lanesIn = (piece: number, among: readonly Place[]) =>
    among.filter((p) => p.piece === piece).map((p) => p.lane);
  const pieces = [...new Set(places.map((p) => p.piece))];
  const [p, q] = pieces as [number, number];
  if (pieces.length === 1) return pick(use(p), lanesIn(p, places));

  const half = places.length / 2;
  const [low, high] = [places.slice(0, half), places.slice(half)];
  const isUniform = (part: readonly Place[]) => part.every((place) => place.piece === part[0]!.piece);
  if (pieces.length === 2 && !(isUniform(low) && isUniform(high))) {
    // Two registers mixed: if half a register holds what is needed of each, join the halves and permute.
    const [fromP, fromQ] = [p, q].map((piece) =>
      [...new Set(lanesIn(piece, places))].sort((a, b) => a - b),
    ) as [number[], number[]];
    if (fromP.length <= half && fromQ.length <= half) {
      const padded = (lanes: number[]) => Array.from({ length: half }, (_, i) => lanes[i] ?? lanes.at(-1)!);
      const joined = x.concat([pick(use(p), padded(fromP)), pick(use(q), padded(fromQ))]);
      return x.shuffle(
        joined,
        places.map(({ piece, lane }) => (piece === p ? fromP.indexOf(lane) : half + fromQ.indexOf(lane))),
      );
    }
  }
  return x.concat([gather(use, low), gather(use, high)]);
}

/**
 * Values made of lanes of `sources`, counted through all of them; each map has a power of two of lanes that
 * fits a register. Sources that are needed more than once are bound.
 */
export function gatherLanes(
  emitter: Emitter,
  sources: Pieces,
  maps: readonly (readonly number[])[],
): readonly Expr[] {
  const places = placesOf(sources);
  const uses = sources.map(() => 0);
  const stand = (piece: number): Expr => {
    uses[piece]!++;
    return { kind: 'ref', name: `#source${piece}`, type: sources[piece]!.type };
  };
  const gathered = maps.map((map) =>
    gather(
      stand,
      map.map((lane) => places[lane]!),
    ),
  );
  const byName = new Map(
    sources.map((source, i) => [`#source${i}`, uses[i]! > 1 ? emitter.share(source) : source]),
  );
  const settle = (e: Expr): Expr =>
    (e.kind === 'ref' ? byName.get(e.name) : undefined) ?? foldConstant(mapOperands(e, settle));
  return gathered.map(settle);
}

/** Lanes of a constant are a constant. */
function foldConstant(e: Expr): Expr {
  switch (e.kind) {
    case 'slice':
    case 'shuffle':
    case 'repeat':
      return e.a.kind === 'const' ? x.constant(e.type, e.a.value) : e;
    default:
      return e;
  }
}

/** The map of consecutive lanes. */
export function range(start: number, lanes: number): readonly number[] {
  return Array.from({ length: lanes }, (_, i) => start + i);
}
