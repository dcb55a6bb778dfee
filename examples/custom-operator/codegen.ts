/**
 * An outside code generator. It takes RMSNorm followed by quantization out of a graph, and answers with a
 * kernel as loop-IR text: what a program in any language could write.
 */
import { LutraError } from '../../src/common/errors.ts';
import type { Region } from '../../src/graph/partition.ts';
import { pattern } from '../../src/graph/pattern.ts';
import { rowStride } from '../../src/kernels/kernel.ts';
import { parseFunction } from '../../src/loops/parse.ts';
import type { ExternalCodegen } from '../../src/plan/external.ts';

const LANES = 16;

/** Rows that are whole vectors are all that this generator can do; the rest of the graph stays with lutra. */
export const normQuantize = pattern('quantize', {
  inputs: [pattern('rmsNorm', { inputs: ['any', 'constant'] })],
  where: (node) => Number(node.outputs[0]!.type.shape[1]) % LANES === 0,
});

/** The text of the kernel for rows of k elements. */
function kernelText(name: string, k: number, eps: number): string {
  const stride = rowStride(k);
  return `
fn ${name}(x: read f32[], weight: read f32[], q: write i8[], scale: write f32[], sum: write i32[], n: i32) {
  thread for t in 0 .. n {
    let row = t * ${stride}
    var squares = f32x16(0.0)
    for a in 0 .. ${k} step ${LANES} {
      let v = x[row + a +: 16]
      squares = squares + v * v
    }
    let mean = reduce(add, squares) / ${k}.0
    let inverse = repeat(1.0 / sqrt(mean + ${eps.toExponential()}), 16)
    var largest = f32x16(0.0)
    for b in 0 .. ${k} step ${LANES} {
      largest = max(largest, abs(x[row + b +: 16] * inverse * weight[b +: 16]))
    }
    let peak = max(reduce(max, largest), 0.00001)
    let factor = repeat(127.0 / peak, 16)
    var total = i32x16(0)
    for c in 0 .. ${k} step ${LANES} {
      let rounded = nearest(x[row + c +: 16] * inverse * weight[c +: 16] * factor)
      let whole = cast(max(f32x16(-128.0), min(f32x16(127.0), rounded)), i32)
      total = total + whole
      q[row + c] = cast(whole, i8)
    }
    for d in ${k} .. ${stride} step ${LANES} {
      q[row + d] = i8x16(0)
    }
    scale[t] = peak / 127.0
    sum[t] = reduce(add, total)
  }
}
`;
}

export const acmeCodegen: ExternalCodegen = ({ op, graph }: Region, name) => {
  const [norm] = graph.nodes;
  const [x] = graph.inputs;
  const k = x?.type.shape[1];
  const eps = norm?.attrs.eps;
  if (norm?.op !== 'rmsNorm' || typeof k !== 'number' || typeof eps !== 'number') {
    throw new LutraError('unsupported', `acme: ${op} is not the subgraph that was asked for`);
  }
  return parseFunction(kernelText(name, k, eps));
};
