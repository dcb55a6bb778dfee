import { alignUp } from '../common/math.ts';
import type { LoopFunction } from '../loops/ir.ts';
import type { Machine } from '../loops/machine.ts';

/** Widths of activation rows and of packed weights are padded to a multiple of this many elements. */
export const ROW_PAD = 64;

/**
 * One way to compute an operator: (shape, schedule) -> loop IR. `Shape` and `Schedule` are plain JSON, so
 * that a plan, a tuning record and a manifest can hold them.
 */
export interface Kernel<Shape, Schedule> {
  /** `lowbit.matmul`, ...; with `family` it identifies the kernel in plans and records. */
  readonly op: string;
  readonly family: string;
  /** A good choice that needs no tuning. */
  defaultSchedule(shape: Shape, machine: Machine): Schedule;
  /** All choices worth trying on this machine, the default among them. */
  schedules(shape: Shape, machine: Machine): readonly Schedule[];
  build(name: string, shape: Shape, schedule: Schedule): LoopFunction;
}

/** What multiplies codes by activations: `dot4` into i32, `dot2` into i16 that are widened in time, `madd` of i16, */
export type VectorMultiply = 'dot4' | 'dot2' | 'madd';

/** or scalar code. */
export type Multiply = VectorMultiply | 'scalar';

/** Schedules to try: the default, then those of `others` that differ from it. */
export function defaultFirst<Schedule extends object>(
  chosen: Schedule,
  others: readonly Schedule[],
): readonly Schedule[] {
  return [chosen, ...others.filter((schedule) => !sameFields(chosen, schedule))];
}

/** All combinations of the given choices with `base`, which is one of them and comes first. */
export function variations<Schedule extends object>(
  base: Schedule,
  choices: { readonly [K in keyof Schedule]?: readonly Schedule[K][] },
): readonly Schedule[] {
  let all: Schedule[] = [base];
  for (const key of Object.keys(choices) as (keyof Schedule)[]) {
    const others = (choices[key] ?? []).filter((value) => value !== base[key]);
    all = all.flatMap((schedule) => [schedule, ...others.map((value) => ({ ...schedule, [key]: value }))]);
  }
  return all;
}

function sameFields(a: object, b: object): boolean {
  const sorted = (x: object) => JSON.stringify(Object.entries(x).sort(([k], [l]) => (k < l ? -1 : 1)));
  return sorted(a) === sorted(b);
}

/** Whether two schedules choose the same, in whatever order their fields are written. */
export function sameSchedule(a: PlainRecord, b: PlainRecord): boolean {
  return sameFields(a, b);
}

/** A kernel with its types forgotten: what a registry holds. */
export type AnyKernel = Kernel<PlainRecord, PlainRecord>;

export type PlainRecord = Readonly<Record<string, string | number | boolean>>;

/** Elements from one activation row of `width` elements to the next. */
export function rowStride(width: number): number {
  return alignUp(width, ROW_PAD);
}

