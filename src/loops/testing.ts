/**
 * Random loop functions for tests: well-typed, within bounds, every kind of expression and statement, with
 * data to run on. The interpreter accepts each of them, and no result depends on the bits of a NaN.
 */
import { randomUniform } from '../common/random.ts';
import { type BufferRef, FunctionBuilder } from './builder.ts';
import * as x from './expr.ts';
import {
  type Expr,
  isInteger,
  kindBits,
  kindBytes,
  type LoopFunction,
  type ScalarKind,
  sameType,
  typeBits,
  type ValueType,
} from './ir.ts';

export interface RandomCase {
  readonly fn: LoopFunction;
  /** The memory of the buffers, in parameter order: all of them inputs, some of them outputs. */
  readonly buffers: readonly Uint8Array[];
  readonly scalars: readonly number[];
}

const KINDS: readonly ScalarKind[] = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'f32', 'f16', 'bf16'];
const LANES = [1, 1, 1, 2, 3, 4, 4, 8, 8, 12, 16, 16, 24, 32, 48, 64] as const;
const COMPARES = ['lt', 'le', 'eq', 'ne'] as const;

/** Elements that a masked index and the widest value reach, and so the size of every array. */
const MASK = 63;
const AREA = MASK + 1 + 64;
/** Operations on single lanes in a function, to bound what scalar code makes of it. */
const LANE_BUDGET = 4000;

