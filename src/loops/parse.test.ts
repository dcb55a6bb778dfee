import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { FunctionBuilder } from './builder.ts';
import * as x from './expr.ts';
import { type LoopFunction, MAIN_BUFFERS, MAIN_SCALARS, type Program } from './ir.ts';
import { legalize } from './legalize.ts';
import { parseFunction, parseProgram } from './parse.ts';
import { printFunction, printProgram } from './print.ts';
import { randomFunction } from './testing.ts';

const SAMPLE = `fn scale(x: read u8[], y: readwrite f32[], n: i32, factor: f32) {
  local tmp: i32[16]
  thread for i in 0 .. n {
    let codes = x[i * 64 + 1 +: 64] & u8x64(3)
    var acc = f32x4(0.0)
    for k in 0 .. 3 step 2 {
      acc = acc + y[(i - k) * 4 +: 4] * repeat(factor, 4)
    }
    unrolled for j in 0 .. 4 {
      tmp[j] = dot4(j, slice(codes, 4, 4), bitcast(j << 3, i8x4), 3)
    }
    if i < n - 1 {
      prefetch x[(i + 1) * 64]
      y[i * 4] = select(acc < f32x4(-1.5), acc, -acc_free)
    } else {
      y[i * 4] = max(acc, concat(1.0, -0.0, inf, 1e-7))
    }
  }
}
`.replace('-acc_free', 'neg(acc)');

const MAIN = `fn main(weights: read u8[], arena: readwrite u8[], cache: readwrite u8[], tokens: read i32[], sequences: read i32[], outputs: read i32[], logits: write f32[], n: i32, count: i32) {
  for t in 0 .. n step 16 {
    call fill(arena @ 2, n - t)
    barrier
  }
}
`;
const FILL = `fn fill(out: write i32[], n: i32) {
  thread for i in 0 .. n {
    out[i] = i
  }
}
`;

