import { LutraError, unreachable } from '../../common/errors.ts';
import * as x from '../expr.ts';
import { type Expr, type Stmt, sameType } from '../ir.ts';
import { printExpr } from '../print.ts';
import { operands } from '../walk.ts';
import { type Emitter, mentions } from './emitter.ts';
import { lower, lowerIndex, lowerScalar } from './expressions.ts';

type Of<Kind extends Stmt['kind']> = Extract<Stmt, { kind: Kind }>;

export function lowerBlock(emitter: Emitter, body: readonly Stmt[]): void {
  for (const s of body) lowerStatement(emitter, s);
}

function lowerStatement(emitter: Emitter, s: Stmt): void {
  switch (s.kind) {
    case 'let':
      lowerLet(emitter, s);
      break;
    case 'var':
      lowerVar(emitter, s);
      break;
    case 'assign':
      lowerAssign(emitter, s);
      break;
    case 'store':
      lowerStore(emitter, s);
      break;
    case 'for':
      if (s.binding === 'unrolled') unroll(emitter, s);
      else lowerLoop(emitter, s);
      break;
    case 'if':
      lowerIf(emitter, s);
      break;
    case 'prefetch':
      emitter.emit({ ...s, index: lowerIndex(emitter, s.index)(0) });
      break;
    case 'call': {
      const buffers = s.buffers.map((b) => ({ ...b, offset: lowerScalar(emitter, b.offset) }));
      const scalars = s.scalars.map((e) => lowerScalar(emitter, e));
      emitter.emit({ ...s, buffers, scalars });
      break;
    }
    case 'barrier':
      emitter.emit(s);
      break;
    default:
      unreachable(s);
  }
}

/** `acc` stays `acc` if one piece holds it and becomes `acc_0`, `acc_1`, ... otherwise. */
function pieceName(emitter: Emitter, name: string, index: number, count: number): string {
  return emitter.fresh(count === 1 ? name : `${name}_${index}`);
}

function lowerLet(emitter: Emitter, s: Of<'let'>): void {
  const values = lower(emitter, s.value);
  const pieces = values.map((value, i) => {
    if (emitter.isLeaf(value)) return value;
    const name = pieceName(emitter, s.name, i, values.length);
    emitter.emit({ kind: 'let', name, value });
    return x.ref(name, value.type);
  });
  emitter.define(s.name, pieces);
}

function lowerVar(emitter: Emitter, s: Of<'var'>): void {
  const values = lower(emitter, s.init);
  const pieces = values.map((init, i) => {
    const name = pieceName(emitter, s.name, i, values.length);
    emitter.declareRegister(name);
    emitter.emit({ kind: 'var', name, init });
    return x.ref(name, init.type);
  });
  emitter.define(s.name, pieces);
}

function lowerAssign(emitter: Emitter, s: Of<'assign'>): void {
  const names = emitter.piecesOf(s.name).map((piece) => (piece.kind === 'ref' ? piece.name : ''));
  const values = lower(emitter, s.value);
  // A later piece may read an earlier one: those are computed before the first is overwritten.
  const settled = values.map((value, i) =>
    mentions(value, new Set(names.slice(0, i))) ? emitter.share(value) : value,
  );
  for (const [i, value] of settled.entries()) emitter.emit({ kind: 'assign', name: names[i]!, value });
}

function lowerStore(emitter: Emitter, s: Of<'store'>): void {
  const index = lowerIndex(emitter, s.index);
  const values = lower(emitter, s.value);
  let at = 0;
  const targets = values.map((value) => {
    const target = index(at);
    at += value.type.lanes;
    return target;
  });
  // Likewise, a later piece may load what an earlier one overwrites.
  const later = values.map((value, i) => i > 0 && loadsElsewhere(emitter, value, s.buffer, targets[i]!));
  const settled = values.map((value, i) => {
    // The first of a pair before the second: V8 13 takes the address of whichever load comes first.
    const before = emitter.machine.joinsStores === true && i % 2 === 0 && later[i + 1] === true;
    return later[i] || before ? emitter.share(value) : value;
  });
  for (let i = 0; i < settled.length; i++) {
    const second = settled[i + 1];
    if (second !== undefined && i % 2 === 0 && emitter.machine.joinsStores === true && loads(second)) {
      settled[i] = emitter.share(settled[i]!);
      settled[i + 1] = emitter.share(second);
    }
    emitter.emit({ kind: 'store', buffer: s.buffer, index: targets[i]!, value: settled[i]! });
  }
}

const loads = (e: Expr): boolean => e.kind === 'load' || operands(e).some(loads);

/** Whether a value loads other elements than those at `index` of memory that may be the buffer's. */
function loadsElsewhere(emitter: Emitter, value: Expr, buffer: string, index: Expr): boolean {
  const visit = (e: Expr): boolean => {
    if (e.kind === 'load' && emitter.mayOverlap(e.buffer, buffer)) {
      const samePlace = sameType(e.type, value.type) && printExpr(e.index) === printExpr(index);
      if (!samePlace) return true;
    }
    return operands(e).some(visit);
  };
  return visit(value);
}

function unroll(emitter: Emitter, s: Of<'for'>): void {
  const [from, to] = [lowerScalar(emitter, s.from), lowerScalar(emitter, s.to)];
  if (from.kind !== 'const' || to.kind !== 'const') {
    throw new LutraError(
      'internal',
      `loop IR: the bounds of the unrolled loop ${s.variable} are not constant`,
    );
  }
  for (let i = from.value; i < to.value; i += s.step) {
    emitter.define(s.variable, [x.int(i)]);
    lowerBlock(emitter, s.body);
  }
}

function lowerLoop(emitter: Emitter, s: Of<'for'>): void {
  const [from, to] = [lowerScalar(emitter, s.from), lowerScalar(emitter, s.to)];
  const variable = emitter.fresh(s.variable);
  emitter.define(s.variable, [x.ref(variable, x.I32)]);
  const body = emitter.block(() => lowerBlock(emitter, s.body));
  emitter.emit({ ...s, variable, from, to, body });
}

function lowerIf(emitter: Emitter, s: Of<'if'>): void {
  const condition = lowerScalar(emitter, s.condition);
  if (condition.kind === 'const') {
    lowerBlock(emitter, condition.value === 0 ? s.whenFalse : s.whenTrue);
    return;
  }
  const whenTrue = emitter.block(() => lowerBlock(emitter, s.whenTrue));
  const whenFalse = emitter.block(() => lowerBlock(emitter, s.whenFalse));
  emitter.emit({ kind: 'if', condition, whenTrue, whenFalse });
}