/** The same function and data for the same seed. */
export function randomFunction(seed: number): RandomCase {
  const random = randomUniform(seed);
  const below = (n: number) => Math.floor(random() * n);
  const pick = <T>(choices: readonly T[]): T => choices[below(choices.length)]!;
  const chance = (p: number) => random() < p;

  const k = new FunctionBuilder(`random${seed}`);
  const scalars = [1 + below(4), below(1000) - 500, Math.fround(random() * 8 - 4)];
  const n = k.scalar('n');
  const m = k.scalar('m');
  const s = k.scalar('s', 'f32');

  const inputs = new Map<ScalarKind, BufferRef>();
  const outputs = new Map<ScalarKind, BufferRef>();
  const buffers: ScalarKind[] = [];
  const bufferIn = (map: Map<ScalarKind, BufferRef>, kind: ScalarKind): BufferRef => {
    let buffer = map.get(kind);
    if (buffer === undefined) {
      buffer = k.buffer(
        `${map === inputs ? 'in' : 'out'}_${kind}`,
        kind,
        map === inputs ? 'read' : 'readwrite',
      );
      map.set(kind, buffer);
      buffers.push(kind);
    }
    return buffer;
  };

  let budget = LANE_BUDGET;
  let names: Expr[] = [n, m, s];
  let registers: Expr[] = [];
  let locals: BufferRef[] = [];
  /** Where the part of the outputs that belongs to this iteration of the thread loop begins. */
  let area: Expr = x.int(0);

  const scope = (write: () => void): void => {
    const outer = [names, registers, locals] as const;
    [names, registers, locals] = [[...names], [...registers], [...locals]];
    write();
    [names, registers, locals] = outer;
  };

  const randomType = (kind = pick(KINDS)): ValueType => x.vector(kind, pick(LANES));

  const constant = (type: ValueType): Expr => {
    if (type.kind === 'f32') return x.constant(type, pick([0, -0, 1, 0.1, -3.5, 1e-30, 1e30]));
    const value = chance(0.5) ? below(4) : below(2 ** kindBits(type.kind));
    const signed = type.kind === 'i8' || type.kind === 'i16' || type.kind === 'i32';
    return x.constant(
      type,
      signed && value >= 2 ** (kindBits(type.kind) - 1) ? value - 2 ** kindBits(type.kind) : value,
    );
  };

  /** Any place in an array of AREA elements. */
  const place = (depth: number): Expr =>
    chance(0.4) ? x.int(below(MASK)) : x.and(expr(x.I32, depth), chance(0.5) ? MASK : 16);

  const load = (type: ValueType, depth: number): Expr => {
    const local = locals.find((l) => l.elem === type.kind);
    if (local !== undefined && chance(0.5)) return k.load(local, place(depth), type.lanes);
    const output = outputs.get(type.kind);
    if (output !== undefined && chance(0.2)) return k.load(output, x.add(area, place(depth)), type.lanes);
    return k.load(bufferIn(inputs, type.kind), place(depth), type.lanes);
  };

  const leaf = (type: ValueType, depth: number): Expr => {
    const fitting = [...names, ...registers].filter((e) => sameType(e.type, type));
    if (fitting.length > 0 && chance(0.6)) return pick(fitting);
    const storage = type.kind === 'f16' || type.kind === 'bf16';
    return chance(0.3) && !storage ? constant(type) : load(type, depth);
  };

  /** An f32 value with NaN replaced, so that its bits are the same everywhere. */
  const numbers = (lanes: number, depth: number): Expr => {
    const v = k.let('v', expr(x.vector('f32', lanes), depth));
    return x.select('eq', v, v, v, x.float(2, lanes));
  };

  /** A value whose bits are the same everywhere. */
  const exact = (type: ValueType, depth: number): Expr => {
    if (isInteger(type.kind)) return expr(type, depth);
    return x.cast(numbers(type.lanes, depth), type.kind);
  };

  const codes = (lanes: number, max: number, depth: number): Expr => {
    const type = x.vector('u8', lanes);
    const any = expr(type, depth);
    if (max === 255) return any;
    return max === 128 ? x.min(any, x.constant(type, max)) : x.and(any, max);
  };

  /** Ways to write a value of this type that is not a leaf. */
  const ways = (type: ValueType, depth: number): (() => Expr)[] => {
    const { kind, lanes } = type;
    const same = () => expr(type, depth);
    const other = (t: ValueType) => expr(t, depth);
    const list: (() => Expr)[] = [
      () => {
        const group = pick([1, 2, 3, 4].filter((d) => lanes % d === 0));
        return x.repeat(other(x.vector(kind, group)), lanes / group);
      },
      () => {
        const extra = pick([0, 1, 4, lanes].filter((more) => lanes + more <= 64));
        return x.slice(other(x.vector(kind, lanes + extra)), below(extra + 1), lanes);
      },
      () => {
        const from = pick([1, 2, lanes, 16, 5]);
        const indices = Array.from({ length: lanes }, () => below(from));
        return x.shuffle(other(x.vector(kind, from)), indices);
      },
    ];
    const stride = pick([2, 3, 4]);
    if (lanes * stride <= 64) {
      const start = below(stride);
      const indices = Array.from({ length: lanes }, (_, i) => start + i * stride);
      list.push(() => x.shuffle(other(x.vector(kind, lanes * stride)), indices));
    }
    const part = [2, 3, 4].find((d) => lanes % d === 0);
    if (part !== undefined) {
      list.push(() => x.concat(Array.from({ length: part }, () => other(x.vector(kind, lanes / part)))));
    }
    if (kind === 'f16' || kind === 'bf16') {
      return [...list, () => x.cast(other(x.vector('f32', lanes)), kind)];
    }

    const bits = typeBits(type);
    const equal = KINDS.filter((other) => other !== kind && bits % kindBits(other) === 0);
    const sources = equal.filter((other) => bits / kindBits(other) <= 64);
    if (sources.length > 0) {
      list.push(() => {
        const source = pick(sources);
        return x.bitcast(exact(x.vector(source, bits / kindBits(source)), depth), type);
      });
    }
    list.push(() => {
      const comparable = KINDS.filter((c) => kindBits(c) === kindBits(kind) && c !== 'f16' && c !== 'bf16');
      const t = x.vector(pick(comparable), lanes);
      return x.select(pick(COMPARES), other(t), other(t), same(), same());
    });
    if (lanes === 1) {
      list.push(() => x.reduce(pick(['add', 'min', 'max']), other(x.vector(kind, pick([2, 4, 8, 16, 32])))));
    }
    const binary = (...ops: Parameters<typeof x.binary>[0][]) => {
      for (const op of ops) list.push(() => x.binary(op, same(), same()));
    };
    binary('add', 'sub', 'mul', 'min', 'max');
    list.push(() => x.unary(pick(['neg', 'abs']), same()));
    if (kind === 'f32') {
      binary('div', 'mul');
      list.push(
        () => x.unary(pick(['sqrt', 'nearest']), same()),
        () => x.cast(other(x.vector(pick(['i32', 'f16', 'bf16']), lanes)), 'f32'),
      );
      return list;
    }

    binary('and', 'or', 'xor');
    list.push(
      () => x.shift(pick(['left', 'right']), same(), below(kindBits(kind))),
      () => {
        const from = KINDS.filter((other) => isInteger(other) && kindBits(other) !== kindBits(kind));
        return x.cast(other(x.vector(pick(from), lanes)), kind);
      },
    );
    if (kind === 'u8' || kind === 'u16') binary('averageRound');
    if (kind === 'u8') list.push(() => x.unary('popcount', same()));
    if (kind === 'u8' || kind === 'i8') {
      const half = x.vector(kind, 64);
      list.push(
        () => x.lookup16(other(x.vector(kind, 16)), codes(lanes, 15, depth)),
        () => x.lookup128(other(half), other(half), codes(lanes, 127, depth)),
      );
    }
    if (kind === 'i16' && lanes <= 32) {
      const max = pick([1, 3, 15, 63, 127, 128]);
      list.push(() => x.dot2(codes(2 * lanes, max, depth), other(x.vector('i8', 2 * lanes)), max));
    }
    if (kind === 'i32') {
      if (lanes <= 32) {
        const pairs = x.vector('i16', 2 * lanes);
        list.push(() => (chance(0.3) ? x.addPairs(other(pairs)) : x.madd(other(pairs), other(pairs))));
      }
      if (lanes <= 16) {
        const max = pick([1, 3, 127, 128, 255]);
        const b = x.vector('i8', 4 * lanes);
        list.push(() => x.dot4(same(), codes(4 * lanes, max, depth), other(b), max));
      }
      list.push(() => {
        const limit = x.float(2147483520, lanes);
        const low = x.float(-2147483648, lanes);
        return x.cast(x.min(limit, x.max(low, other(x.vector('f32', lanes)))), 'i32');
      });
    }
    if (kind === 'i32' && lanes === 1) {
      const scalar = x.vector(pick(['i8', 'u16', 'i32', 'u32', 'f32']), 1);
      list.push(
        () => x.compare(pick(COMPARES), other(scalar), other(scalar)),
        () => x.binary(pick(['div', 'rem']), same(), x.add(x.and(same(), 15), 1)),
        () => x.binary(pick(['div', 'rem']), same(), x.int(pick([-3, 2, 7, 64]))),
      );
    }
    return list;
  };

  function expr(type: ValueType, depth: number): Expr {
    budget -= type.lanes;
    if (depth <= 0 || budget < 0) return leaf(type, 0);
    return chance(0.15) ? leaf(type, depth - 1) : pick(ways(type, depth - 1))();
  }

  const store = (): void => {
    const type = randomType();
    const value = expr(type, 3);
    const local = locals.find((l) => l.elem === type.kind);
    if (local !== undefined && chance(0.5)) k.store(local, place(2), value);
    else k.store(bufferIn(outputs, type.kind), x.add(area, place(2)), value);
  };

  const block = (count: number, depth: number): void => scope(() => statements(count, depth));

  const branch = (depth: number): void => {
    const condition = x.compare(pick(COMPARES), expr(x.I32, 1), expr(x.I32, 1));
    if (chance(0.5)) k.if(condition, () => block(2, depth - 1));
    else
      k.if(
        condition,
        () => block(2, depth - 1),
        () => block(2, depth - 1),
      );
  };

  const loop = (depth: number): void => {
    const body = (i: Expr) =>
      scope(() => {
        names.push(i);
        statements(2, depth - 1);
      });
    const from = below(3);
    const step = 1 + below(3);
    if (chance(0.5)) k.unrolled('u', from, from + below(4), step, body);
    else k.for('i', from, chance(0.5) ? n : x.int(from + below(5)), step, body);
  };

  function statement(depth: number): void {
    const what = random();
    if (what < 0.3) {
      names.push(k.let('t', expr(randomType(), 3)));
    } else if (what < 0.45) {
      registers.push(k.var('r', expr(randomType(), 2)));
    } else if (what < 0.6 && registers.length > 0) {
      const target = pick(registers);
      k.set(target, expr(target.type, 3));
    } else if (what < 0.7 && depth > 0) {
      loop(depth);
    } else if (what < 0.77 && depth > 0) {
      branch(depth);
    } else if (what < 0.79) {
      k.prefetch(bufferIn(inputs, pick(KINDS)), expr(x.I32, 1));
    } else {
      store();
    }
  }

  function statements(count: number, depth: number): void {
    for (let i = 0; i < count; i++) statement(depth);
    store();
  }

  const addLocal = (): void => {
    const kind = pick(KINDS);
    const lanes = pick([1, 4, 16]);
    const local = k.local('scratch', kind, AREA);
    k.for('i', 0, AREA, lanes, (i) =>
      k.store(local, i, k.load(bufferIn(inputs, kind), x.and(i, MASK), lanes)),
    );
    locals.push(local);
  };

  const body = (): void => {
    if (chance(0.4)) addLocal();
    statements(3 + below(4), 2);
  };

  const splits = chance(0.5);
  if (splits) {
    // Iterations must not depend on each other: nothing mutable lives outside of the loop.
    const total = chance(0.5) ? n : k.let('total', x.add(n, 1));
    k.thread('t', total, (i) => {
      area = k.let('area', x.mul(i, AREA));
      names.push(i);
      body();
    });
  } else {
    body();
  }

  const fn = k.build();
  const special = [0, -0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e-40, -3e38, 7];
  const data = fn.buffers.map(({ elem, access }) => {
    // One area for each iteration of the thread loop.
    const count = access === 'read' ? AREA : AREA * (splits ? scalars[0]! + 1 : 1);
    if (elem === 'f32') {
      const values = Float32Array.from({ length: count }, () =>
        chance(0.1) ? pick(special) : random() * 8 - 4,
      );
      return new Uint8Array(values.buffer);
    }
    return Uint8Array.from({ length: count * kindBytes(elem) }, () => below(256));
  });
  return { fn, buffers: data, scalars };
}

