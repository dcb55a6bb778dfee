import { describe, expect, test } from 'vitest';
import { type BufferRef, FunctionBuilder } from './builder.ts';
import * as x from './expr.ts';
import { type Expr, type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program, type Stmt } from './ir.ts';
import { randomFunction } from './testing.ts';
import { verifyFunction, verifyProgram } from './verify.ts';

/** fn victim(x: read u8[], y: write i32[], n: i32, s: f32) { local tmp: f32[8]; ... } */
function victim(body: readonly Stmt[], change: Partial<LoopFunction> = {}): LoopFunction {
  return {
    name: 'victim',
    buffers: [
      { name: 'x', elem: 'u8', access: 'read' },
      { name: 'y', elem: 'i32', access: 'write' },
    ],
    scalars: [
      { name: 'n', kind: 'i32' },
      { name: 's', kind: 'f32' },
    ],
    locals: [{ name: 'tmp', elem: 'f32', size: 8 }],
    body,
    ...change,
  };
}

const n = x.ref('n', x.I32);
const s = x.ref('s', x.F32);
const bind = (name: string, value: Expr): Stmt => ({ kind: 'let', name, value });
const store = (buffer: string, value: Expr, index: Expr = n): Stmt => ({
  kind: 'store',
  buffer,
  index,
  value,
});
const loop = (change: Partial<Extract<Stmt, { kind: 'for' }>>): Stmt => ({
  kind: 'for',
  variable: 'i',
  from: x.int(0),
  to: n,
  step: 1,
  binding: 'serial',
  body: [],
  ...change,
});
const load = (buffer: string, type: Expr['type'], index: Expr = n): Expr => ({
  kind: 'load',
  buffer,
  index,
  type,
});

test('well-formed functions pass', () => {
  for (let seed = 0; seed < 100; seed++) verifyFunction(randomFunction(seed).fn);
  verifyFunction(victim([loop({ binding: 'thread', body: [store('y', x.ref('i', x.I32))] })]));
});

describe('functions', () => {
  test.each<[string, readonly Stmt[], string]>([
    ['unknown name', [store('y', x.ref('z', x.I32))], 'at "y[n] = z": z is not defined here'],
    ['used before', [store('y', x.ref('z', x.I32)), bind('z', n)], 'z is not defined here'],
    [
      'out of its block',
      [loop({ body: [bind('z', n)] }), store('y', x.ref('z', x.I32))],
      'z is not defined here',
    ],
    ['buffer as a value', [store('y', x.ref('x', x.I32))], 'x is not defined here'],
    ['other type', [store('y', x.ref('s', x.I32))], 's must be f32, not i32'],
    ['same name', [bind('z', n), bind('z', n)], 'the name z is used twice'],
    ['same name in blocks', [loop({}), loop({})], 'the name i is used twice'],
    ['name of a parameter', [bind('x', n)], 'the name x is used twice'],
    ['not a name', [bind('a b', n)], '"a b" is not a name'],
    ['keyword', [bind('step', n)], 'the keyword step is used as a name'],
    ['store to read', [store('x', x.constant(x.vector('u8', 1), 1))], 'x is only read'],
    ['load from write', [bind('z', load('y', x.I32))], 'y is only written'],
    ['store kind', [store('y', s)], 'a f32 is stored in y: i32[]'],
    ['load kind', [bind('z', load('x', x.F32))], 'a f32 is loaded from x: u8[]'],
    ['unknown buffer', [bind('z', load('w', x.F32))], 'w is not a buffer'],
    ['index', [store('tmp', s, s)], 'an index must be i32, not f32'],
    ['load index', [bind('z', load('tmp', x.F32, s))], 'an index must be i32, not f32'],
    ['assigned let', [bind('z', n), { kind: 'assign', name: 'z', value: n }], 'z is not a register'],
    [
      'assigned type',
      [
        { kind: 'var', name: 'z', init: n },
        { kind: 'assign', name: 'z', value: s },
      ],
      'not f32',
    ],
    ['step', [loop({ step: 0 })], 'the step is 0'],
    ['bound', [loop({ to: s })], 'a bound must be i32, not f32'],
    ['unrolled', [loop({ binding: 'unrolled' })], 'the bounds of an unrolled loop must be constant'],
    [
      'nested thread',
      [loop({ body: [loop({ variable: 'j', binding: 'thread' })] })],
      'only an outermost loop',
    ],
    ['two threads', [loop({ binding: 'thread' }), loop({ variable: 'j', binding: 'thread' })], 'two thread'],
    ['thread from', [loop({ binding: 'thread', from: n })], 'a thread loop starts at 0 and has step 1'],
    ['condition', [{ kind: 'if', condition: s, whenTrue: [], whenFalse: [] }], 'a condition must be i32'],
    ['call', [{ kind: 'call', fn: 'f', buffers: [], scalars: [] }], 'only main calls'],
    ['barrier', [{ kind: 'barrier' }], 'only main has barriers'],
    ['wrong type', [bind('z', { kind: 'binary', op: 'add', a: n, b: n, type: x.F32 })], 'is i32, not f32'],
    ['operands', [bind('z', { kind: 'binary', op: 'add', a: n, b: s, type: x.I32 })], 'operands of one type'],
    ['constant', [bind('z', { kind: 'const', type: x.vector('u8', 1), value: 256 })], '256 is not an u8'],
    ['float constant', [bind('z', { kind: 'const', type: x.F32, value: 0.1 })], '0.1 is not an f32'],
    ['lanes', [bind('z', load('x', x.vector('u8', 0)))], 'a value of 0 lanes'],
    ['storage', [bind('z', { kind: 'const', type: x.vector('f16', 1), value: 1 })], 'storage format'],
    [
      'overflowing dot2',
      [
        bind('z', {
          kind: 'dot2',
          a: load('x', x.vector('u8', 2)),
          b: x.bitcast(load('x', x.vector('u8', 2)), x.vector('i8', 2)),
          aMax: 129,
          type: x.vector('i16', 1),
        }),
      ],
      'dot2 overflows with codes up to 129',
    ],
  ])('%s', (_, body, message) => {
    expect(() => verifyFunction(victim(body))).toThrow(message);
    expect(() => verifyFunction(victim(body))).toThrow('loop IR: in victim');
  });

  test('parameters and locals', () => {
    const local = (size: number) => ({ locals: [{ name: 'tmp', elem: 'f32', size }] }) as const;
    expect(() => verifyFunction(victim([], local(0)))).toThrow('in victim: local tmp has 0 elements');
    expect(() => verifyFunction(victim([], { scalars: [{ name: 'x', kind: 'i32' }] }))).toThrow('used twice');
    expect(() => verifyFunction(victim([], { name: 'low-bit' }))).toThrow('"low-bit" is not a name');
  });
});

