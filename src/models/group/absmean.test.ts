import { describe, expect, it } from 'vitest';
import type { GroupSource } from '../../graph/ir.ts';
import { tensor } from '../../graph/types.ts';
import { toF32 } from '../tensors.ts';
import { bf16Tensor, f32Tensor, memoryCheckpoint, randomValues } from '../testing.ts';
import { exactValues } from '../weights.ts';
import { readCodes } from './group.ts';
import { roundingErrors } from './round.ts';

type AbsMeanSource = Extract<GroupSource, { readonly format: 'absmean' }>;

const source = (fields: Partial<AbsMeanSource>): AbsMeanSource => ({
  format: 'absmean',
  tensor: 'w',
  per: 'group',
  bits: 2,
  group: 32,
  ...fields,
});

/** To a multiple of `unit`, ties to even. */
function roundEven(x: number, unit = 1): number {
  const [low, rest] = [Math.floor(x / unit), x / unit - Math.floor(x / unit)];
  return unit * (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low);
}

/** A positive number as an f16 has it. */
const halfOf = (x: number) => roundEven(x, 2 ** (Math.max(-14, Math.floor(Math.log2(x))) - 10));

/** BitNet's `weight_quant` of these weights, written from the definition, in f32 as transformers computes it. */
function weightQuant(weights: readonly number[]): { readonly trits: number[]; readonly scale: number } {
  const mean = Math.fround(weights.reduce((sum, w) => sum + Math.abs(w), 0) / weights.length);
  const s = Math.fround(1 / Math.max(mean, Math.fround(1e-5)));
  const trits = weights.map((w) => Math.max(-1, Math.min(1, roundEven(Math.fround(w * s)))) + 0);
  return { trits, scale: Math.fround(1 / s) };
}

const [ROWS, COLS] = [9, 80];
/** Rows of very different size, one of zeros and one below the smallest scale. */
const VALUES = randomValues(ROWS * COLS, 11, 1).map((value, i) => {
  const row = Math.floor(i / COLS);
  return row === 3 ? 0 : value ** 3 * [0.02, 1, 7e-6, 0, 30][row % 5]!;
});

describe('rounding to trits by absmean', () => {
  it.each([
    ['group', 32, f32Tensor],
    ['group', 64, bf16Tensor],
    ['group', 80, f32Tensor],
    ['tensor', 80, f32Tensor],
    ['tensor', 80, bf16Tensor],
  ] as const)('per %s, of %i columns, is its definition bit for bit', async (per, group, store) => {
    const checkpoint = memoryCheckpoint({ w: store([ROWS, COLS], VALUES) });
    const weights = [
      ...(await exactValues(
        { name: 'w', type: tensor('f32', ROWS, COLS), source: { kind: 'tensor', tensor: 'w' } },
        checkpoint,
      )),
    ];
    const matrix = await readCodes(source({ per, group }), checkpoint);
    const codes: number[] = [];
    const scales: number[] = [];
    const all = weightQuant(weights);
    let [errors, squares] = [0, 0];
    for (let row = 0; row < ROWS; row++) {
      for (let from = 0; from < COLS; from += group) {
        const [at, end] = [row * COLS + from, row * COLS + Math.min(COLS, from + group)];
        const ofGroup = weights.slice(at, end);
        const own = weightQuant(ofGroup);
        const trits = per === 'tensor' ? all.trits.slice(at, end) : own.trits;
        const scale = per === 'tensor' ? all.scale : halfOf(own.scale);
        codes.push(...trits.map((trit) => trit + 2));
        scales.push(scale);
        for (const [i, w] of ofGroup.entries()) {
          errors += (w - scale * trits[i]!) ** 2;
          squares += w ** 2;
        }
      }
    }
    expect([...matrix.codes]).toEqual(codes);
    expect([...toF32(matrix.scales)]).toEqual(scales);
    expect(matrix).toMatchObject({ bits: 2, group, scales: { dtype: per === 'tensor' ? 'f32' : 'f16' } });
    expect(matrix.zeros).toBeUndefined();
    expect(new Set(codes)).toEqual(new Set([1, 2, 3]));
    expect(roundingErrors(checkpoint).get('w')).toBeCloseTo(errors / squares, 12);
  });

  it('of a tensor has the trits and the scale of BitNet master weights', async () => {
    const checkpoint = memoryCheckpoint({ w: bf16Tensor([ROWS, COLS], VALUES) });
    const trits = await exactValues(
      { name: 't', type: tensor('ternary', ROWS, COLS), source: { kind: 'absmean-ternary', tensor: 'w' } },
      checkpoint,
    );
    const scales = await exactValues(
      { name: 's', type: tensor('f32', ROWS), source: { kind: 'absmean-scale', tensor: 'w', rows: ROWS } },
      checkpoint,
    );
    const matrix = await readCodes(source({ per: 'tensor', group: COLS }), checkpoint);
    expect(Array.from(matrix.codes, (code) => code - 2)).toEqual([...trits]);
    expect([...toF32(matrix.scales)]).toEqual([...scales].map(Math.fround));
  });

  it.each(['tensor', 'group'] as const)('per %s refuses weights that are not finite', async (per) => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const checkpoint = memoryCheckpoint({ w: f32Tensor([1, 2], [1, bad]) });
      await expect(readCodes(source({ per }), checkpoint)).rejects.toMatchObject({
        code: 'invalid',
        message: expect.stringContaining('tensor w has weights that are not finite'),
      });
    }
  });

  it('refuses groups too large for a scale in f16, which a scale of the tensor is not', async () => {
    const checkpoint = memoryCheckpoint({ w: f32Tensor([1, 2], [1e30, -1e30]) });
    await expect(readCodes(source({}), checkpoint)).rejects.toThrow('too large for scales in f16');
    const { codes } = await readCodes(source({ per: 'tensor' }), checkpoint);
    expect([...codes]).toEqual([3, 1]);
  });
});
