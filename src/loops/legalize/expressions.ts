import * as x from '../expr.ts';
import { type Expr, kindBits, type ScalarKind, sameType } from '../ir.ts';
import type { Emitter, Pieces } from './emitter.ts';
import { expand, isNative } from './expand.ts';
import { joinIndex, splitIndex } from './index-arithmetic.ts';
import { capacity, concatTree, gatherLanes, type Part, partsOf, range } from './lanes.ts';

type Of<Kind extends Expr['kind']> = Extract<Expr, { kind: Kind }>;

/** The value of a scalar expression. */
export function lowerScalar(emitter: Emitter, e: Expr): Expr {
  return lower(emitter, e)[0]!;
}

/** An address: gives the index of the element that lies `offset` after it. */
export function lowerIndex(emitter: Emitter, index: Expr): (offset: number) => Expr {
  const { base, offset } = splitIndex(lowerScalar(emitter, index));
  const shared = base && emitter.share(base, 'at');
  return (more) => joinIndex({ base: shared, offset: offset + more });
}

/** A value as legal pieces, cut as `partsOf` says. */
export function lower(emitter: Emitter, e: Expr): Pieces {
  const { machine } = emitter;
  const bind = (value: Expr) => emitter.bind(value.type, lower(emitter, value));
  const simpler = expand(machine, e, bind);
  if (simpler !== undefined) return lower(emitter, simpler);

  const parts = partsOf(machine, e.type);
  const typeOf = (part: Part) => ({ kind: e.type.kind, lanes: part.lanes });
  switch (e.kind) {
    case 'const':
      return parts.map((part) => x.constant(typeOf(part), e.value));
    case 'ref':
      return emitter.piecesOf(e.name);
    case 'load': {
      const index = lowerIndex(emitter, e.index);
      return parts.map((part) => ({ ...e, index: index(part.start), type: typeOf(part) }));
    }
    case 'unary':
      return lower(emitter, e.a).map((a) => ({ ...e, a, type: a.type }));
    case 'shift':
      return lower(emitter, e.a).map((a) => ({ ...e, a, type: a.type }));
    case 'binary': {
      const b = lower(emitter, e.b);
      return lower(emitter, e.a).map((a, i) => foldedBinary(e.op, a, b[i]!));
    }
    case 'compare':
      return [foldedCompare(e.op, lowerScalar(emitter, e.a), lowerScalar(emitter, e.b))];
    case 'select': {
      const [a, b, p, q] = [e.a, e.b, e.x, e.y].map((operand) => lower(emitter, operand));
      return parts.map((_, i) => x.select(e.op, a![i]!, b![i]!, p![i]!, q![i]!));
    }
    case 'cast':
      return lowerCast(emitter, e, parts);
    case 'bitcast':
      return lowerBitcast(emitter, e);
    case 'repeat':
      return lowerRepeat(emitter, e, parts);
    case 'slice':
      return reader(emitter, e)(parts);
    case 'concat': {
      const sources = e.parts.flatMap((part) => lower(emitter, part));
      return gatherLanes(
        emitter,
        sources,
        parts.map((part) => range(part.start, part.lanes)),
      );
    }
    case 'shuffle':
      return gatherLanes(
        emitter,
        lower(emitter, e.a),
        parts.map((part) => e.indices.slice(part.start, part.start + part.lanes)),
      );
    case 'dot2': {
      const b = lower(emitter, e.b);
      return lower(emitter, e.a).map((a, i) => x.dot2(a, b[i]!, e.aMax));
    }
    case 'madd': {
      const b = lower(emitter, e.b);
      return lower(emitter, e.a).map((a, i) => x.madd(a, b[i]!));
    }
    case 'dot4': {
      const [acc, a, b] = [e.acc, e.a, e.b].map((operand) => lower(emitter, operand));
      return acc!.map((piece, i) => x.dot4(piece, a![i]!, b![i]!, e.aMax));
    }
    case 'lookup16':
      return lowerLookup(emitter, e);
    case 'lookup128': {
      const table = [e.low, e.high].flatMap((half) => lower(emitter, half));
      if (!isNative(machine, 'lookup128')) return lowerLookupThroughMemory(emitter, e, table);
      const [low, high] = table.map((half) => emitter.share(half));
      return lower(emitter, e.index).map((index) => x.lookup128(low!, high!, index));
    }
    case 'reduce':
      return [lowerReduce(emitter, e)];
  }
}

