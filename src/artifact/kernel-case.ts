/**
 * The self-test of each kernel: on how much random data it runs and which of its results are compared. All of it
 * is stored in the artifact, so that loading one needs no kernels and a later lutra can still test it.
 */
import { z } from 'zod';
import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import { bitPlanesBytes } from '../encodings/bit-planes.ts';
import { partsSize } from '../kernels/attention/parts.ts';
import { type AttentionShape, CHUNK } from '../kernels/attention/shape.ts';
import { ROW_PAD } from '../kernels/kernel.ts';
import { TILE, tileFormat, tileRowBytes } from '../kernels/lowbit.ts';
import { rowTables } from '../kernels/lowbit-lut.ts';
import { type TablesShape, tableBytes } from '../kernels/lut/tables.ts';
import { threadIterations } from '../loops/interpret.ts';
import { type BufferParam, kindBytes, type LoopFunction } from '../loops/ir.ts';
import type { KernelUse } from '../plan/types.ts';

/** How much of a kernel's work a case has it do. */
export interface Extent {
  /** Rows (tokens) of the call. */
  readonly n: number;
  /** Of the first token. */
  readonly position: number;
  /** Rows of a matrix that exist: a machine's range may reach beyond `comparedRows` by its grain. */
  readonly matrixRows: number;
  /** Rows of a matrix whose results are compared. */
  readonly comparedRows: number;
  /** Attention of several tokens that leaves parts. */
  readonly apart?: true;
}

/** Little work, for the interpreter has to do it too. */
function testExtent(use: KernelUse): Extent {
  // More tokens than schedules for a few take, and than their tiles hold, so that what prompts run is tested.
  const many = { 'lowbit.matmul': 13, 'lowbit.matmul.group': 7, 'lowbit.matmul.blocks': 7 }[use.op] ?? 5;
  const one = use.shape.batch === 'one' || use.op === 'attention.parts' || use.op === 'attention.merge';
  const context = Number(use.shape.context ?? Number.POSITIVE_INFINITY);
  const n = Math.min(one ? 1 : isMatmul(use) ? many : 3, context);
  // Merging is little work: there it can be that of several chunks.
  const position = Math.min(use.op === 'attention.merge' ? 2 * CHUNK : 17, context - n);
  return { n, position, matrixRows: 512, comparedRows: 64 };
}

/** What else a kernel is tested on, where its arguments choose among ways to compute: tokens on both sides of a chunk's end. */
export function furtherExtent(use: KernelUse): Extent | undefined {
  const position = CHUNK - 1;
  if (use.op !== 'attention' || Number(use.shape.context) < position + 3) return undefined;
  return { ...testExtent(use), n: 3, position, apart: true };
}

/** `ids` index a table of VOCABULARY rows; `halves` are 0 0 1 1 2 ...; `trits` bytes of four 2-bit codes 0 to 2, `trits5` of five in base 3; `entries` bytes below 32. */
const FILLS = [
  'f32',
  'f16',
  'bf16',
  'i32',
  'i16',
  'i8',
  'ids',
  'halves',
  'trits',
  'trits5',
  'entries',
] as const;
export type Fill = (typeof FILLS)[number];

const bufferSchema = z.object({
  fill: z.enum(FILLS),
  elements: z
    .int()
    .nonnegative()
    .max(1 << 28),
  /** Where the kernel writes: of every `stride` bytes the first `bytes` are compared. */
  compare: z.object({ stride: z.int().positive(), bytes: z.int().positive() }).optional(),
});

export const kernelCaseSchema = z.object({
  seed: z.int(),
  /** In parameter order, as `scalars`. */
  buffers: z.array(bufferSchema),
  scalars: z.array(z.number()),
  /** Iterations of the thread loop to run, by machine: each cuts the rows of a matrix in its own grain. */
  iterations: z.record(z.string(), z.int().positive()),
});

/** What one kernel runs on, and which of its results every machine computes. */
export type KernelCase = z.infer<typeof kernelCaseSchema>;
type BufferCase = KernelCase['buffers'][number];

export const VOCABULARY = 8;
const pad = (k: number) => alignUp(k, ROW_PAD);

function isMatmul(use: KernelUse): boolean {
  return ['lowbit.matmul', 'lowbit.matmul.group', 'lowbit.matmul.blocks', 'matmul'].includes(use.op);
}

/** The scalar arguments, by parameter name. */
function scalarsOf({ n, position, apart }: Extent): Readonly<Record<string, number>> {
  return { n, pos: position, apart: apart ? 1 : 0 };
}

