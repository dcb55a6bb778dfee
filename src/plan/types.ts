import type { Node } from '../graph/ir.ts';
import type { CacheElem } from '../kernels/cache.ts';
import type { TableForm } from '../kernels/lut/tables.ts';
import type { LoopFunction } from '../loops/ir.ts';

export type ShapeValue = number | string | boolean;

/** A kernel a model needs: everything but the schedule, which depends on the machine. Plain JSON. */
export interface KernelUse {
  /** A C identifier, unique in the plan. */
  readonly name: string;
  readonly op: string;
  readonly family: string;
  readonly shape: Readonly<Record<string, ShapeValue>>;
  /** The graph node, where a user-registered operator makes its own kernel from it. */
  readonly node?: Node;
}

/** A piece of the weights file. */
export interface WeightRegion {
  /** Byte offset in the weights file, a multiple of LINE. */
  readonly offset: number;
  readonly bytes: number;
}

/** The regions one constant becomes: its packed elements first, then what its encoding adds (row scales). */
export interface WeightSlot {
  readonly constant: string;
  readonly encoding: string;
  readonly regions: readonly WeightRegion[];
}

/** A schedule found by measuring, for a kernel of some shape on some machine. Plain JSON: a tuning record. */
export interface TunedSchedule extends Pick<KernelUse, 'op' | 'family' | 'shape'> {
  /** `c:avx2`, ... */
  readonly machine: string;
  readonly schedule: Readonly<Record<string, ShapeValue>>;
}

export interface PlanOptions {
  /** Positions of the KV cache. */
  readonly context: number;
  /** Tokens computed at a time during prefill; a multiple of 16. */
  readonly block: number;
  readonly cacheElem: CacheElem;
  /** What weights in the encoding `bit-planes` are looked up in; default `exact`. */
  readonly tables?: TableForm;
  /** The same of single weights, by their names, that differ. */
  readonly tablesOf?: Readonly<Record<string, TableForm>>;
}

/**
 * A model with every kernel chosen and every buffer placed; how kernels are scheduled is still open.
 * Plain JSON: a manifest holds it, and any target can be generated from it.
 */
export interface Plan {
  readonly name: string;
  readonly options: PlanOptions;
  readonly kernels: readonly KernelUse[];
  readonly main: LoopFunction;
  readonly weights: readonly WeightSlot[];
  readonly weightsBytes: number;
  readonly arenaBytes: number;
  readonly cacheBytes: number;
  readonly vocab: number;
  /** Row stride of the logits, in floats. */
  readonly logitsStride: number;
  /** Whether a step can give bounds of logits instead, and single logits of them afterwards. */
  readonly scans: boolean;
}
