import { LutraError } from '../../common/errors.ts';
import { type Expr, type LoopFunction, type ScalarKind, type Stmt, typeBits, typeName } from '../ir.ts';
import type { Machine } from '../machine.ts';
import { printExpr, printStatementHead } from '../print.ts';
import { operands, statementExprs, statements } from '../walk.ts';
import { isNative, isNativeDot } from './expand.ts';

/** Throws a LutraError unless the function is as `legalize` leaves it for this machine. */
export function checkLegal(fn: LoopFunction, machine: Machine): void {
  for (const s of statements(fn.body)) {
    const problem = statementProblem(s) ?? firstProblem(statementExprs(s), machine);
    if (problem !== undefined) {
      throw new LutraError(
        'internal',
        `not legal for ${machine.name}: in ${fn.name}, at "${printStatementHead(s)}": ${problem}`,
      );
    }
  }
}

function statementProblem(s: Stmt): string | undefined {
  return s.kind === 'for' && s.binding === 'unrolled' ? 'an unrolled loop is left' : undefined;
}

function firstProblem(exprs: readonly Expr[], machine: Machine): string | undefined {
  for (const e of exprs) {
    const problem = exprProblem(e, machine);
    if (problem !== undefined) return `${printExpr(e)} ${problem}`;
    const inner = firstProblem(operands(e), machine);
    if (inner !== undefined) return inner;
  }
  return undefined;
}

function exprProblem(e: Expr, machine: Machine): string | undefined {
  const { lanes } = e.type;
  if ((lanes & (lanes - 1)) !== 0) return `has ${lanes} lanes`;
  if (machine.vectorBytes === 4) {
    if (lanes !== 1) return 'is a vector';
    if (['repeat', 'slice', 'concat', 'shuffle'].includes(e.kind)) return 'rearranges lanes';
  } else if (typeBits(e.type) > 8 * machine.vectorBytes) {
    return `is a ${typeName(e.type)}, larger than a register`;
  }
  switch (e.kind) {
    case 'reduce':
      return 'is left';
    case 'concat':
      return e.parts.length === 2 ? undefined : `has ${e.parts.length} parts`;
    case 'dot2':
    case 'dot4':
      return isNativeDot(machine, e) ? undefined : 'is not native';
    case 'madd':
    case 'lookup16':
    case 'lookup128':
      return isNative(machine, e.kind) ? undefined : 'is not native';
    case 'binary':
      return e.op !== 'averageRound' || isNative(machine, e.op) ? undefined : 'is not native';
    case 'cast': {
      const kinds: readonly ScalarKind[] = [e.type.kind, e.a.type.kind];
      if (e.type.kind === 'bf16') return 'is left';
      return kinds.includes('f16') && !isNative(machine, 'f16') ? 'is not native' : undefined;
    }
    default:
      return undefined;
  }
}
