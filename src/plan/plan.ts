import { LutraError } from '../common/errors.ts';
import { alignUp } from '../common/math.ts';
import type { Graph, TensorType } from '../graph/ir.ts';
import { PART_TOKENS } from '../kernels/attention/parts.ts';
import { type CachePart, cacheParts } from '../kernels/cache.ts';
import { ROW_PAD } from '../kernels/kernel.ts';
import { LINE } from '../loops/ir.ts';
import { MAX_SEQUENCES } from '../targets/executable.ts';
import { type Interval, placeBuffers } from './layout.ts';
import { buildMain } from './main.ts';
import type { Step, StepKernel } from './steps/step.ts';
import { keptValues, lowerGraph } from './steps.ts';
import type { KernelUse, Plan, PlanOptions } from './types.ts';
import { placeWeights } from './weights.ts';

const ELEM_BYTES: Readonly<Record<string, number>> = { f32: 4, i32: 4, i16: 2, i8: 1 };

/** Bytes from one row to the next. */
function rowBytes(type: TensorType): number {
  const bytes = ELEM_BYTES[type.dtype];
  if (bytes === undefined) throw new LutraError('internal', `plan: no activation buffers of ${type.dtype}`);
  const width = type.shape[1];
  if (width === undefined) return bytes;
  if (typeof width !== 'number') throw new LutraError('internal', 'plan: symbolic width of an activation');
  return alignUp(width, ROW_PAD) * bytes;
}

/** Values that share memory with one they replace: out -> the value whose memory it takes over. */
function findInPlace(steps: readonly Step[], lastUse: ReadonlyMap<string, number>): Map<string, string> {
  const alias = new Map<string, string>();
  steps.forEach((step, i) => {
    const out = step.defines[0]?.name;
    if (step.inPlaceOf !== undefined && out !== undefined && lastUse.get(step.inPlaceOf) === i) {
      alias.set(out, alias.get(step.inPlaceOf) ?? step.inPlaceOf);
    }
  });
  return alias;
}

function placeArena(steps: readonly Step[], block: number, logits: string) {
  const lastUse = new Map<string, number>();
  steps.forEach((step, i) => {
    for (const { operands } of [step, step.singleArguments ?? step]) {
      for (const operand of operands) if (operand.kind === 'value') lastUse.set(operand.name, i);
    }
  });
  const kept = keptValues(steps);
  const alias = findInPlace(steps, lastUse);
  const intervals = new Map<string, Interval>();
  steps.forEach((step, i) => {
    for (const { name, type, few } of step.defines) {
      if (name === logits) continue;
      const root = alias.get(name) ?? name;
      const rows = few === true ? Math.max(MAX_SEQUENCES, PART_TOKENS) : step.alone === true ? 1 : block;
      const last = lastUse.get(name) ?? i;
      const known = intervals.get(root);
      intervals.set(
        root,
        known === undefined
          ? { name: root, bytes: rows * rowBytes(type), first: kept.has(name) ? 0 : i, last }
          : { ...known, last: Math.max(known.last, last) },
      );
    }
  });
  const layout = placeBuffers([...intervals.values()]);
  const value = (name: string) => {
    const offset = layout.offsets.get(alias.get(name) ?? name);
    if (offset === undefined) throw new LutraError('internal', `plan: value ${name} was never placed`);
    return offset;
  };
  return { value, bytes: layout.bytes };
}

function placeCache(graph: Graph, { context, cacheElem }: PlanOptions) {
  const offsets = new Map<string, number>();
  let bytes = 0;
  for (const node of graph.nodes) {
    if (node.op !== 'attention.packed') continue;
    const { layer, kvHeads, headDim } = node.attrs as { layer: number; kvHeads: number; headDim: number };
    for (const [part, size] of cacheParts({ kvHeads, headDim, context, cacheElem })) {
      offsets.set(`${layer}.${part}`, bytes);
      bytes += alignUp(size, LINE);
    }
  }
  return { at: (layer: number, part: CachePart) => offsets.get(`${layer}.${part}`)!, bytes };
}

/** Names kernels so that a person can tell them apart in a profile: `lowbit_matmul_3840_2560_one`. */
function nameKernels(steps: readonly Step[]) {
  const uses = new Map<string, KernelUse>();
  const taken = new Set<string>(['main']);
  const keyOf = (kernel: StepKernel) => JSON.stringify([kernel.op, kernel.family, kernel.shape, kernel.node]);
  for (const step of steps) {
    for (const kernel of step.single === undefined ? [step.kernel] : [step.single, step.kernel]) {
      const key = keyOf(kernel);
      if (uses.has(key)) continue;
      const { m, k, hidden, heads, headDim, batch, residual } = kernel.shape;
      const facts = [m, k, hidden, heads, headDim, residual === true ? 'add' : undefined, batch];
      const base = [kernel.op, ...facts.filter((f) => f !== undefined)].join('_').replace(/\W/g, '_');
      let name = base;
      for (let i = 2; taken.has(name); i++) name = `${base}_${i}`;
      taken.add(name);
      uses.set(key, { name, ...kernel });
    }
  }
  return { kernels: [...uses.values()], nameOf: (kernel: StepKernel) => uses.get(keyOf(kernel))!.name };
}

/**
 * Chooses a kernel for every operator of a graph that went through the passes, places weights, activations
 * and KV cache, and writes the forward step. `custom` names user-registered operators that bring kernels.
 */
export function planModel(graph: Graph, options: PlanOptions, custom: ReadonlySet<string> = new Set()): Plan {
  if (options.block % (LINE / 4) !== 0 || options.block < 1) {
    throw new LutraError('usage', `block must be a positive multiple of ${LINE / 4}, got ${options.block}`);
  }
  const [logits, ...others] = graph.outputs;
  if (logits === undefined || others.length > 0) {
    throw new LutraError('unsupported', `graph ${graph.name} must have one output, the logits`);
  }
  const steps = lowerGraph(graph, options, custom);
  const head = steps.find((step) => step.defines.some((v) => v.name === logits));
  const scans = steps.some(({ when }) => when === 'scan');
  const vocab = head?.defines[0]?.type.shape[1];
  if (head?.rows !== 'outputs' || typeof vocab !== 'number') {
    throw new LutraError('unsupported', `the output of graph ${graph.name} must have shape [outputs, vocab]`);
  }
  const logitsStride = alignUp(vocab, ROW_PAD);
  const arena = placeArena(steps, options.block, logits);
  const cache = placeCache(graph, options);
  const used = new Set(graph.nodes.flatMap((node) => node.inputs));
  const weights = placeWeights(graph.constants.filter((c) => used.has(c.name)));
  const slots = new Map(weights.slots.map((slot) => [slot.constant, slot]));
  const names = nameKernels(steps);
  const types = new Map(steps.flatMap((step) => step.defines.map(({ name, type }) => [name, type])));
  const main = buildMain(steps, options.block, {
    value: arena.value,
    rowBytes: (name) => rowBytes(types.get(name)!),
    weight: (constant, region) => slots.get(constant)!.regions[region]!.offset,
    cache: cache.at,
    logits,
    logitsStride,
    scans,
    kernelName: names.nameOf,
  });
  return {
    name: graph.name,
    options,
    kernels: names.kernels,
    main,
    weights: weights.slots,
    weightsBytes: weights.bytes,
    arenaBytes: arena.bytes,
    cacheBytes: cache.bytes,
    vocab,
    logitsStride,
    scans,
  };
}
