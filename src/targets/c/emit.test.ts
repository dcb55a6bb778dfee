import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LutraError } from '../../common/errors.ts';
import { FunctionBuilder } from '../../loops/builder.ts';
import * as x from '../../loops/expr.ts';
import { type RandomCase, randomFunction } from '../../loops/testing.ts';
import { detectCpu } from '../cpu.ts';
import { compileC, findCompilers } from './compile.ts';
import { emitC } from './emit.ts';
import { C_MACHINES, machinesFor, runnableMachines } from './machines.ts';
import { floatCases, integerCases } from './operator-cases.ts';
import {
  canEmulate,
  differences,
  EMULATED_MACHINES,
  emulating,
  KERNELS_INFO,
  kernelsOnly,
  strict,
  withFolder,
  writeSource,
} from './testing.ts';

const SCALAR = C_MACHINES.find((m) => m.isa === 'scalar')!;
const cpu = await detectCpu();
const compilers = await findCompilers();
const compiler = compilers[0];

function randomCases(first: number, count: number): readonly RandomCase[] {
  return Array.from({ length: count }, (_, i) => randomFunction(first + i));
}

describe.skipIf(compiler === undefined)('compiled functions give the bits of the interpreter', () => {
  const machines = runnableMachines(cpu);
  test(`on this processor: ${machines.map((m) => m.name).join(', ')}`, async () => {
    expect(await differences(randomCases(0, 10), machines, strict(compiler!))).toEqual([]);
  });

  const title = 'on emulated AVX-512 VNNI and AVX-VNNI';
  const missing = canEmulate ? '' : ' (skipped: SIMDe is not installed; Debian has it as libsimde-dev)';
  test.skipIf(!canEmulate)(`${title}${missing}`, async () => {
    expect(await differences(randomCases(100, 4), EMULATED_MACHINES, emulating(compiler!))).toEqual([]);
  });

  const operators = (...widths: number[]) => [...floatCases(widths), ...integerCases(widths)];
  const [vectors, plain] = [machines.filter((m) => m !== SCALAR), [SCALAR]];
  test('every operator on extreme values', async () => {
    expect(await differences(operators(1), plain, strict(compiler!))).toEqual([]);
    expect(await differences(operators(1, 4, 16), vectors, strict(compiler!))).toEqual([]);
  });

  test.skipIf(!canEmulate)(`every operator on extreme values, emulated${missing}`, async () => {
    const cases = operators(4, 16);
    expect(await differences(cases, EMULATED_MACHINES, emulating(compiler!))).toEqual([]);
  });
});

describe.each(compilers)('$version', (c) => {
  test.skipIf(cpu.arch !== 'x64')('compiles all variants with their instructions, without a warning', () =>
    withFolder(async (folder) => {
      const functions = randomCases(200, 3).map((r) => r.fn);
      const source = emitC(
        machinesFor('x64').map((m) => kernelsOnly(m, functions)),
        KERNELS_INFO,
      );
      const path = await writeSource(folder, source);
      await compileC({ compiler: strict(c), source: path, output: join(folder, 'model.so') });
    }),
  );
});

