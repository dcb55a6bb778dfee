/**
 * Instructions that a machine lacks, written out in simpler ones. These work on values of any width, before
 * they are cut into pieces.
 */
import * as x from '../expr.ts';
import type { Expr, ScalarKind } from '../ir.ts';
import type { Machine, NativeOp } from '../machine.ts';
import { f16ToF32, f32ToBf16, f32ToF16 } from './halves.ts';

type Bind = (e: Expr) => Expr;
type Of<Kind extends Expr['kind']> = Extract<Expr, { kind: Kind }>;

const sum = (parts: readonly Expr[]): Expr => parts.reduce((a, b) => x.add(a, b));

/** What combines lanes has no form for scalars. */
export function isNative(machine: Machine, op: NativeOp): boolean {
  const combinesLanes = op !== 'averageRound' && op !== 'f16';
  return machine.native.has(op) && !(combinesLanes && machine.vectorBytes === 4);
}

/** The machine's own dot2 or dot4 takes these codes. */
export function isNativeDot(machine: Machine, e: Of<'dot2'> | Of<'dot4'>): boolean {
  return isNative(machine, e.kind) && e.aMax <= machine.dotCodeMax;
}

/**
 * An equivalent of `e` in operations nearer to what the machine has, or undefined if it has this one. `bind`
 * gives a name to what is used more than once.
 */
export function expand(machine: Machine, e: Expr, bind: Bind): Expr | undefined {
  switch (e.kind) {
    case 'dot2':
      return isNativeDot(machine, e) ? undefined : expandDot2(machine, e, bind);
    case 'madd':
      return isNative(machine, 'madd') ? undefined : expandMadd(machine, e, bind);
    case 'dot4':
      return isNativeDot(machine, e) ? undefined : expandDot4(machine, e, bind);
    case 'cast':
      return expandCast(machine, e, bind);
    case 'binary': {
      if (e.op !== 'averageRound' || isNative(machine, 'averageRound')) return undefined;
      // a + b = 2 (a | b) - (a ^ b), so this is half of it, rounded up.
      const [a, b] = [bind(e.a), bind(e.b)];
      return x.sub(x.binary('or', a, b), x.shift('right', x.binary('xor', a, b), 1));
    }
    case 'lookup128':
      return isNative(machine, 'lookup128') || !isNative(machine, 'lookup16')
        ? undefined
        : expandLookup128(e, bind);
    default:
      return undefined;
  }
}

function expandCast(machine: Machine, e: Of<'cast'>, bind: Bind): Expr | undefined {
  if (e.type.kind === 'bf16') return f32ToBf16(bind(e.a), bind);
  if (isNative(machine, 'f16')) return undefined;
  if (e.type.kind === 'f16') return f32ToF16(bind(e.a), bind);
  return e.a.type.kind === 'f16' ? f16ToF32(e.a, bind) : undefined;
}

/** A lookup in each 16 bytes of the table by the lowest bits, and a choice among the results by the others. */
function expandLookup128(e: Of<'lookup128'>, bind: Bind): Expr {
  const index = bind(e.index);
  const within = bind(x.and(index, 15));
  const zero = x.constant(index.type, 0);
  let found = [e.low, e.high].flatMap((half) => {
    const table = bind(half);
    return [0, 16, 32, 48].map((start) => x.lookup16(x.slice(table, start, 16), within));
  });
  for (let bit = 16; found.length > 1; bit *= 2) {
    const masked = bind(x.and(index, bit));
    found = Array.from({ length: found.length / 2 }, (_, i) =>
      x.select('eq', masked, zero, found[2 * i]!, found[2 * i + 1]!),
    );
  }
  return found[0]!;
}

/** Lanes j, j + stride, j + 2 stride, ... */
function everyNth(a: Expr, j: number, stride: number): Expr {
  return x.shuffle(
    a,
    Array.from({ length: a.type.lanes / stride }, (_, i) => i * stride + j),
  );
}

