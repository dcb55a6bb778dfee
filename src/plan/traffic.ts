/** What a forward step moves and computes, call by call: what profiles and rooflines are made of. */
import { type TablesShape, tableBytes } from '../kernels/lut/tables.ts';
import { walkMain } from '../loops/interpret.ts';
import type { StepSequence } from '../loops/step.ts';
import type { KernelUse, Plan, ShapeValue } from './types.ts';

/** One kernel call. Bytes are those it has to touch once; what it reads again comes from a cache. */
export interface CallTraffic {
  /** Name of the kernel. */
  readonly kernel: string;
  readonly op: string;
  /** Tokens, or rows of logits. */
  readonly rows: number;
  /** Of the weights file: whole regions, but of tables only the rows that are looked up. */
  readonly weightBytes: number;
  /** Read from and written to the KV cache. */
  readonly cacheBytes: number;
  /** Read from and written to activations and logits. */
  readonly activationBytes: number;
  /** Multiplications and additions of bytes, two for each weight and row; int16 activations are two bytes. */
  readonly operations: number;
  /** The same of floats, where they are worth counting: attention, and an output head of floats. */
  readonly floatOperations: number;
}

/** A sequence in a step, of which only sizes matter. */
export interface TrafficSequence {
  readonly tokens: number;
  readonly position: number;
  readonly logits: 'last' | 'all';
}

const CACHE_ELEM_BYTES: Readonly<Record<string, number>> = { f32: 4, f16: 2, i8: 1, int8: 1 };
const TABLE_ELEM_BYTES: Readonly<Record<string, number>> = { f32: 4, f16: 2, bf16: 2, i8: 1 };

interface Call {
  readonly use: KernelUse;
  readonly rows: number;
  /** Position of the first token. */
  readonly position: number;
  readonly regionBytes: number;
}

type Amounts = Pick<
  CallTraffic,
  'weightBytes' | 'cacheBytes' | 'activationBytes' | 'operations' | 'floatOperations'
>;

const size = (value: ShapeValue | undefined) => Number(value ?? 0);

function amounts({ use, rows, position, regionBytes }: Call): Amounts {
  const { op, shape } = use;
  const [m, k, hidden] = [size(shape.m), size(shape.k), size(shape.hidden)];
  const heads = size(shape.heads) * size(shape.headDim);
  const kv = size(shape.kvHeads) * size(shape.headDim);
  const cacheElem = CACHE_ELEM_BYTES[String(shape.cacheElem)] ?? 0;
  const base = { weightBytes: regionBytes, cacheBytes: 0, operations: 0, floatOperations: 0 };
  switch (op) {
    case 'embedding':
      return {
        ...base,
        weightBytes: rows * hidden * (TABLE_ELEM_BYTES[String(shape.elem)] ?? 0),
        activationBytes: rows * (4 + 4 * hidden),
      };
    case 'rope.store':
      return {
        ...base,
        weightBytes: rows * size(shape.headDim) * 4,
        cacheBytes: 2 * rows * kv * cacheElem,
        activationBytes: 4 * rows * (2 * heads + 2 * kv),
      };
    case 'attention':
    case 'attention.parts': {
      // Token i sees position + i + 1 positions.
      const window = size(shape.window) || Number.POSITIVE_INFINITY;
      const seen = Math.min(rows * position + (rows * (rows + 1)) / 2, rows * window);
      return {
        ...base,
        cacheBytes: 2 * Math.min(position + rows, window + rows - 1) * kv * cacheElem,
        activationBytes: 4 * rows * 2 * heads,
        floatOperations: 4 * seen * heads,
      };
    }
    case 'attention.merge':
      return { ...base, activationBytes: 4 * rows * heads };
    case 'rmsNorm':
    case 'rmsNorm.heads':
    case 'bias':
    case 'scale':
    case 'selectOutputs':
      return { ...base, activationBytes: rows * 8 * k };
    case 'rmsNorm.quantize':
    case 'rmsNorm.quantize.group':
    case 'quantize':
    case 'quantize.group':
    case 'quantize.blocks':
      return { ...base, activationBytes: rows * (5 * k + 8) };
    case 'columns':
      return { ...base, activationBytes: rows * 8 * (size(shape.a) + size(shape.b) + size(shape.c)) };
    case 'gate.packed':
      return { ...base, activationBytes: rows * 12 * k };
    case 'add':
      return { ...base, activationBytes: rows * 12 * k };
    case 'lut.tables':
      return { ...base, activationBytes: rows * (k + tableBytes(shape as unknown as TablesShape)) };
    case 'lowbit.matmul':
    case 'lowbit.matmul.group':
    case 'lowbit.matmul.blocks': {
      const planes = shape.to === 'int16' ? 2 : 1;
      return {
        ...base,
        activationBytes: rows * (planes * k + 8 + 4 * m * (shape.residual === true ? 2 : 1)),
        operations: 2 * rows * m * k * planes,
      };
    }
    default:
      // Other matrix products, and operators of users, of which only weights are known.
      return {
        ...base,
        activationBytes: 4 * rows * (k + m),
        ...(shape.elem === 'i8' || shape.bits !== undefined
          ? { operations: 2 * rows * m * k }
          : { floatOperations: 2 * rows * m * k }),
      };
  }
}

/**
 * The calls of one forward step in the order they run, in groups: one for each barrier, after which all that
 * the group wrote is there. With `scan`, of the step that an exact head begins with, which finds bounds of the logits.
 * Memory of the plan's size is addressed, but none of it touched.
 */
export function stepTraffic(
  plan: Plan,
  sequences: readonly TrafficSequence[],
  scan = false,
): readonly (readonly CallTraffic[])[] {
  const uses = new Map(plan.kernels.map((use) => [use.name, use]));
  const regions = new Map(plan.weights.flatMap((slot) => slot.regions).map((r) => [r.offset, r.bytes]));
  const rows = sequences.reduce((sum, { tokens, logits }) => sum + (logits === 'all' ? tokens : 1), 0);
  const weights = new Uint8Array(plan.weightsBytes);
  const buffers = {
    weights,
    arena: new Uint8Array(plan.arenaBytes),
    cache: new Uint8Array(plan.cacheBytes),
    logits: new Uint8Array(rows * plan.logitsStride * (scan ? 8 : 4)),
  };
  const parts = sequences.map(
    ({ tokens, position, logits }): StepSequence => ({
      tokens: new Int32Array(tokens),
      position,
      cache: 0,
      logits,
    }),
  );
  const groups: CallTraffic[][] = [];
  let group: CallTraffic[] = [];
  walkMain(
    plan.main,
    { buffers, sequences: parts, scan },
    {
      call: (kernel, views, scalars) => {
        const use = uses.get(kernel)!;
        const regionBytes = views
          .filter(({ buffer }) => buffer === weights.buffer)
          .reduce((sum, { byteOffset }) => sum + (regions.get(byteOffset) ?? 0), 0);
        const one = use.op === 'attention.parts';
        const [n = 0, position = 0] = one ? [1, ...scalars] : scalars;
        const call = { use, rows: use.op === 'selectOutputs' ? Math.min(rows, n) : n, position, regionBytes };
        group.push({ kernel, op: use.op, rows: call.rows, ...amounts(call) });
      },
      barrier: () => {
        groups.push(group);
        group = [];
      },
    },
  );
  if (group.length > 0) groups.push(group);
  return groups;
}