/** The part of the file that a variant's kernels are. */
function kernelText(source: string, isa: string): string {
  const start = source.indexOf(`variant ${isa} `);
  const body = source.slice(source.indexOf('\n', start), source.indexOf('/* One forward step', start));
  return body.replace(/^\s*#if.*$/m, '').trim();
}

test('the code is what a person would write', () => {
  const k = new FunctionBuilder('dot');
  const weight = k.buffer('weight', 'u8', 'read');
  const q = k.buffer('q', 'i8', 'read');
  const out = k.buffer('out', 'i32', 'write');
  const n = k.scalar('n');
  k.thread('tile', x.div(n, 8), (tile) => {
    const sum = k.var('sum', x.constant(x.vector('i32', 8), 0));
    k.for('at', 0, 64, 4, (at) => {
      const codes = k.let('codes', k.load(weight, x.add(x.mul(tile, 512), x.mul(at, 8)), 32));
      const high = x.and(x.shift('right', codes, 2), 3);
      k.set(sum, x.add(sum, x.addPairs(x.dot2(high, x.repeat(k.load(q, at, 4), 8), 3))));
    });
    k.store(out, x.mul(tile, 8), sum);
  });
  const source = emitC(
    C_MACHINES.filter((m) => m.isa === 'avx2' || m.isa === 'scalar').map((m) => kernelsOnly(m, [k.build()])),
    KERNELS_INFO,
  );
  expect(kernelText(source, 'avx2')).toMatchInlineSnapshot(`
    "/* Writes out from weight, q; threads share the loop over tile. */
    KERNEL AVX2 void dot_avx2(Range range, const u8 *restrict weight, const i8 *restrict q, i32 *restrict out,
        i32 n) {
      (void)n;
      for (i32 tile = range.begin; tile < range.end; tile++) {
        i32x8 sum = (i32x8){0};
        for (i32 at = 0; at < 64; at += 4) {
          const i32 at_1 = tile * 512 + at * 8;
          const u8x32 codes = load_u8x32(weight + at_1);
          sum = add_i32x8(sum, madd_i16x16(dot2_u8x32(shr_u8x32(codes, 2) & 3,
              repeat_i8x4_x8(load_i8x4(q + at))), splat_i16x16(1)));
        }
        const i32 at_2 = tile * 8;
        store_i32x8(out + at_2, sum);
      }
    }"
  `);
  expect(source).toContain('INLINE AVX2 u8x32 load_u8x32(const u8 *p)');
});

test('code that is not legal for the machine is refused', () => {
  const k = new FunctionBuilder('sum');
  const a = k.buffer('a', 'i32', 'read');
  const b = k.buffer('b', 'i32', 'write');
  k.store(b, 0, x.reduce('add', k.load(a, 0, 4)));
  const main = kernelsOnly(SCALAR, []).program.main;
  const program = { functions: [k.build()], main };
  const emit = () => emitC([{ machine: SCALAR, program }], KERNELS_INFO);
  expect(emit).toThrow(LutraError);
  expect(emit).toThrow(/reduce is not legal on c:scalar/);
});

test('a file without the scalar variant is refused, and so are kernels that C cannot tell apart', () => {
  const avx2 = C_MACHINES.find((m) => m.isa === 'avx2')!;
  expect(() => emitC([kernelsOnly(avx2, [])], KERNELS_INFO)).toThrow(/scalar variant/);
  const { fn } = randomFunction(1);
  expect(() => emitC([kernelsOnly(SCALAR, [fn, fn])], KERNELS_INFO)).toThrow(/two kernels have that name/);
  const odd = { ...fn, name: 'a-b' };
  expect(() => emitC([kernelsOnly(SCALAR, [odd])], KERNELS_INFO)).toThrow(/no C identifier/);
});

test('names of C, of the file and of each other are kept apart', () => {
  const k = new FunctionBuilder('names');
  const out = k.buffer('int', 'i32', 'write');
  const n = k.scalar('range');
  const u8 = k.let('u8x32', x.add(n, 1));
  const clash = k.let('v_int', x.mul(u8, n));
  k.store(out, 0, x.add(clash, x.add(u8, k.let('K', x.mul(n, n)))));
  const text = kernelText(emitC([kernelsOnly(SCALAR, [k.build()])], KERNELS_INFO), 'scalar');
  expect(text).toMatchInlineSnapshot(`
    "/* Writes int from nothing. */
    KERNEL void names_scalar(Range range, i32 *restrict v_int, i32 range_) {
      (void)range;
      const i32 v_u8x32 = add_i32(range_, 1);
      const i32 v_int_ = mul_i32(v_u8x32, range_);
      const i32 v_K = mul_i32(range_, range_);
      v_int[0] = add_i32(v_int_, add_i32(v_u8x32, v_K));
    }"
  `);
});