/** Elements of each buffer by parameter name. */
function sizesOf(use: KernelUse, extent: Extent): Readonly<Record<string, number>> | undefined {
  const { n, position, matrixRows } = extent;
  const number = (name: string) => Number(use.shape[name]);
  const rows = (width: number) => n * pad(width);
  const k = number('k');
  switch (use.op) {
    case 'embedding':
      return { tokens: n, table: VOCABULARY * pad(number('hidden')), out: rows(number('hidden')) };
    case 'rmsNorm':
      return { x: rows(k), weight: pad(k), out: rows(k) };
    case 'rmsNorm.quantize':
    case 'quantize':
      return { x: rows(k), weight: pad(k), q: rows(k), scale: n, sum: n };
    case 'lowbit.matmul': {
      const m = number('m');
      const lut = use.family === 'lut';
      const matrix = Math.min(pad(m), matrixRows);
      const tiled = () => (matrix / TILE) * tileRowBytes(k, tileFormat(String(use.shape.encoding)));
      return {
        tables: lut ? n * tableBytes(rowTables(k)) : 0,
        q: rows(k),
        scale: n,
        sum: n,
        weight: lut ? bitPlanesBytes(2, matrix, k) : tiled(),
        weightScale: pad(m),
        residual: rows(m),
        out: rows(m),
      };
    }
    case 'quantize.group':
    case 'rmsNorm.quantize.group': {
      const parts = n * pad(Math.ceil(k / number('group')));
      const planes = use.shape.to === 'int16' ? 2 : 1;
      return { x: rows(k), weight: pad(k), order: k, q: planes * rows(k), scale: parts, sum: parts };
    }
    case 'quantize.blocks': {
      const [blocks, groups] = [k / number('block'), k / number('group')];
      const planes = use.shape.to === 'int16' ? 2 : 1;
      return { x: rows(k), q: planes * rows(k), scale: rows(blocks), sum: rows(groups) };
    }
    case 'lowbit.matmul.blocks': {
      const m = number('m');
      const [blocks, groups] = [k / number('block'), k / number('group')];
      const matrix = Math.min(pad(m), matrixRows);
      const bytes = (form: unknown) => (matrix * groups) / (form === 'u4' ? 2 : 1);
      return {
        q: (use.shape.to === 'int16' ? 2 : 1) * rows(k),
        scale: rows(blocks),
        sum: rows(groups),
        weight: (matrix * k * number('bits')) / 8,
        weightScale: matrix * blocks,
        scaleCodes: bytes(use.shape.scaleCodes),
        zeros: matrix * blocks,
        zeroCodes: bytes(use.shape.zeroCodes),
        residual: rows(m),
        out: rows(m),
      };
    }
    case 'lut.tables': {
      const tables = tableBytes(use.shape as unknown as TablesShape);
      const parts = pad(Math.ceil(k / number('activationGroup')));
      const planes = use.shape.to === 'int16' ? 2 : 1;
      return { q: planes * rows(k), tables: n * tables, tableBias: n * parts };
    }
    case 'lowbit.matmul.group': {
      const m = number('m');
      const parts = n * pad(Math.ceil(k / number('activationGroup')));
      const matrix = Math.min(pad(m), matrixRows);
      const lanes = matrix * Math.ceil(k / number('group'));
      const lut = use.shape.tables !== undefined;
      return {
        tables: lut ? n * tableBytes(use.shape as unknown as TablesShape) : 0,
        tableBias: parts,
        q: (use.shape.to === 'int16' ? 2 : 1) * rows(k),
        scale: parts,
        sum: parts,
        weight: (matrix * pad(k) * number('bits')) / 8,
        weightScale: lanes,
        zeros: lanes,
        residual: rows(m),
        out: rows(m),
      };
    }
    case 'matmul': {
      const m = number('m');
      const planes = number('planes');
      const perGroup = n * pad(pad(k) / number('group'));
      return {
        x: rows(k),
        q: (use.family === 'int8' ? 1 : planes) * rows(k),
        unit: n,
        factor: perGroup,
        sum: perGroup,
        norm: rows(2),
        table: Math.min(pad(m), matrixRows) * pad(k),
        rowScale: pad(m),
        rowNorm: 2 * pad(m),
        out: rows(m),
        high: rows(m),
      };
    }
    case 'matmul.quantize': {
      if (use.family === 'int16') return { x: rows(k), q: rows(k), unit: n };
      const perGroup = n * pad(pad(k) / number('group'));
      return { x: rows(k), q: number('planes') * rows(k), factor: perGroup, sum: perGroup, norm: rows(2) };
    }
    case 'matmul.rows':
      return { x: VOCABULARY * pad(k), table: VOCABULARY * pad(k), pairs: 2 * n, out: n };
    case 'rope.store':
    case 'attention':
    case 'attention.parts': {
      const [heads, kvHeads, headDim] = [number('heads'), number('kvHeads'), number('headDim')];
      const positions = alignUp(number('context'), 16);
      return {
        qkv: rows((heads + 2 * kvHeads) * headDim),
        table: (position + n) * headDim,
        qOut: rows(heads * headDim),
        q: rows(heads * headDim),
        out: rows(heads * headDim),
        parts: n * partsSize(use.shape as unknown as AttentionShape),
        keys: kvHeads * positions * headDim,
        keyScales: kvHeads * positions,
        valueScales: kvHeads * positions,
        values: kvHeads * positions * alignUp(headDim, 16),
      };
    }
    case 'attention.merge':
      return {
        parts: partsSize(use.shape as unknown as AttentionShape),
        out: rows(number('heads') * number('headDim')),
      };
    case 'gate.packed':
      return { gateUp: rows(2 * k), out: rows(k) };
    case 'add':
      return { a: rows(k), b: rows(k), out: rows(k) };
    case 'columns': {
      const [a, b, c] = [number('a'), number('b'), number('c')];
      return { a: rows(a), b: rows(b), c: rows(c), out: rows(a + b + c) };
    }
    case 'bias':
      return { x: rows(k), bias: pad(k), out: rows(k) };
    case 'scale':
      return { x: rows(k), out: rows(k) };
    case 'rmsNorm.heads':
      return { x: rows(k), weight: pad(number('normed')), out: rows(k) };
    case 'selectOutputs':
      return { x: rows(k), outputs: n + 1, out: rows(k) };
    default:
      return undefined;
  }
}