// Unrolling turns loop variables into constants, which the constructors fold.
function foldedBinary(op: Of<'binary'>['op'], a: Expr, b: Expr): Expr {
  const fold = { add: x.add, sub: x.sub, mul: x.mul, div: x.div, rem: x.rem } as const;
  return sameType(a.type, x.I32) && op in fold ? fold[op as keyof typeof fold](a, b) : x.binary(op, a, b);
}

function foldedCompare(op: Of<'compare'>['op'], a: Expr, b: Expr): Expr {
  if (a.kind !== 'const' || b.kind !== 'const') return x.compare(op, a, b);
  const holds = {
    lt: a.value < b.value,
    le: a.value <= b.value,
    eq: a.value === b.value,
    ne: a.value !== b.value,
  };
  return x.int(holds[op] ? 1 : 0);
}

/** Reads parts of a value: of a load, only what is asked for; of others, lanes of its pieces. */
function reader(emitter: Emitter, e: Expr): (parts: readonly Part[]) => Pieces {
  if (e.kind === 'const')
    return (parts) => parts.map(({ lanes }) => x.constant({ ...e.type, lanes }, e.value));
  if (e.kind === 'load') {
    const index = lowerIndex(emitter, e.index);
    return (parts) =>
      parts.map(({ start, lanes }) => ({ ...e, index: index(start), type: { ...e.type, lanes } }));
  }
  if (e.kind === 'slice') {
    const read = reader(emitter, e.a);
    return (parts) => read(parts.map(({ start, lanes }) => ({ start: start + e.start, lanes })));
  }
  const pieces = lower(emitter, e);
  return (parts) =>
    gatherLanes(
      emitter,
      pieces,
      parts.map(({ start, lanes }) => range(start, lanes)),
    );
}

function lowerCast(emitter: Emitter, e: Of<'cast'>, parts: readonly Part[]): Pieces {
  const [from, to] = [e.a.type.kind, e.type.kind];
  if (kindBits(from) === kindBits(to)) return lower(emitter, e.a).map((a) => x.cast(a, to));
  const read = reader(emitter, e.a);
  // Narrowing takes several source registers to fill one.
  const limit = capacity(emitter.machine, from);
  const steps = parts.map(({ start, lanes }) => {
    const size = Math.min(lanes, limit);
    return Array.from({ length: lanes / size }, (_, i) => ({ start: start + i * size, lanes: size }));
  });
  const sources = read(steps.flat()).map((a) => x.cast(a, to));
  let next = 0;
  return steps.map((step) => {
    const taken = sources.slice(next, next + step.length);
    next += step.length;
    return concatTree(taken);
  });
}

function lowerBitcast(emitter: Emitter, e: Of<'bitcast'>): Pieces {
  const pieces = lower(emitter, e.a);
  const { kind } = e.type;
  const [from, to] = [kindBits(e.a.type.kind), kindBits(kind)];
  if (emitter.machine.vectorBytes !== 4 || from === to) {
    return pieces.map((a) => x.bitcast(a, { kind, lanes: (a.type.lanes * from) / to }));
  }
  return from < to ? joinScalars(pieces, kind, to / from) : splitScalars(emitter, pieces, kind, from / to);
}

function unsignedKind(bits: number): ScalarKind {
  return bits === 8 ? 'u8' : bits === 16 ? 'u16' : 'u32';
}

const scalarAs = (e: Expr, kind: ScalarKind) => x.bitcast(e, { kind, lanes: 1 });

