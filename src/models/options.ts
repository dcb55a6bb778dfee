import type { WeightOptions } from './quantization.ts';

export interface ImportOptions extends WeightOptions {
  /** Positions the graph can compute; default and limit: what the model was made for. */
  readonly context?: number;
}