/** Sum over j of products of lanes j of each group, as single values of kind `kind`. */
function scalarProducts(a: Expr, b: Expr, group: number, kind: ScalarKind, bind: Bind): Expr[] {
  const [p, q] = [bind(a), bind(b)];
  return Array.from({ length: group }, (_, j) =>
    x.mul(x.cast(everyNth(p, j, group), kind), x.cast(everyNth(q, j, group), kind)),
  );
}

/** The low or high half of every lane, sign extended: of [b0 b1 b2 b3] as i16 [b0 b2] or [b1 b3]. */
function halfOf(wide: Expr, half: 'low' | 'high', bits: number): Expr {
  return x.shift('right', half === 'low' ? x.shift('left', wide, bits) : wide, bits);
}

/** Even and odd bytes of `a` without sign, of `b` with it, as i16. */
function bytesAsShorts(a: Expr, b: Expr, bind: Bind): readonly [Expr, Expr, Expr, Expr] {
  const lanes = a.type.lanes / 2;
  const unsigned = bind(x.bitcast(a, { kind: 'u16', lanes }));
  const signed = bind(x.bitcast(b, { kind: 'i16', lanes }));
  const asSigned = (e: Expr) => bind(x.bitcast(e, { kind: 'i16', lanes }));
  return [
    asSigned(x.and(unsigned, 0xff)),
    bind(halfOf(signed, 'low', 8)),
    asSigned(x.shift('right', unsigned, 8)),
    bind(halfOf(signed, 'high', 8)),
  ];
}

function expandDot2(machine: Machine, e: Of<'dot2'>, bind: Bind): Expr {
  if (machine.vectorBytes === 4) return sum(scalarProducts(e.a, e.b, 2, 'i16', bind));
  const [evenA, evenB, oddA, oddB] = bytesAsShorts(e.a, e.b, bind);
  return x.add(x.mul(evenA, evenB), x.mul(oddA, oddB));
}

function expandMadd(machine: Machine, e: Of<'madd'>, bind: Bind): Expr {
  const ones = e.b.kind === 'const' && e.b.value === 1;
  if (machine.vectorBytes === 4 && !ones) return sum(scalarProducts(e.a, e.b, 2, 'i32', bind));
  const wide = (v: Expr) => bind(x.bitcast(v, e.type));
  if (machine.vectorBytes === 4) {
    const a = bind(e.a);
    return x.add(x.cast(everyNth(a, 0, 2), 'i32'), x.cast(everyNth(a, 1, 2), 'i32'));
  }
  const a = wide(e.a);
  if (ones) return x.add(halfOf(a, 'low', 16), halfOf(a, 'high', 16));
  const b = wide(e.b);
  return x.add(
    x.mul(halfOf(a, 'low', 16), halfOf(b, 'low', 16)),
    x.mul(halfOf(a, 'high', 16), halfOf(b, 'high', 16)),
  );
}

function expandDot4(machine: Machine, e: Of<'dot4'>, bind: Bind): Expr {
  if (machine.vectorBytes === 4) return sum([e.acc, ...scalarProducts(e.a, e.b, 4, 'i32', bind)]);
  if (isNative(machine, 'dot2') && e.aMax <= Math.min(machine.dotCodeMax, 128)) {
    return x.add(e.acc, x.addPairs(x.dot2(e.a, e.b, e.aMax)));
  }
  if (isNative(machine, 'madd')) {
    // Products 0 and 2 of each four from the even bytes, 1 and 3 from the odd ones.
    const [evenA, evenB, oddA, oddB] = bytesAsShorts(e.a, e.b, bind);
    return sum([e.acc, x.madd(evenA, evenB), x.madd(oddA, oddB)]);
  }
  const [a, b] = [bind(x.bitcast(e.a, e.type)), bind(x.bitcast(e.b, e.type))];
  const products = [0, 1, 2, 3].map((j) => {
    const code = x.and(x.shift('right', a, 8 * j), 0xff);
    const value = x.shift('right', x.shift('left', b, 24 - 8 * j), 24);
    return x.mul(code, value);
  });
  return sum([e.acc, ...products]);
}
