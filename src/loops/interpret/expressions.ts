/**
 * Expressions as closures. A scalar becomes a function that returns a number; a vector becomes a function
 * that fills lanes allocated once for that place in the code.
 */
import { LutraError, unreachable } from '../../common/errors.ts';
import { BINARY, COMPARE, caster, checkedDivision, UNARY, wrapper } from '../arithmetic.ts';
import { type Expr, isInteger, isSigned, kindBytes } from '../ir.ts';
import { operands } from '../walk.ts';
import { bufferOf, checkBounds, type Elements, type Frame, newElements, registerOf } from './frame.ts';
import * as loops from './lane-loops.ts';

export type ScalarCode = () => number;

export interface VectorCode {
  /** Holds the value after `run`. */
  readonly out: Elements;
  readonly run: () => void;
}

const nothing = () => {};

export function scalarCode(frame: Frame, e: Expr): ScalarCode {
  const { kind } = e.type;
  switch (e.kind) {
    case 'const': {
      const { value } = e;
      return () => value;
    }
    case 'ref': {
      const register = registerOf(frame, e.name);
      if (register.shape !== 'scalar') throw new LutraError('internal', `${e.name} is a vector`);
      return () => register.value;
    }
    case 'load': {
      const slot = bufferOf(frame, e.buffer);
      const index = scalarCode(frame, e.index);
      return () => {
        const at = index();
        const { lanes } = slot.memory;
        checkBounds(e.buffer, at, 1, lanes.length);
        return lanes[at]!;
      };
    }
    case 'unary': {
      const [a, wrap, f] = [scalarCode(frame, e.a), wrapper(kind), UNARY[e.op]];
      return () => wrap(f(a()));
    }
    case 'binary':
      return scalarBinary(frame, e);
    case 'shift': {
      const [a, wrap, by] = [scalarCode(frame, e.a), wrapper(kind), e.by];
      if (e.op === 'left') return () => wrap(a() << by);
      return isSigned(kind) ? () => a() >> by : () => a() >>> by;
    }
    case 'compare': {
      const [a, b, holds] = [scalarCode(frame, e.a), scalarCode(frame, e.b), COMPARE[e.op]];
      return () => (holds(a(), b()) ? 1 : 0);
    }
    case 'select': {
      const [a, b, holds] = [scalarCode(frame, e.a), scalarCode(frame, e.b), COMPARE[e.op]];
      const [x, y] = [scalarCode(frame, e.x), scalarCode(frame, e.y)];
      return () => {
        // Both sides are evaluated, as on any target, so that a check that fails does so everywhere.
        const [whenTrue, whenFalse] = [x(), y()];
        return holds(a(), b()) ? whenTrue : whenFalse;
      };
    }
    case 'cast': {
      const [a, convert] = [scalarCode(frame, e.a), caster(e.a.type.kind, kind)];
      return () => convert(a());
    }
    default: {
      const { out, run } = vectorCode(frame, e);
      const { lanes } = out;
      return () => {
        run();
        return lanes[0]!;
      };
    }
  }
}

function scalarBinary(frame: Frame, e: Extract<Expr, { kind: 'binary' }>): ScalarCode {
  const { op } = e;
  const [a, b] = [scalarCode(frame, e.a), scalarCode(frame, e.b)];
  if (op === 'rem' || (op === 'div' && isInteger(e.type.kind))) return () => checkedDivision(op, a(), b());
  // Most scalars are addresses.
  if (e.type.kind === 'i32' && op === 'add') return () => (a() + b()) | 0;
  if (e.type.kind === 'i32' && op === 'mul') return () => Math.imul(a(), b());
  const f = op === 'mul' && isInteger(e.type.kind) ? Math.imul : BINARY[op];
  const wrap = wrapper(e.type.kind);
  return () => wrap(f(a(), b()));
}

/** Any expression as lanes, scalars as a single one. */
export function vectorCode(frame: Frame, e: Expr): VectorCode {
  const { kind, lanes } = e.type;
  if (e.kind === 'ref') {
    const register = registerOf(frame, e.name);
    if (register.shape === 'vector') return { out: register.value, run: nothing };
  }
  const out = newElements(kind, lanes);
  if (e.kind === 'const') {
    out.lanes.fill(e.value);
    return { out, run: nothing };
  }
  if (lanes === 1 && hasScalarCode(e)) {
    const scalar = scalarCode(frame, e);
    return {
      out,
      run: () => {
        out.lanes[0] = scalar();
      },
    };
  }
  const inputs = e.kind === 'load' ? [] : operands(e).map((operand) => vectorCode(frame, operand));
  const combine = combineLanes(frame, e, out, inputs);
  const [first, second] = inputs;
  if (inputs.length === 1) {
    return {
      out,
      run: () => {
        first!.run();
        combine();
      },
    };
  }
  if (inputs.length === 2) {
    return {
      out,
      run: () => {
        first!.run();
        second!.run();
        combine();
      },
    };
  }
  return {
    out,
    run: () => {
      for (const input of inputs) input.run();
      combine();
    },
  };
}

