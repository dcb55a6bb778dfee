/**
 * The loop IR as text; `parse.ts` reads it back exactly.
 *
 * ```
 * fn scale(x: read f32[], y: write f32[], n: i32, factor: f32) {
 *   local tmp: i32[16]
 *   thread for i in 0 .. n {
 *     let v = x[i * 16 +: 16]                       // 16 lanes from element i * 16
 *     y[i * 16] = v * repeat(factor, 16) + f32x16(0.5)
 *   }
 * }
 * ```
 * A plain number is an i32, one with a point, an exponent, `inf` or `nan` an f32; `u8x64(3)` is a constant of
 * any other type. `&`, `|`, `^`, `<<` and `>>` bind equally and take operands in brackets.
 */
import { unreachable } from '../common/errors.ts';
import {
  type BinaryOp,
  type BufferArg,
  type CompareOp,
  type Expr,
  type LoopFunction,
  type Program,
  type Stmt,
  typeName,
} from './ir.ts';

/** Words that cannot be names. */
export const KEYWORDS: ReadonlySet<string> = new Set(
  'fn local let var for in step unrolled thread if else call barrier prefetch inf nan'.split(' '),
);

/** How tightly an expression binds: what needs brackets as an operand of what. */
export const BINDS = { compare: 0, bits: 1, sum: 2, product: 3, atom: 4 } as const;

interface InfixOp {
  readonly symbol: string;
  readonly binds: number;
}

export const INFIX: Partial<Record<BinaryOp, InfixOp>> = {
  add: { symbol: '+', binds: BINDS.sum },
  sub: { symbol: '-', binds: BINDS.sum },
  mul: { symbol: '*', binds: BINDS.product },
  div: { symbol: '/', binds: BINDS.product },
  rem: { symbol: '%', binds: BINDS.product },
  and: { symbol: '&', binds: BINDS.bits },
  or: { symbol: '|', binds: BINDS.bits },
  xor: { symbol: '^', binds: BINDS.bits },
};

export const COMPARE_SYMBOLS: Record<CompareOp, string> = { lt: '<', le: '<=', eq: '==', ne: '!=' };

/** The shortest decimal that rounds to the same f32, always recognizable as a float. */
function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf';
  if (Object.is(value, -0)) return '-0.0';
  let text = String(value);
  for (let digits = 1; digits <= 9 && !Number.isInteger(value); digits++) {
    const shorter = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(shorter)) === value) {
      text = shorter;
      break;
    }
  }
  return /[.e]/.test(text) ? text : `${text}.0`;
}

function constantText(e: Extract<Expr, { kind: 'const' }>): string {
  const literal = e.type.kind === 'f32' ? floatText(e.value) : String(e.value);
  const plain = e.type.lanes === 1 && (e.type.kind === 'f32' || e.type.kind === 'i32');
  return plain ? literal : `${typeName(e.type)}(${literal})`;
}

function comparison(op: CompareOp, a: Expr, b: Expr): string {
  return `${at(a, BINDS.bits)} ${COMPARE_SYMBOLS[op]} ${at(b, BINDS.bits)}`;
}

