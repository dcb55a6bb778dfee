import { LutraError } from '../common/errors.ts';
import { add } from './add.ts';
import { attention } from './attention.ts';
import { attentionMerge, attentionParts } from './attention-parts.ts';
import { bias } from './bias.ts';
import { columns } from './columns.ts';
import { embedding } from './embedding.ts';
import { gatePacked } from './gate-packed.ts';
import { groupBlocks } from './group-blocks.ts';
import { groupLut } from './group-lut.ts';
import { groupMatmul } from './group-matmul.ts';
import { groupPopcount } from './group-popcount.ts';
import type { AnyKernel } from './kernel.ts';
import { lowbitLut } from './lowbit-lut.ts';
import { lowbitMatmul } from './lowbit-matmul.ts';
import { lutTables } from './lut/tables.ts';
import { matmul, matmulRows } from './matmul.ts';
import { matmulGrouped } from './matmul-grouped.ts';
import { matmulInt8, matmulQuantizeInt16 } from './matmul-int8.ts';
import { matmulQuantize } from './matmul-quantize.ts';
import { quantize } from './quantize.ts';
import { quantizeBlocks } from './quantize-blocks.ts';
import { quantizeGroup, rmsNormQuantizeGroup } from './quantize-group.ts';
import { rmsNorm } from './rms-norm.ts';
import { rmsNormHeads } from './rms-norm-heads.ts';
import { rmsNormQuantize } from './rms-norm-quantize.ts';
import { ropeStore } from './rope-store.ts';
import { scale } from './scale.ts';
import { selectOutputs } from './select-outputs.ts';

/** Every kernel; where an operator has several families, the preferred one first. */
export const KERNELS: readonly AnyKernel[] = [
  embedding,
  rmsNorm,
  rmsNormQuantize,
  quantize,
  lowbitMatmul,
  lowbitLut,
  quantizeGroup,
  quantizeBlocks,
  rmsNormQuantizeGroup,
  groupMatmul,
  groupBlocks,
  groupLut,
  groupPopcount,
  lutTables,
  ropeStore,
  attention,
  attentionParts,
  attentionMerge,
  gatePacked,
  add,
  bias,
  columns,
  scale,
  rmsNormHeads,
  selectOutputs,
  matmul,
  matmulGrouped,
  matmulInt8,
  matmulQuantize,
  matmulQuantizeInt16,
  matmulRows,
];

/** The kernel of an operator, of the given family or the preferred one; throws `unsupported` if there is none. */
export function kernelFor(op: string, family?: string): AnyKernel {
  const found = KERNELS.find((kernel) => kernel.op === op && (family ?? kernel.family) === kernel.family);
  if (found !== undefined) return found;
  const what = family === undefined ? op : `${op} in family ${family}`;
  throw new LutraError('unsupported', `no kernel computes ${what}`, {
    hint: `There are ${KERNELS.map((kernel) => `${kernel.op} (${kernel.family})`).join(', ')}.`,
  });
}