function hasScalarCode(e: Expr): boolean {
  switch (e.kind) {
    case 'ref':
    case 'load':
    case 'unary':
    case 'binary':
    case 'shift':
    case 'compare':
    case 'select':
    case 'cast':
      return true;
    default:
      return false;
  }
}

/** Fills `out` from the lanes of the operands, once those have run. */
function combineLanes(frame: Frame, e: Expr, out: Elements, inputs: readonly VectorCode[]): () => void {
  const o = out.lanes;
  const [a, b, c, d] = inputs.map((input) => input.out.lanes);
  switch (e.kind) {
    case 'load': {
      const slot = bufferOf(frame, e.buffer);
      const index = scalarCode(frame, e.index);
      const size = kindBytes(e.type.kind);
      return () => {
        const at = index();
        checkBounds(e.buffer, at, o.length, slot.memory.lanes.length);
        loops.copyBytes(out.bytes, 0, slot.memory.bytes, at * size, out.bytes.length);
      };
    }
    case 'unary': {
      const loop = loops.UNARY_LOOPS[e.op];
      return () => loop(o, a!);
    }
    case 'binary': {
      const loop = binaryLoop(e.op, isInteger(e.type.kind));
      return () => loop(o, a!, b!);
    }
    case 'shift': {
      const right = isSigned(e.type.kind) ? loops.shiftRightSigned : loops.shiftRightUnsigned;
      const loop = e.op === 'left' ? loops.shiftLeft : right;
      return () => loop(o, a!, e.by);
    }
    case 'select':
      return () => loops.selectLanes(e.op, o, a!, b!, c!, d!);
    case 'cast': {
      const loop = loops.mapLanes(caster(e.a.type.kind, e.type.kind));
      return () => loop(o, a!);
    }
    case 'bitcast': {
      const from = inputs[0]!.out.bytes;
      return () => loops.copyBytes(out.bytes, 0, from, 0, from.length);
    }
    case 'repeat': {
      const from = inputs[0]!.out.bytes;
      return () => {
        for (let at = 0; at < out.bytes.length; at += from.length) {
          loops.copyBytes(out.bytes, at, from, 0, from.length);
        }
      };
    }
    case 'slice': {
      const from = inputs[0]!.out.bytes;
      const start = e.start * kindBytes(e.type.kind);
      return () => loops.copyBytes(out.bytes, 0, from, start, out.bytes.length);
    }
    case 'concat': {
      const parts = inputs.map((input) => input.out.bytes);
      return () => {
        let at = 0;
        for (const part of parts) {
          loops.copyBytes(out.bytes, at, part, 0, part.length);
          at += part.length;
        }
      };
    }
    case 'shuffle':
      return () => loops.gatherLanes(o, a!, e.indices);
    case 'dot2':
      if (256 * e.aMax > 32768) throw new LutraError('internal', `dot2 overflows with codes up to ${e.aMax}`);
      return () => loops.dot2Lanes(o, a!, b!, e.aMax);
    case 'madd':
      return () => loops.maddLanes(o, a!, b!);
    case 'dot4':
      return () => loops.dot4Lanes(o, a!, b!, c!, e.aMax);
    case 'lookup16':
      return () => loops.lookup16Lanes(o, a!, b!);
    case 'lookup128':
      return () => loops.lookup128Lanes(o, a!, b!, c!);
    case 'reduce': {
      const loop = binaryLoop(e.op, isInteger(e.type.kind));
      const work = a!.slice();
      return () => {
        work.set(a!);
        o[0] = loops.reduceLanes(loop, work);
      };
    }
    case 'const':
    case 'ref':
    case 'compare':
      throw new LutraError('internal', `${e.kind} cannot have ${e.type.lanes} lanes here`);
    default:
      return unreachable(e);
  }
}

function binaryLoop(op: Extract<Expr, { kind: 'binary' }>['op'], integer: boolean) {
  if (op === 'rem') throw new LutraError('internal', 'rem is for scalars');
  return op === 'mul' && integer ? loops.multiplyIntegers : loops.BINARY_LOOPS[op];
}
