import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { MatrixCodes, ModelInfo } from './info.ts';

/** Sizes that tell what a model needs, before it is compiled. All in bytes unless said otherwise. */
export interface ModelSummary extends ModelInfo {
  readonly totalParameters: number;
  /** Of the checkpoint's tensors. */
  readonly checkpointBytes: number;
  /** Of the weights as kernels read them: two bits a ternary weight, tables as stored, or an int8 head. */
  readonly weightBytes: number;
  /** Weights read for each generated token: what decoding speed is bound by. */
  readonly bytesPerToken: number;
  /** Of the KV cache for each position, with f32 and with f16 elements. */
  readonly cacheBytesPerPosition: { readonly f32: number; readonly f16: number };
}

const ELEMENT_BYTES = { f32: 4, f16: 2, bf16: 2 } as const;

/** Bits of a weight with its part of what belongs to its group and block. */
export function bitsOfWeight({ bits, group, block, scaleCodes, zero }: MatrixCodes): number {
  const parts = zero === undefined ? 2 : 1;
  if (block !== undefined)
    return bits + (parts * (scaleCodes === 'u4' ? 4 : 8)) / group + (parts * 16) / block;
  // Twice the scale of one bit may have no f16.
  const scaleBits = zero !== undefined && Number.isInteger(zero) ? 16 : 32;
  return bits + (parts * scaleBits) / group;
}

/** Of projections that are not ternary: floats as the tables are, or codes with what belongs to their groups. */
function projectionBytes(checkpoint: Checkpoint, info: ModelInfo): number {
  const { parameters, quantization, hidden, headDType } = info;
  const { projections = 0 } = parameters;
  if (quantization.form === 'mixed') {
    let [bytes, coded] = [0, 0];
    for (const [name, codes] of Object.entries(quantization.matrices)) {
      const weights = checkpoint.tensors.get(name)!.bytes;
      coded += weights;
      bytes += (weights * bitsOfWeight(codes)) / 8;
    }
    return bytes + (projections - coded) * ELEMENT_BYTES[headDType];
  }
  if (quantization.form !== 'groups') return projections * ELEMENT_BYTES[headDType];
  const { bits, symmetric } = quantization;
  const group = typeof quantization.group === 'number' ? quantization.group : hidden;
  return projections * (bits / 8 + (symmetric ? 2 : 3) / group);
}

/** Estimates from a model's shape; padding is left out. `head` is what the option of that name says. */
export function summarizeModel(
  checkpoint: Checkpoint,
  info: ModelInfo,
  head: 'stored' | 'exact' | 'int8' | 'int6' | 'int4' = 'stored',
): ModelSummary {
  const { parameters, vocab, hidden, layers, kvHeads, headDim, tied } = info;
  const stored = ELEMENT_BYTES[info.headDType];
  const table = vocab * hidden;
  // A scale of 4 bytes for a row, or of 2 for every 64 or 32 columns; an exact head's rows have two norms.
  const scanBytes = table * (0.75 + 2 / 64) + vocab * 8;
  const headBytes = {
    stored: table * stored,
    exact: table * stored + scanBytes,
    int8: table + vocab * 4,
    int6: table * (0.75 + 2 / 64),
    int4: table * (0.5 + 2 / 32),
  }[head];
  const headRead = head === 'exact' ? scanBytes : headBytes;
  const body = parameters.ternary / 4 + projectionBytes(checkpoint, info) + parameters.norms * 4;
  // A tied table serves both ends, unless the head gets a rounded one of its own.
  const embedBytes = tied && (head === 'stored' || head === 'exact') ? 0 : table * stored;
  const cached = 2 * layers * kvHeads * headDim;
  return {
    ...info,
    totalParameters:
      parameters.ternary + (parameters.projections ?? 0) + parameters.tables + parameters.norms,
    checkpointBytes: [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0),
    weightBytes: body + headBytes + embedBytes,
    bytesPerToken: body + headRead + hidden * stored,
    cacheBytesPerPosition: { f32: cached * 4, f16: cached * 2 },
  };
}
