import { createRegistry, type Registry } from '../registry.ts';
import { attention, attentionPacked, rope } from './attention.ts';
import { lowbitMatmulBlocks, lowbitMatmulBlocksAdd, quantizeBlocks } from './block-matmul.ts';
import { add, bias, gate, gatePacked, scale } from './elementwise.ts';
import { embedding } from './embedding.ts';
import { lowbitMatmulGroup, lowbitMatmulGroupAdd } from './group-matmul.ts';
import { lowbitMatmul, lowbitMatmulAdd } from './lowbit-matmul.ts';
import { matmul, matmulScanned } from './matmul.ts';
import { rmsNorm, rmsNormHeads, rmsNormQuantize, rmsNormQuantizeGroup } from './norm.ts';
import { quantize } from './quantize.ts';
import { quantizeGroup } from './quantize-group.ts';
import { columnsOp, selectOutputs, slice } from './select.ts';

/** The operators of language models: first those that importers write, then those that passes fuse them into. */
export const coreOperators: Registry = createRegistry([
  embedding,
  rmsNorm,
  quantize,
  lowbitMatmul,
  slice,
  rope,
  attention,
  gate,
  add,
  bias,
  scale,
  rmsNormHeads,
  selectOutputs,
  matmul,
  quantizeGroup,
  lowbitMatmulGroup,
  quantizeBlocks,
  lowbitMatmulBlocks,
  rmsNormQuantize,
  lowbitMatmulAdd,
  rmsNormQuantizeGroup,
  lowbitMatmulGroupAdd,
  lowbitMatmulBlocksAdd,
  columnsOp,
  attentionPacked,
  gatePacked,
  matmulScanned,
]);