describe('programs', () => {
  const kernel = victim([loop({ binding: 'thread', to: x.add(n, 1) })]);
  const main = (
    write: (k: FunctionBuilder, buffers: BufferRef[], scalars: Expr[]) => void,
    name = 'main',
  ): LoopFunction => {
    const k = new FunctionBuilder(name);
    const buffers = MAIN_BUFFERS.map((b) => k.buffer(b.name, b.elem, b.access));
    write(
      k,
      buffers,
      MAIN_SCALARS.map((p) => k.scalar(p.name, p.kind)),
    );
    return k.build();
  };
  const program = (write: Parameters<typeof main>[0], functions = [kernel]): Program => ({
    functions,
    main: main(write),
  });
  const args = (buffers: BufferRef[], ...indices: number[]) =>
    indices.map((i) => ({ buffer: buffers[i]!, offset: 0 }));

  test('well-formed', () => {
    verifyProgram(program((k, b, [count]) => k.call('victim', args(b, 0, 1), [count!, x.float(1)])));
  });

  test('calls', () => {
    const call = (...[fn, indices, scalars]: [string, number[], Expr[]]) =>
      program((k, b) => k.call(fn, args(b, ...indices), scalars));
    const [one, half] = [x.int(1), x.float(0.5)];
    expect(() => verifyProgram(call('nothing', [], []))).toThrow('there is no function nothing');
    expect(() => verifyProgram(call('victim', [0], [one, half]))).toThrow(
      'victim takes 2 buffers, 2 scalars, not 1 buffers, 2 scalars',
    );
    expect(() => verifyProgram(call('victim', [0, 1], [one, one]))).toThrow('s of victim is f32, not i32');
    expect(() => verifyProgram(call('victim', [1, 0], [one, half]))).toThrow(
      'victim writes y, but weights is only read',
    );
  });

  test('functions', () => {
    const nothing = () => {};
    expect(() => verifyProgram(program(nothing, [kernel, kernel]))).toThrow('another function of that name');
    expect(() => verifyProgram(program(nothing, [victim([])]))).toThrow('it has no thread loop');
    const byData = victim([loop({ binding: 'thread', to: x.cast(load('x', x.vector('u8', 1)), 'i32') })]);
    expect(() => verifyProgram(program(nothing, [byData]))).toThrow('must depend on scalar parameters only');
  });

  test('main', () => {
    const nothing = () => {};
    expect(() => verifyProgram({ functions: [], main: main(nothing, 'start') })).toThrow(
      'it is called start',
    );
    expect(() => verifyProgram({ functions: [], main: { ...main(nothing), scalars: [] } })).toThrow(
      'logits: write f32[]), not (weights: read u8[],',
    );
    expect(() => verifyProgram(program((k, b) => k.store(b.at(-1)!, 0, x.float(1))))).toThrow(
      'every thread would store',
    );
    expect(() => verifyProgram(program((k) => k.thread('i', 4, () => {})))).toThrow('it has a thread loop');
  });
});