export function copyBuffers(buffers: readonly Uint8Array[]): Uint8Array[] {
  return buffers.map((b) => b.slice());
}

function isNaNAt(kind: ScalarKind, bytes: Uint8Array, at: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (kind === 'f32') return Number.isNaN(view.getFloat32(at, true));
  const magnitude = view.getUint16(at, true) & 0x7fff;
  return kind === 'f16' ? magnitude > 0x7c00 : magnitude > 0x7f80;
}

/**
 * Where the memory of a function differs between two runs, as `buffer[element]` with the bytes of both;
 * undefined if nowhere. Any NaN equals any other.
 */
export function firstDifference(
  fn: LoopFunction,
  a: readonly Uint8Array[],
  b: readonly Uint8Array[],
): string | undefined {
  for (const [p, { name, elem }] of fn.buffers.entries()) {
    const [left, right] = [a[p]!, b[p]!];
    const size = kindBytes(elem);
    for (let i = 0; i < left.length; i++) {
      if (left[i] === right[i]) continue;
      const at = i - (i % size);
      if (!isInteger(elem) && isNaNAt(elem, left, at) && isNaNAt(elem, right, at)) continue;
      const [l, r] = [left, right].map((bytes) => bytes.subarray(at, at + size).join(' '));
      return `${name}[${at / size}]: bytes ${l} and ${r}`;
    }
  }
  return undefined;
}