function fillOf({ shape }: KernelUse, { elem, name }: BufferParam): Fill {
  switch (elem) {
    case 'f32':
    case 'f16':
    case 'bf16':
      return elem;
    case 'i16':
      return elem;
    case 'i8':
      return name === 'tables' ? 'entries' : elem;
    case 'i32':
      return name === 'tokens' || name === 'pairs' || name === 'order'
        ? 'ids'
        : name === 'outputs'
          ? 'halves'
          : 'i32';
    case 'u8':
      return shape.encoding === 't5b' ? 'trits5' : 'trits';
    default:
      throw new LutraError('internal', `self-test: no inputs of ${elem}`);
  }
}

/** Everything written is compared, or the first rows of a matmul, which all machines compute. */
function compared(
  use: KernelUse,
  { comparedRows }: Extent,
  { elem, access }: BufferParam,
  elements: number,
): BufferCase['compare'] {
  if (access === 'read') return undefined;
  const m = Number(use.shape.m);
  if (isMatmul(use)) return { stride: pad(m) * 4, bytes: Math.min(m, comparedRows) * 4 };
  return { stride: elements * kindBytes(elem), bytes: elements * kindBytes(elem) };
}

/** Thread-loop iterations that compute what is compared. */
function iterationsOf(
  use: KernelUse,
  { comparedRows }: Extent,
  fn: LoopFunction,
  scalars: readonly number[],
): number {
  const all = threadIterations(fn, scalars);
  return isMatmul(use) ? Math.min(all, Math.ceil((all * comparedRows) / Number(use.shape.m))) : all;
}

/**
 * The test of a kernel, the same on every machine; undefined for one this file knows nothing of.
 * `scheduled` has the kernel as each machine runs it.
 */
export function kernelCase(
  use: KernelUse,
  scheduled: ReadonlyMap<string, LoopFunction>,
  seed: number,
  extent = testExtent(use),
): KernelCase | undefined {
  const [fn] = scheduled.values();
  const sizes = sizesOf(use, extent);
  if (sizes === undefined || fn === undefined) return undefined;
  const buffers = fn.buffers.map((param): BufferCase => {
    const elements = sizes[param.name];
    if (elements === undefined)
      throw new LutraError('internal', `self-test: ${use.name} has no size for ${param.name}`);
    const compare = compared(use, extent, param, elements);
    return { fill: fillOf(use, param), elements, ...(compare && { compare }) };
  });
  const named = scalarsOf(extent);
  const scalars = fn.scalars.map(({ name }) => named[name]!);
  const iterations = Object.fromEntries(
    [...scheduled].map(([machine, own]) => [machine, iterationsOf(use, extent, own, scalars)]),
  );
  return { seed, buffers, scalars, iterations };
}