/*
The kernels and their parameters, in order (r read, w write). Activations are row-major; the stride of a row
of k elements is pad(k) = rowStride(k). The padding of i8 rows is zeros, written by whoever writes the row; the
padding of f32 rows is anything, and kernels that reduce over a row leave it out. `n` is the number of rows
(tokens) of this call. Every kernel has a thread loop.

Float results never depend on the schedule, on the number of threads or on which tokens share a call: every
reduction has a fixed order (a fixed number of partial sums, attention in chunks of `CHUNK` positions).

  embedding      {hidden, elem}                    tokens i32 r, table elem r [vocab, pad(hidden)], out f32 w [n, pad]; n
  rmsNorm        {k, eps}                          x f32 r, weight f32 r [pad(k)], out f32 w; n
  rmsNorm.quantize {k, eps}                        x f32 r, weight f32 r, q i8 w, scale f32 w [n], sum i32 w [n]; n
  quantize       {k}                               x f32 r, q i8 w, scale f32 w, sum i32 w; n
  lowbit.matmul  {m, k, residual, batch: 'one'|'many', encoding}
                                                   q i8 r, scale f32 r, sum i32 r, weight u8 r, weightScale f32 r [pad(m)],
                                                   (residual f32 r [n, pad(m)],) out f32 w [n, pad(m)]; n
                                                   out may be the same memory as residual
  quantize.group {k, group, to: 'int8'|'int16'|'sums', (from,) ordered}
                                                   x f32 r, (order i32 r [k],) q i8 w, scale f32 w [n, pad(a)],
                                                   sum i32 w [n, pad(a)]; n      a = ceil(k / group)
                                                   q of int16 is two rows of i8, q = 128 * first + second
  rmsNorm.quantize.group {..., eps}                x f32 r, weight f32 r, (order i32 r,) q w, scale w, sum w; n
  lowbit.matmul.group {m, k, bits, group, activationGroup, zero, zeros, scales, to, residual, batch, encoding}
                                                   q i8 r, scale f32 r [n, pad(a)], sum i32 r, weight u8 r,
                                                   weightScale f16|f32 r, (residual f32 r,) (zeros u8|f16|f32 r,)
                                                   out f32 w [n, pad(m)]; n      both encoded as group-lanes
  quantize.blocks {k, group, block, to}            x f32 r, q i8 w as above, scale f32 w [n, pad(k/block)],
                                                   sum i32 w [n, pad(k/group)]; n
  lowbit.matmul.blocks {m, k, bits, group, block, zero, scaleCodes, zeroCodes, to, residual, batch, encoding}
                                                   q i8 r, scale f32 r, sum i32 r, weight u8 r, weightScale f16 r,
                                                   (residual f32 r,) scaleCodes u8|i8 r, (zeros f16 r, zeroCodes u8 r,)
                                                   out f32 w [n, pad(m)]; n      all of weights but the codes as group-lanes
  lut.tables     {k, activationGroup, to, tables: 'exact'|'int8'|'fast'|'bits'}
                                                   q i8 r, tables i8 w, (tableBias i32 w [n, pad(a)]); n
  lowbit.matmul, lut {as above}                    tables i8 r, then as above
  lowbit.matmul.group, lut {as above, tables}      tables i8 r, (tableBias i32 r,) then as above
  rope.store     {heads, kvHeads, headDim, context, style, cacheElem}
                                                   qkv f32 r [n, pad((heads+2kvHeads)*headDim)], table f32 r [positions, headDim],
                                                   qOut f32 w [n, pad(heads*headDim)], keys w, (keyScales f32 w,)
                                                   values w(, valueScales f32 w); n, pos
  attention      {heads, kvHeads, headDim, context, cacheElem, (window)}
                                                   q f32 r, keys r, (keyScales f32 r,) values r, (valueScales f32 r,) parts f32 w,
                                                   out f32 w [n, pad(heads*headDim)]; n, pos, apart: 1: write parts, 0: out
  attention.parts {as above}                       of one token: q f32 r, keys r, (keyScales f32 r,) values r, (valueScales f32 r,)
                                                   parts f32 w; pos
  attention.merge {as above}                       parts f32 r, out f32 w [n, pad(heads*headDim)]; n, pos
                 keys of a layer: [kvHeads][ceil(context/16)][headDim][16 positions]
                 values: [kvHeads][alignUp(context,16)][alignUp(headDim,16)]
                 with cacheElem i8, elements in pairs: keys [kvHeads][ceil(context/16)][headDim/2][16 positions][2],
                 values [kvHeads][alignUp(context,16)/2][alignUp(headDim,16)][2 positions]; an element is a code times
                 the scale of its position, [kvHeads][alignUp(context,16)]
                 positions that were not stored, and the padding of values, may hold anything, NaN included
  gate.packed    {k, act}                          gateUp f32 r [n, pad(2k)], out f32 w [n, pad(k)]; n
  add            {k}                               a f32 r, b f32 r, out f32 w; n
  selectOutputs  {k}                               x f32 r, outputs i32 r [n + 1], out f32 w; n
                                                   the rows i of x where outputs[i] < outputs[i + 1]
  matmul         {m, k, elem}                      x f32 r [n, pad(k)], table elem r [m, pad(k)], out f32 w [n, pad(m)]; n
  matmul.quantize, int16 {k}                       x f32 r, q i16 w [n, pad(k)], unit f32 w [n]; n
  matmul, int8   {m, k, elem: 'i8'}                q i16 r, unit f32 r, table i8 r [m, pad(k)], rowScale f32 r [pad(m)],
                                                   out f32 w [n, pad(m)]; n
  matmul.quantize {k, group, planes, norms}        x f32 r, q i8 w [n, planes*pad(k)], factor f32 w [n, pad(groups)],
                                                   sum i32 w [n, pad(groups)], (norm f32 w [n, pad(2)]); n
  matmul, grouped {m, k, bits, group, planes, bounds}
                                                   q, factor, sum, (norm) as above r, table u8 r, (rowNorm f32 r [2, pad(m)],)
                                                   out f32 w [n, pad(m)], (high f32 w [n, pad(m)]); n
                                                   with bounds: out is at most, high at least what `matmul` of the stored table gives
  matmul.rows    {k, elem}                         x f32 r, table elem r, pairs i32 r [n, 2], out f32 w [n]; n
*/