function position(text: string): string {
  try {
    parseFunction(text);
  } catch (error) {
    if (error instanceof LutraError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'no error';
}

describe('round trip', () => {
  test('a function', () => {
    expect(printFunction(parseFunction(SAMPLE))).toBe(SAMPLE);
  });

  test('a program', () => {
    const text = `${FILL}\n${MAIN}`;
    const program = parseProgram(text);
    expect(printProgram(program)).toBe(text);
    expect(program.functions.map((fn) => fn.name)).toEqual(['fill']);
    expect(parseFunction(printFunction(program.main))).toEqual(program.main);
  });

  test('what the builder writes for main', () => {
    const k = new FunctionBuilder('main');
    const buffers = MAIN_BUFFERS.map(({ name, elem, access }) => k.buffer(name, elem, access));
    const [n] = MAIN_SCALARS.map(({ name, kind }) => k.scalar(name, kind));
    k.call('fill', [{ buffer: buffers[1]!, offset: x.add(n!, 3) }], [n!]);
    k.barrier();
    const program: Program = { functions: [parseFunction(FILL)], main: k.build() };
    expect(parseProgram(printProgram(program))).toEqual(program);
  });

  test('random functions', () => {
    fc.assert(
      fc.property(fc.nat(1e9), (seed) => {
        const { fn } = randomFunction(seed);
        expect(parseFunction(printFunction(fn))).toEqual(fn);
      }),
      { seed: 1, numRuns: 60 },
    );
  });

  test('legalized random functions', () => {
    const machine = {
      name: 'test',
      vectorBytes: 16,
      vectorRegisters: 16,
      native: new Set<'madd'>(['madd']),
      dotCodeMax: 255,
      l1Bytes: 32768,
      l2Bytes: 1 << 20,
    } as const;
    for (let seed = 0; seed < 20; seed++) {
      const fn = legalize(randomFunction(seed).fn, machine);
      expect(parseFunction(printFunction(fn))).toEqual(fn);
    }
  });

  test('every f32', () => {
    const roundTrip = (value: number): number => {
      const fn: LoopFunction = {
        name: 'constant',
        buffers: [{ name: 'y', elem: 'f32', access: 'write' }],
        scalars: [],
        locals: [],
        body: [{ kind: 'store', buffer: 'y', index: x.int(0), value: x.float(value) }],
      };
      const [store] = parseFunction(printFunction(fn)).body;
      return store?.kind === 'store' && store.value.kind === 'const' ? store.value.value : 0;
    };
    fc.assert(
      fc.property(fc.float(), (value) => {
        expect(roundTrip(value)).toBe(value);
      }),
      { seed: 1, numRuns: 1000 },
    );
    for (const value of [0, -0, Infinity, -Infinity, Number.NaN, 2 ** 31, -(2 ** 31), 2 ** -149, 3.4e38]) {
      expect(roundTrip(Math.fround(value))).toBe(Math.fround(value));
    }
  });
});

describe('malformed text', () => {
  const replaced = (from: string, to: string) => position(SAMPLE.replace(from, to));

  test('is refused with line and column', () => {
    expect(replaced('let codes =', 'let codes')).toBe(
      'invalid: loop IR text, line 4, column 15: expected = but found x',
    );
    expect(replaced('repeat(factor, 4)', 'repeat(factor, 3)')).toContain(
      'line 7, column 19: mul needs operands of one type',
    );
    expect(replaced('u8x64(3)', 'u8x64(300)')).toContain('line 4, column 39: 300 is not an u8');
    expect(replaced('dot4(', 'dot5(')).toContain('line 10, column 16: there is no operation dot5');
    expect(replaced('dot4(', 'constructor(')).toContain('there is no operation constructor');
    expect(replaced('tmp[j]', 'tmp[u]')).toContain('line 10, column 11: there is no value u here');
    expect(replaced('x[(i', 'z[(i')).toContain('z is not a buffer');
    expect(replaced('1e-7', '1e-')).toContain('line 16, column 50: unexpected "1"');
    expect(replaced('factor: f32', 'factor: u8')).toContain('a scalar parameter cannot be u8');
    expect(position(SAMPLE.slice(0, -4))).toContain('expected a statement but found the end of the text');
    expect(position('')).toContain('line 1, column 1: expected fn but found the end of the text');
    expect(position(`${SAMPLE} fn`)).toContain('expected the end of the text but found fn');
    expect(position('fn é() {}')).toContain('line 1, column 4: unexpected "é"');
  });

  test('that parses is still verified', () => {
    expect(replaced('thread for i in 0', 'thread for i in 1')).toContain('a thread loop starts at 0');
    expect(replaced('readwrite', 'read')).toContain('y is only read');
    expect(() => parseProgram(MAIN)).toThrow('there is no function fill');
    expect(() => parseProgram('')).toThrow('there is no function');
  });

  test('nested without end does not exhaust the stack', () => {
    const nested = (n: number) => `fn f(y: write i32[]) { y[0] = ${'('.repeat(n)}1${')'.repeat(n)} }`;
    expect(position(nested(100))).toBe('no error');
    expect(position(nested(100_000))).toContain('nested too deeply');
    expect(position(`fn f(n: i32) { ${'if n { '.repeat(100_000)}`)).toContain('nested too deeply');
  });

  test('made of pieces of valid text never fails otherwise than by LutraError', () => {
    const words = [...new Set(`${SAMPLE} ${FILL} ${MAIN}`.match(/\w+|\S/g))];
    const tokens = fc.array(fc.constantFrom(...words), { maxLength: 40 }).map((w) => w.join(' '));
    const edited = fc
      .tuple(
        fc.nat(SAMPLE.length),
        fc.nat(12),
        fc.oneof(fc.constantFrom(...words), fc.string({ maxLength: 3 })),
      )
      .map(([at, count, text]) => SAMPLE.slice(0, at) + text + SAMPLE.slice(at + count));
    const texts = fc.oneof(
      { weight: 6, arbitrary: edited },
      { weight: 2, arbitrary: tokens.map((t) => `fn f(x: read i8[], y: write i32[], n: i32) { ${t} }`) },
      { weight: 1, arbitrary: fc.string() },
    );
    let valid = 0;
    fc.assert(
      fc.property(texts, (text) => {
        if (position(text) === 'no error') valid++;
      }),
      { seed: 2, numRuns: 3000 },
    );
    expect(valid).toBeGreaterThan(10);
    expect(valid).toBeLessThan(1500);
  });
});
