import { LutraError, unreachable } from '../common/errors.ts';
import { integerRange } from './arithmetic.ts';
import * as x from './expr.ts';
import { type Expr, isInteger, typeName, type ValueType } from './ir.ts';

function reject(problem: string): never {
  throw new LutraError('internal', `loop IR: ${problem}`);
}

/**
 * The type that an expression must have, given operands of the right types; throws a LutraError if there is
 * none. The constructors of `expr.ts` know the rules.
 */
export function checkedType(e: Expr): ValueType {
  switch (e.kind) {
    case 'const':
      checkConstant(e.type, e.value);
      return e.type;
    case 'ref':
      return e.type;
    case 'load':
      if (e.index.type.kind !== 'i32' || e.index.type.lanes !== 1) {
        reject(`an index must be i32, not ${typeName(e.index.type)}`);
      }
      checkLanes(e.type.lanes);
      return e.type;
    case 'unary':
      return x.unary(e.op, e.a).type;
    case 'binary':
      return x.binary(e.op, e.a, e.b).type;
    case 'shift':
      return x.shift(e.op, e.a, e.by).type;
    case 'compare':
      return x.compare(e.op, e.a, e.b).type;
    case 'select':
      return x.select(e.op, e.a, e.b, e.x, e.y).type;
    case 'cast':
      return x.cast(e.a, e.type.kind).type;
    case 'bitcast':
      checkLanes(e.type.lanes);
      return x.bitcast(e.a, e.type).type;
    case 'repeat':
      return x.repeat(e.a, e.times).type;
    case 'slice':
      return x.slice(e.a, e.start, e.type.lanes).type;
    case 'concat':
      return x.concat(e.parts).type;
    case 'shuffle':
      return x.shuffle(e.a, e.indices).type;
    case 'dot2':
      return x.dot2(e.a, e.b, e.aMax).type;
    case 'madd':
      return x.madd(e.a, e.b).type;
    case 'dot4':
      return x.dot4(e.acc, e.a, e.b, e.aMax).type;
    case 'lookup16':
      return x.lookup16(e.table, e.index).type;
    case 'lookup128':
      return x.lookup128(e.low, e.high, e.index).type;
    case 'reduce':
      return x.reduce(e.op, e.a).type;
    default:
      return unreachable(e);
  }
}

function checkLanes(lanes: number): void {
  if (!Number.isInteger(lanes) || lanes < 1) reject(`a value of ${lanes} lanes`);
}

function checkConstant(type: ValueType, value: number): void {
  checkLanes(type.lanes);
  if (type.kind === 'f32') {
    if (!Object.is(Math.fround(value), value)) reject(`${value} is not an f32`);
    return;
  }
  if (!isInteger(type.kind)) reject(`a constant of the storage format ${type.kind}`);
  const [min, max] = integerRange(type.kind);
  if (!Number.isInteger(value) || value < min || value > max) reject(`${value} is not an ${type.kind}`);
}