/** The text of an operand, in brackets if it binds less tightly than `binds`. */
function at(e: Expr, binds: number): string {
  const bracketed = (own: number, text: string) => (own < binds ? `(${text})` : text);
  const call = (name: string, ...args: (Expr | string | number)[]) =>
    `${name}(${args.map((a) => (typeof a === 'object' ? at(a, BINDS.compare) : a)).join(', ')})`;

  switch (e.kind) {
    case 'const':
      return constantText(e);
    case 'ref':
      return e.name;
    case 'load': {
      const lanes = e.type.lanes === 1 ? '' : ` +: ${e.type.lanes}`;
      return `${e.buffer}[${at(e.index, BINDS.compare)}${lanes}]`;
    }
    case 'unary':
      return call(e.op, e.a);
    case 'binary': {
      const infix = INFIX[e.op];
      if (infix === undefined) return call(e.op, e.a, e.b);
      const { symbol, binds } = infix;
      const left = at(e.a, binds === BINDS.bits ? BINDS.atom : binds);
      const right = at(e.b, binds === BINDS.bits ? BINDS.atom : binds + 1);
      return bracketed(binds, `${left} ${symbol} ${right}`);
    }
    case 'shift':
      return bracketed(BINDS.bits, `${at(e.a, BINDS.atom)} ${e.op === 'left' ? '<<' : '>>'} ${e.by}`);
    case 'compare':
      return bracketed(BINDS.compare, comparison(e.op, e.a, e.b));
    case 'select':
      return call('select', comparison(e.op, e.a, e.b), e.x, e.y);
    case 'cast':
      return call('cast', e.a, e.type.kind);
    case 'bitcast':
      return call('bitcast', e.a, typeName(e.type));
    case 'repeat':
      return call('repeat', e.a, e.times);
    case 'slice':
      return call('slice', e.a, e.start, e.type.lanes);
    case 'concat':
      return call('concat', ...e.parts);
    case 'shuffle':
      return call('shuffle', e.a, `[${e.indices.join(', ')}]`);
    case 'dot2':
      return call('dot2', e.a, e.b, e.aMax);
    case 'madd':
      return call('madd', e.a, e.b);
    case 'dot4':
      return call('dot4', e.acc, e.a, e.b, e.aMax);
    case 'lookup16':
      return call('lookup16', e.table, e.index);
    case 'lookup128':
      return call('lookup128', e.low, e.high, e.index);
    case 'reduce':
      return call('reduce', e.op, e.a);
    default:
      return unreachable(e);
  }
}

export function printExpr(e: Expr): string {
  return at(e, BINDS.compare);
}

function argumentText({ buffer, offset }: BufferArg): string {
  return `${buffer} @ ${printExpr(offset)}`;
}

/** The first line of a statement, without what a block holds. */
export function printStatementHead(s: Stmt): string {
  switch (s.kind) {
    case 'let':
      return `let ${s.name} = ${printExpr(s.value)}`;
    case 'var':
      return `var ${s.name} = ${printExpr(s.init)}`;
    case 'assign':
      return `${s.name} = ${printExpr(s.value)}`;
    case 'store':
      return `${s.buffer}[${printExpr(s.index)}] = ${printExpr(s.value)}`;
    case 'for': {
      const binding = s.binding === 'serial' ? '' : `${s.binding} `;
      const step = s.step === 1 ? '' : ` step ${s.step}`;
      return `${binding}for ${s.variable} in ${printExpr(s.from)} .. ${printExpr(s.to)}${step}`;
    }
    case 'if':
      return `if ${printExpr(s.condition)}`;
    case 'prefetch':
      return `prefetch ${s.buffer}[${printExpr(s.index)}]`;
    case 'call':
      return `call ${s.fn}(${[...s.buffers.map(argumentText), ...s.scalars.map(printExpr)].join(', ')})`;
    case 'barrier':
      return 'barrier';
    default:
      return unreachable(s);
  }
}

function* blockLines(body: readonly Stmt[], indent: string): Generator<string> {
  for (const s of body) {
    const head = indent + printStatementHead(s);
    if (s.kind === 'for') {
      yield `${head} {`;
      yield* blockLines(s.body, `${indent}  `);
      yield `${indent}}`;
    } else if (s.kind === 'if') {
      yield `${head} {`;
      yield* blockLines(s.whenTrue, `${indent}  `);
      if (s.whenFalse.length > 0) {
        yield `${indent}} else {`;
        yield* blockLines(s.whenFalse, `${indent}  `);
      }
      yield `${indent}}`;
    } else {
      yield head;
    }
  }
}

export function printFunction(fn: LoopFunction): string {
  const params = [
    ...fn.buffers.map((b) => `${b.name}: ${b.access} ${b.elem}[]`),
    ...fn.scalars.map((s) => `${s.name}: ${s.kind}`),
  ];
  return [
    `fn ${fn.name}(${params.join(', ')}) {`,
    ...fn.locals.map((l) => `  local ${l.name}: ${l.elem}[${l.size}]`),
    ...blockLines(fn.body, '  '),
    '}',
    '',
  ].join('\n');
}

/** The kernels in order, then `main`. */
export function printProgram(program: Program): string {
  return [...program.functions, program.main].map(printFunction).join('\n');
}
