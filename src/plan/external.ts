/**
 * Kernels from outside: the plan's side of src/graph/partition.ts.
 *
 * ```ts
 * const { graph, registry, regions } = partitionGraph(imported, coreOperators, { codegen: 'acme', pattern });
 * const kernels = externalKernels(regions, new Map([['acme', acmeCodegen]]));
 * ```
 * A generator gets a region, a small graph, and returns one loop function for it. Its parameters are
 * - a buffer for each input of the region, then one for each output, in order. Rows lie as
 *   src/kernels/kernel.ts says: f32, i8 and i32 as themselves, one row every `rowStride(width)` elements, and
 *   weights in the encoding that the pass `choose-encodings` gives them (packed ternary is u8);
 * - the number of rows, an i32.
 * It may be built with `FunctionBuilder` or parsed from text, needs a thread loop over independent rows, and
 * may use vectors of any width: it is legalized for the target like any other kernel.
 */
import { LutraError } from '../common/errors.ts';
import type { Value } from '../graph/ir.ts';
import type { Region } from '../graph/partition.ts';
import { indexGraph } from '../graph/rewrite.ts';
import { isCode, typeText } from '../graph/types.ts';
import type { BufferParam, LoopFunction, ScalarKind } from '../loops/ir.ts';
import type { OperatorKernel, OperatorKernels } from './lower.ts';

/** Writes the kernel of a region; the function is to be called `name`. */
export type ExternalCodegen = (region: Region, name: string) => LoopFunction;

function checkBuffer(op: string, param: BufferParam | undefined, value: Value, written: boolean): void {
  const { dtype } = value.type;
  const elem: ScalarKind = dtype === 'ternary' || isCode(dtype) ? 'u8' : dtype;
  if (param?.elem === elem && (param.access !== 'read') === written) return;
  const found = param === undefined ? 'missing' : `${param.name}: ${param.access} ${param.elem}[]`;
  throw new LutraError(
    'invalid',
    `the outside code for ${op} has a wrong parameter for ${value.name}: ${typeText(value.type)}: ` +
      `expected ${written ? 'write' : 'read'} ${elem}[], but it is ${found}`,
    { hint: 'The parameters are the inputs, then the outputs of the region, then the number of rows.' },
  );
}

function checkSignature({ op, graph }: Region, fn: LoopFunction): void {
  const { types } = indexGraph(graph);
  const outputs = graph.outputs.map((name): Value => ({ name, type: types.get(name)! }));
  for (const [i, value] of [...graph.inputs, ...outputs].entries()) {
    checkBuffer(op, fn.buffers[i], value, i >= graph.inputs.length);
  }
  const count = graph.inputs.length + outputs.length;
  const [n] = fn.scalars;
  if (fn.buffers.length !== count || fn.scalars.length !== 1 || n?.kind !== 'i32') {
    throw new LutraError(
      'invalid',
      `the outside code for ${op} takes ${fn.buffers.length} buffers and ${fn.scalars.length} scalars, ` +
        `but should take ${count} buffers and the number of rows, an i32`,
    );
  }
}

/**
 * The kernels of regions by operator name, for `scheduleProgram` and `lowerProgram`. Throws `usage` when a
 * region's generator is not given; the kernels throw `invalid` when a generator's function does not fit.
 */
export function externalKernels(
  regions: readonly Region[],
  codegens: ReadonlyMap<string, ExternalCodegen>,
): OperatorKernels {
  return new Map(
    regions.map((region): [string, OperatorKernel] => {
      const codegen = codegens.get(region.codegen);
      if (codegen === undefined) {
        throw new LutraError('usage', `${region.op} needs the outside code generator ${region.codegen}`, {
          hint: `Generators given: ${[...codegens.keys()].join(', ') || 'none'}.`,
        });
      }
      const kernel: OperatorKernel = (_node, name) => {
        const fn = codegen(region, name);
        checkSignature(region, fn);
        return { ...fn, name };
      };
      return [region.op, kernel];
    }),
  );
}