/** Little endian: the first of `count` scalars has the lowest bits of the wider one. */
function joinScalars(pieces: Pieces, kind: ScalarKind, count: number): Pieces {
  const wide = unsignedKind(kindBits(kind));
  return Array.from({ length: pieces.length / count }, (_, i) => {
    const fields = pieces.slice(i * count, (i + 1) * count).map((piece, j) => {
      const bits = kindBits(piece.type.kind);
      return x.shift('left', x.cast(scalarAs(piece, unsignedKind(bits)), wide), j * bits);
    });
    return scalarAs(
      fields.reduce((a, b) => x.binary('or', a, b)),
      kind,
    );
  });
}

function splitScalars(emitter: Emitter, pieces: Pieces, kind: ScalarKind, count: number): Pieces {
  const narrow = unsignedKind(kindBits(kind));
  return pieces.flatMap((piece) => {
    const wide = emitter.share(scalarAs(piece, unsignedKind(kindBits(piece.type.kind))));
    return Array.from({ length: count }, (_, j) => {
      const field = x.and(x.shift('right', wide, j * kindBits(kind)), 2 ** kindBits(kind) - 1);
      return scalarAs(x.cast(field, narrow), kind);
    });
  });
}

function lowerRepeat(emitter: Emitter, e: Of<'repeat'>, parts: readonly Part[]): Pieces {
  const group = e.a.type.lanes;
  const pieces = lower(emitter, e.a);
  const [first] = parts as readonly [Part];
  if (pieces.length > 1 || first.lanes % group !== 0) {
    const maps = parts.map((part) => range(part.start, part.lanes).map((lane) => lane % group));
    return gatherLanes(emitter, pieces, maps);
  }
  // Every piece is the same register, or the beginning of it.
  const whole = x.repeat(pieces[0]!, first.lanes / group);
  const shared = parts.length > 1 ? emitter.share(whole) : whole;
  return parts.map(({ lanes }) =>
    shared.kind === 'const' ? x.constant({ ...e.type, lanes }, shared.value) : x.slice(shared, 0, lanes),
  );
}

function lowerLookup(emitter: Emitter, e: Of<'lookup16'>): Pieces {
  const table = lower(emitter, e.table);
  if (isNative(emitter.machine, 'lookup16')) {
    const indices = lower(emitter, e.index);
    const shared = indices.length > 1 ? emitter.share(table[0]!) : table[0]!;
    return indices.map((index) => x.lookup16(shared, index));
  }
  return lowerLookupThroughMemory(emitter, e, table);
}

/** Puts the table into scratch memory and loads from there, lane by lane. */
function lowerLookupThroughMemory(
  emitter: Emitter,
  e: Of<'lookup16'> | Of<'lookup128'>,
  table: Pieces,
): Pieces {
  const { kind } = e.type;
  const shared = table.map((piece) => emitter.share(piece));
  const key = x.concat(shared.length === 1 ? [shared[0]!] : shared);
  const scratch = emitter.scratch(key, { elem: kind, size: key.type.lanes }, (buffer) => {
    let at = 0;
    for (const value of shared) {
      emitter.emit({ kind: 'store', buffer, index: x.int(at), value });
      at += value.type.lanes;
    }
  });
  return lower(emitter, e.index).map((piece) => {
    const index = emitter.share(piece);
    const lanes = range(0, piece.type.lanes).map((lane): Expr => {
      const at = x.cast(x.slice(index, lane, 1), 'i32');
      return { kind: 'load', buffer: scratch, index: at, type: { kind, lanes: 1 } };
    });
    return concatTree(lanes);
  });
}

function lowerReduce(emitter: Emitter, e: Of<'reduce'>): Expr {
  let pieces = lower(emitter, e.a);
  while (pieces.length > 1) {
    const half = pieces.length / 2;
    const upper = pieces.slice(half);
    pieces = pieces.slice(0, half).map((piece, i) => x.binary(e.op, piece, upper[i]!));
  }
  let value = pieces[0]!;
  while (value.type.lanes > 1) {
    const half = value.type.lanes / 2;
    const shared = emitter.share(value);
    value = x.binary(e.op, x.slice(shared, 0, half), x.slice(shared, half, half));
  }
  return value;
}
