/** The tensor types of GGUF: how many values a block has, and how many bytes. */

/** Sizes of one type. `tail`: bytes after the last block, which I2_S and its kin use for their one scale. */
export interface GgufLayout {
  readonly id: number;
  readonly block: number;
  readonly bytes: number;
  readonly tail?: number;
}

/** The types lutra reads. */
export const GGUF_TYPES = {
  F32: { id: 0, block: 1, bytes: 4 },
  F16: { id: 1, block: 1, bytes: 2 },
  Q4_0: { id: 2, block: 32, bytes: 18 },
  Q8_0: { id: 8, block: 32, bytes: 34 },
  Q2_K: { id: 10, block: 256, bytes: 84 },
  Q4_K: { id: 12, block: 256, bytes: 144 },
  Q6_K: { id: 14, block: 256, bytes: 210 },
  BF16: { id: 30, block: 1, bytes: 2 },
  TQ1_0: { id: 34, block: 256, bytes: 54 },
  TQ2_0: { id: 35, block: 256, bytes: 66 },
  I2_S: { id: 36, block: 4, bytes: 1, tail: 32 },
  TL1: { id: 38, block: 4, bytes: 1, tail: 32 },
  TL2: { id: 39, block: 1, bytes: 1 },
  Q1_0: { id: 41, block: 128, bytes: 18 },
  Q2_0: { id: 42, block: 64, bytes: 18 },
} as const satisfies Readonly<Record<string, GgufLayout>>;

export type GgufType = keyof typeof GGUF_TYPES;

/** Bytes of a tensor of `count` values whose rows are whole blocks. */
export function ggufBytes(type: Exclude<GgufType, 'TL2'>, count: number): number {
  const layout: GgufLayout = GGUF_TYPES[type];
  return (count / layout.block) * layout.bytes + (layout.tail ?? 0);
}
