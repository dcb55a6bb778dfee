import { describe, expect, it } from 'vitest';
import type { Graph } from '../graph/ir.ts';
import { parseGraph } from '../graph/parse.ts';
import { printGraph } from '../graph/print.ts';
import { verifyGraph } from '../graph/verify.ts';
import { chooseEncodings } from './choose-encodings.ts';
import { dropDead } from './drop-dead.ts';
import { dropHead } from './drop-head.ts';
import { foldConstants } from './fold-constants.ts';
import { fuseNormQuantize } from './fuse-norm-quantize.ts';
import { fuseProjections } from './fuse-projections.ts';
import { fuseResidual } from './fuse-residual.ts';
import { joinColumns } from './join-columns.ts';
import { packColumns } from './pack-columns.ts';
import type { Pass, PassOptions } from './pass.ts';
import { selectEarly } from './select-early.ts';
import { shareQuantize } from './share-quantize.ts';

/** Indentation and blank lines do not matter. */
const lines = (text: string) =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');

const graphText = (body: string) => `graph g {\n${body}\n}`;

/** Runs a pass on the text of a graph's body; what it makes must be valid, and nothing must be left to do. */
function apply(pass: Pass, body: string, options: PassOptions = { head: 'stored' }): Graph {
  const before = parseGraph(graphText(body));
  verifyGraph(before);
  const after = pass.run(before, options);
  verifyGraph(after);
  expect(pass.run(after, options)).toBe(after);
  return after;
}

function expectRewrite(pass: Pass, before: string, after: string, options?: PassOptions): void {
  expect(lines(printGraph(apply(pass, before, options)))).toEqual(lines(graphText(after)));
}

function expectUntouched(pass: Pass, body: string): void {
  const graph = parseGraph(graphText(body));
  verifyGraph(graph);
  expect(pass.run(graph, { head: 'stored' })).toBe(graph);
}

const TOKENS = 'input tokens: i32[tokens]';
const EMBED = `
  ${TOKENS}
  const embed: f32[9, 8] = tensor("embed")`;
const X = 'x: f32[tokens, 8] = embedding(tokens, embed)';
const QUANTIZED = 'q: i8[tokens, 8], scale: f32[tokens], sum: i32[tokens] = quantize(x)';

describe('select-early', () => {
  const LAYER = `${EMBED}
      const norm: f32[8] = tensor("norm")
      const t: ternary[8, 8] = packed-ternary("t")
      const s: f32[8] = scale("s", multiply, rows = 8)
      ${X}`;

  it('computes only the wanted tokens after the last operator that needs all', () => {
    expectRewrite(
      selectEarly,
      `${LAYER}
      a: f32[tokens, 8] = attention(x, x, x) {layer = 0, heads = 1, kvHeads = 1, headDim = 8}
      q: i8[tokens, 8], scale: f32[tokens], sum: i32[tokens] = quantize(a)
      y: f32[tokens, 8] = lowbit.matmul(q, scale, sum, t, s)
      h: f32[tokens, 8] = add(x, y)
      n: f32[tokens, 8] = rmsNorm(h, norm) {eps = 1e-5}
      z: f32[tokens, 8] = add(n, h)
      last: f32[outputs, 8] = selectOutputs(z)
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
      `${LAYER}
      a: f32[tokens, 8] = attention(x, x, x) {layer = 0, heads = 1, kvHeads = 1, headDim = 8}
      a.selected: f32[outputs, 8] = selectOutputs(a)
      x.selected: f32[outputs, 8] = selectOutputs(x)
      q: i8[outputs, 8], scale: f32[outputs], sum: i32[outputs] = quantize(a.selected)
      y: f32[outputs, 8] = lowbit.matmul(q, scale, sum, t, s)
      h: f32[outputs, 8] = add(x.selected, y)
      n: f32[outputs, 8] = rmsNorm(h, norm) {eps = 0.00001}
      last: f32[outputs, 8] = add(n, h)
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
    );
  });

  it('leaves what would have to select anything but rows of floats', () => {
    expectUntouched(
      selectEarly,
      `${LAYER}
      q: i8[tokens, 8], scale: f32[tokens], sum: i32[tokens] = quantize(x)
      y: f32[tokens, 8] = lowbit.matmul(q, scale, sum, t, s)
      k: f32[tokens, 8] = lowbit.matmul(q, scale, sum, t, s)
      a: f32[tokens, 8] = attention(k, k, k) {layer = 0, heads = 1, kvHeads = 1, headDim = 8}
      last: f32[outputs, 8] = selectOutputs(y)
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
    );
  });

  it('leaves what all tokens need', () => {
    expectUntouched(
      selectEarly,
      `${LAYER}
      a: f32[tokens, 8] = attention(x, x, x) {layer = 0, heads = 1, kvHeads = 1, headDim = 8}
      last: f32[outputs, 8] = selectOutputs(a)
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
    );
  });
});

describe('share-quantize', () => {
  it('computes the same quantization once, by way of the same norm', () => {
    expectRewrite(
      shareQuantize,
      `${EMBED}
      const w: f32[8] = tensor("norm")
      const t: ternary[4, 8] = packed-ternary("t")
      const s: f32[4] = scale("s", multiply, rows = 4)
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      n2: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      n3: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.25}
      a: i8[tokens, 8], b: f32[tokens], c: i32[tokens] = quantize(n)
      d: i8[tokens, 8], e: f32[tokens], f: i32[tokens] = quantize(n2)
      g: i8[tokens, 8], h: f32[tokens], i: i32[tokens] = quantize(n3)
      y: f32[tokens, 4] = lowbit.matmul(a, b, c, t, s)
      z: f32[tokens, 4] = lowbit.matmul(d, e, f, t, s)
      v: f32[tokens, 4] = lowbit.matmul(g, h, i, t, s)
      return y, z, v`,
      `${EMBED}
      const w: f32[8] = tensor("norm")
      const t: ternary[4, 8] = packed-ternary("t")
      const s: f32[4] = scale("s", multiply, rows = 4)
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      n3: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.25}
      a: i8[tokens, 8], b: f32[tokens], c: i32[tokens] = quantize(n)
      g: i8[tokens, 8], h: f32[tokens], i: i32[tokens] = quantize(n3)
      y: f32[tokens, 4] = lowbit.matmul(a, b, c, t, s)
      z: f32[tokens, 4] = lowbit.matmul(a, b, c, t, s)
      v: f32[tokens, 4] = lowbit.matmul(g, h, i, t, s)
      return y, z, v`,
    );
  });
});

describe('fuse-projections', () => {
  const constants = `
      const wq: ternary[8, 8] = packed-ternary("q")
      const wk: ternary[4, 8] = absmean-ternary("k")
      const sq: f32[8] = scale("qs", divide, rows = 8)
      const sk: f32[4] = absmean-scale("k", rows = 4)`;

  it('joins weights and scales, and slices the result', () => {
    expectRewrite(
      fuseProjections,
      `${EMBED}${constants}
      ${X}
      ${QUANTIZED}
      l.q: f32[tokens, 8] = lowbit.matmul(q, scale, sum, wq, sq)
      l.k: f32[tokens, 4] = lowbit.matmul(q, scale, sum, wk, sk)
      return l.q, l.k`,
      `${EMBED}${constants}
      const l.q_k.weight: ternary[12, 8] = concat(packed-ternary("q"), absmean-ternary("k"))
      const l.q_k.weightScale: f32[12] = concat(scale("qs", divide, rows = 8), absmean-scale("k", rows = 4))
      ${X}
      ${QUANTIZED}
      l.q_k: f32[tokens, 12] = lowbit.matmul(q, scale, sum, l.q_k.weight, l.q_k.weightScale)
      l.q: f32[tokens, 8] = slice(l.q_k) {start = 0, length = 8}
      l.k: f32[tokens, 4] = slice(l.q_k) {start = 8, length = 4}
      return l.q, l.k`,
    );
  });

  it('leaves products of different inputs apart', () => {
    expectUntouched(
      fuseProjections,
      `${EMBED}${constants}
      ${X}
      ${QUANTIZED}
      y: f32[tokens, 8] = lowbit.matmul(q, scale, sum, wq, sq)
      q2: i8[tokens, 8], scale2: f32[tokens], sum2: i32[tokens] = quantize(y)
      z: f32[tokens, 4] = lowbit.matmul(q2, scale2, sum2, wk, sk)
      return z`,
    );
  });
});

describe('drop-head', () => {
  const body = `${EMBED}
      ${X}
      last: f32[outputs, 8] = selectOutputs(x)
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`;

  it('returns what the head would read, where there is to be none', () => {
    const text = printGraph(apply(dropHead, body, { head: 'none' }));
    expect(text).toContain('return last');
    expect(text).not.toContain('matmul');
  });

  it('leaves the head otherwise', () => expectUntouched(dropHead, body));
});

describe('join-columns', () => {
  const slices = (first: string) => `${EMBED}
      const b: f32[6] = tensor("b")
      const c: f32[2] = tensor("c")
      ${X}
      q: f32[tokens, 6] = slice(x) {start = 0, length = 6}
      k: f32[tokens, 2] = slice(x) {start = 6, length = 2}
      qb: f32[tokens, 6] = ${first}`;

  it('adds the biases of all slices at once', () => {
    const graph = joinColumns.run(
      parseGraph(
        graphText(`${slices('bias(q, b)')}
      kb: f32[tokens, 2] = bias(k, c)
      return qb, kb`),
      ),
      { head: 'stored' },
    );
    verifyGraph(graph);
    const text = printGraph(graph);
    expect(text).toContain('x.bias.weight: f32[8] = concat(tensor("b"), tensor("c"))');
    expect(text).toContain('x.bias: f32[tokens, 8] = bias(x, x.bias.weight)');
    expect(text).toContain('qb: f32[tokens, 6] = slice(x.bias) {start = 0, length = 6}');
    expect(text).toContain('kb: f32[tokens, 2] = slice(x.bias) {start = 6, length = 2}');
    expect(text.match(/bias\(/g)).toHaveLength(1);
  });

  it('leaves slices of which one has no bias, or another reader', () => {
    expectUntouched(
      joinColumns,
      `${slices('bias(q, b)')}
      return qb, k`,
    );
    expectUntouched(
      joinColumns,
      `${slices('bias(q, b)')}
      kb: f32[tokens, 2] = bias(k, c)
      return qb, kb, k`,
    );
  });

  it('norms heads of the first slices, and leaves the last one', () => {
    const attrs = '{headDim = 2, eps = 0.5}';
    const graph = joinColumns.run(
      parseGraph(
        graphText(`${EMBED}
      const b: f32[4] = adjusted("b", plus = 1, factor = 2, times = 2)
      const c: f32[2] = tensor("c")
      ${X}
      q: f32[tokens, 4] = slice(x) {start = 0, length = 4}
      k: f32[tokens, 2] = slice(x) {start = 4, length = 2}
      v: f32[tokens, 2] = slice(x) {start = 6, length = 2}
      qn: f32[tokens, 4] = rmsNorm.heads(q, b) ${attrs}
      kn: f32[tokens, 2] = rmsNorm.heads(k, c) ${attrs}
      return qn, kn, v`),
      ),
      { head: 'stored' },
    );
    verifyGraph(graph);
    const text = printGraph(graph);
    expect(text).toContain(`= rmsNorm.heads(x, x.rmsNorm.heads.weight) ${attrs}`);
    expect(text).toContain('v: f32[tokens, 2] = slice(x.rmsNorm.heads) {start = 6, length = 2}');
  });
});

describe('pack-columns', () => {
  const body = (kStyle: string) => `${EMBED}
      const table: f32[5, 2] = rope-table(theta = 100, headDim = 2, positions = 5)
      const norm: f32[8] = tensor("norm")
      ${X}
      q: f32[tokens, 8] = rmsNorm(x, norm) {eps = 1}
      qr: f32[tokens, 8] = rope(q, table) {heads = 4, headDim = 2, style = "half"}
      kr: f32[tokens, 8] = rope(x, table) {heads = 4, headDim = 2, style = "${kStyle}"}
      y: f32[tokens, 8] = attention(qr, kr, x) {layer = 0, heads = 4, kvHeads = 4, headDim = 2}
      return y`;

  it('puts side by side what no projection has so', () => {
    const graph = dropDead.run(apply(packColumns, body('half')), { head: 'stored' });
    const text = printGraph(graph);
    expect(text).toContain('y.columns: f32[tokens, 24] = columns(q, x, x)');
    expect(text).toContain('y: f32[tokens, 8] = attention.packed(y.columns, table)');
    expect(text).not.toContain('rope(');
    const gate = `${EMBED}
      ${X}
      y: f32[tokens, 8] = gate(x, x) {act = "silu"}
      return y`;
    expect(printGraph(apply(packColumns, gate))).toContain('y: f32[tokens, 8] = gate.packed(y.columns)');
  });

  it('takes as one what is cut from one', () => {
    const cut = (start: number) => `${EMBED}
      const table: f32[5, 2] = rope-table(theta = 100, headDim = 2, positions = 5)
      ${X}
      q: f32[tokens, 4] = slice(x) {start = 0, length = 4}
      k: f32[tokens, 4] = slice(x) {start = ${start}, length = 4}
      qr: f32[tokens, 4] = rope(q, table) {heads = 2, headDim = 2, style = "half"}
      kr: f32[tokens, 4] = rope(k, table) {heads = 2, headDim = 2, style = "half"}
      y: f32[tokens, 4] = attention(qr, kr, q) {layer = 0, heads = 2, kvHeads = 2, headDim = 2}
      return y`;
    expect(printGraph(apply(packColumns, cut(4)))).toContain('= columns(x, q)');
    expect(printGraph(apply(packColumns, cut(3)))).toContain('= columns(q, k, q)');
  });

  it('leaves attention that turns q and k differently', () => {
    expectUntouched(packColumns, body('interleaved'));
  });

  /** q: 2 heads of 2, k and v: 1 head of 2, in a projection of 8. */
  const sliced = (vStart: number) => `
      ${EMBED}
      const table: f32[5, 2] = rope-table(theta = 100, headDim = 2, positions = 5)
      ${X}
      q: f32[tokens, 4] = slice(x) {start = 0, length = 4}
      k: f32[tokens, 2] = slice(x) {start = 4, length = 2}
      v: f32[tokens, 2] = slice(x) {start = ${vStart}, length = 2}
      qr: f32[tokens, 4] = rope(q, table) {heads = 2, headDim = 2, style = "half"}
      kr: f32[tokens, 2] = rope(k, table) {heads = 1, headDim = 2, style = "half"}
      y: f32[tokens, 4] = attention(qr, kr, v) {layer = 3, heads = 2, kvHeads = 1, headDim = 2}
      return y`;

  it('lets attention read a projection that it reads all of', () => {
    const graph = dropDead.run(apply(packColumns, sliced(6)), { head: 'stored' });
    expect(lines(printGraph(graph))).toEqual(
      lines(
        graphText(`${EMBED}
      const table: f32[5, 2] = rope-table(theta = 100, headDim = 2, positions = 5)
      ${X}
      y: f32[tokens, 4] = attention.packed(x, table) {layer = 3, heads = 2, kvHeads = 1, headDim = 2, style = "half"}
      return y`),
      ),
    );
  });

  it('puts side by side slices in another order', () => {
    const text = printGraph(apply(packColumns, sliced(4)));
    expect(text).toContain('= columns(q, k, v)');
    expect(text).toContain('= attention.packed(y.columns, table)');
  });

  const gate = (upStart: number) => `${EMBED}
      ${X}
      g: f32[tokens, 4] = slice(x) {start = 0, length = 4}
      u: f32[tokens, 4] = slice(x) {start = ${upStart}, length = 4}
      y: f32[tokens, 4] = gate(g, u) {act = "silu"}
      return y`;

  it('lets a gate read a projection by its halves, and no other slices', () => {
    const text = printGraph(apply(packColumns, gate(4)));
    expect(text).toContain('y: f32[tokens, 4] = gate.packed(x) {act = "silu"}');
    for (const start of [2, 0]) {
      expect(printGraph(apply(packColumns, gate(start)))).toContain('= columns(g, u)');
    }
  });
});

describe('fold-constants', () => {
  it('flattens concatenations, joins data, and makes equal constants one', () => {
    expectRewrite(
      foldConstants,
      `${EMBED}
      const a: f32[8] = concat(concat(data(1, 2), data(3)), concat(data(4, 5), scale("s", multiply, rows = 3)))
      const b: f32[8] = concat(data(1, 2, 3, 4, 5), scale("s", multiply, rows = 3))
      const c: f32[8] = concat(concat(scale("s", multiply, rows = 8)))
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, a) {eps = 0.5}
      m: f32[tokens, 8] = rmsNorm(n, b) {eps = 0.5}
      l: f32[tokens, 8] = rmsNorm(m, c) {eps = 0.5}
      return l`,
      `${EMBED}
      const a: f32[8] = concat(data(1, 2, 3, 4, 5), scale("s", multiply, rows = 3))
      const c: f32[8] = scale("s", multiply, rows = 8)
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, a) {eps = 0.5}
      m: f32[tokens, 8] = rmsNorm(n, a) {eps = 0.5}
      l: f32[tokens, 8] = rmsNorm(m, c) {eps = 0.5}
      return l`,
    );
  });

  it('drops slices of everything and takes slices of slices at once', () => {
    expectRewrite(
      foldConstants,
      `${EMBED}
      ${X}
      all: f32[tokens, 8] = slice(x) {start = 0, length = 8}
      half: f32[tokens, 4] = slice(all) {start = 4, length = 4}
      end: f32[tokens, 2] = slice(half) {start = 2, length = 2}
      return all, half, end`,
      `${EMBED}
      ${X}
      half: f32[tokens, 4] = slice(x) {start = 4, length = 4}
      end: f32[tokens, 2] = slice(x) {start = 6, length = 2}
      return x, half, end`,
    );
  });
});

describe('fuse-norm-quantize', () => {
  const norm = `${EMBED}
      const w: f32[8] = tensor("norm")
      const t: ternary[4, 8] = packed-ternary("t")
      const s: f32[4] = scale("s", multiply, rows = 4)
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      q: i8[tokens, 8], scale: f32[tokens], sum: i32[tokens] = quantize(n)
      y: f32[tokens, 4] = lowbit.matmul(q, scale, sum, t, s)`;

  it('makes one node of the two', () => {
    const text = printGraph(apply(fuseNormQuantize, `${norm}\nreturn y`));
    expect(text).toContain('scale: f32[tokens], sum: i32[tokens] = rmsNorm.quantize(x, w) {eps = 0.5}');
    expect(text).not.toContain('n: ');
  });

  it('leaves a norm that others read', () => {
    expectUntouched(fuseNormQuantize, `${norm}\nreturn y, n`);
    expectUntouched(fuseNormQuantize, `${norm}\nz: f32[tokens, 8] = add(n, x)\nreturn y, z`);
  });
});

describe('fuse-residual', () => {
  const product = `${EMBED}
      const t: ternary[8, 8] = packed-ternary("t")
      const s: f32[8] = scale("s", multiply, rows = 8)
      ${X}
      ${QUANTIZED}
      y: f32[tokens, 8] = lowbit.matmul(q, scale, sum, t, s)`;

  it.each(['y, x', 'x, y'])('adds at the end of the product: add(%s)', (inputs) => {
    const graph = apply(fuseResidual, `${product}\nh: f32[tokens, 8] = add(${inputs})\nreturn h`);
    expect(printGraph(graph)).toContain('h: f32[tokens, 8] = lowbit.matmul.add(q, scale, sum, t, s, x)');
  });

  it('leaves a product that others read', () => {
    expectUntouched(fuseResidual, `${product}\nh: f32[tokens, 8] = add(y, x)\nreturn h, y`);
    expectUntouched(fuseResidual, `${product}\nh: f32[tokens, 8] = add(y, y)\nreturn h`);
  });
});

describe('drop-dead', () => {
  it('drops what no output needs', () => {
    expectRewrite(
      dropDead,
      `${EMBED}
      const w: f32[8] = tensor("norm")
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      y: f32[tokens, 8] = add(x, x)
      return y`,
      `${EMBED}
      ${X}
      y: f32[tokens, 8] = add(x, x)
      return y`,
    );
  });
});

describe('choose-encodings', () => {
  const model = `
      ${X}
      ${QUANTIZED}
      y: f32[tokens, 8] = lowbit.matmul(q, scale, sum, t, s)
      last: f32[outputs, 8] = selectOutputs(y)`;
  const rest = `
      const t: ternary[8, 8]@ENC = packed-ternary("t")
      const s: f32[8]@VEC = scale("s", multiply, rows = 8)`;
  const named = (text: string) => text.replace('@ENC', ' @i2').replace('@VEC', ' @padded-rows');
  const plain = (text: string) => text.replace(/@\w+/g, '');

  it('keeps tables as stored', () => {
    expectRewrite(
      chooseEncodings,
      `${EMBED}${plain(rest)}${model}
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
      `${TOKENS}
      const embed: f32[9, 8] @padded-rows = tensor("embed")${named(rest)}${model}
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
    );
  });

  it('keeps trits in 1.6 bits where asked to', () => {
    expectRewrite(
      chooseEncodings,
      `${EMBED}${plain(rest)}${model}
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
      `${TOKENS}
      const embed: f32[9, 8] @padded-rows = tensor("embed")${named(rest).replace('@i2', '@t5b')}${model}
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
      { head: 'stored', ternary: 't5b' },
    );
  });

  it('gives a tied head an int8 table of its own', () => {
    expectRewrite(
      chooseEncodings,
      `${EMBED}${plain(rest)}${model}
      logits: f32[outputs, 9] = matmul(last, embed)
      return logits`,
      `${TOKENS}
      const embed: f32[9, 8] @padded-rows = tensor("embed")${named(rest)}
      const embed.int8: f32[9, 8] @int8-rows = tensor("embed")${model}
      logits: f32[outputs, 9] = matmul(last, embed.int8)
      return logits`,
      { head: 'int8' },
    );
  });

  it('turns an untied head where it is', () => {
    const graph = apply(
      chooseEncodings,
      `${EMBED}
      const head: f32[9, 8] = tensor("head")
      const table: f32[5, 2] = rope-table(theta = 100, headDim = 2, positions = 5)
      ${X}
      turned: f32[tokens, 8] = rope(x, table) {heads = 4, headDim = 2, style = "half"}
      last: f32[outputs, 8] = selectOutputs(turned)
      logits: f32[outputs, 9] = matmul(last, head)
      return logits`,
      { head: 'int8' },
    );
    expect(graph.constants.map(({ name, encoding }) => [name, encoding])).toEqual([
      ['embed', 'padded-rows'],
      ['head', 'int8-rows'],
      ['table', 'rows'],
    ]);
  });

  it('leaves a table of angles unpadded, whatever its source', () => {
    const graph = apply(
      chooseEncodings,
      `input x: f32[tokens, 8]
      const table: f32[2, 2] = data(1, 0.5, 0, 0.8)
      turned: f32[tokens, 8] = rope(x, table) {heads = 4, headDim = 2, style = "half"}
      return turned`,
    );
    expect(graph.constants.map(({ name, encoding }) => [name, encoding])).toEqual([['table', 'rows']]);
  });
});

describe('weights quantized in groups', () => {
  const PARTS = `
      const w: f32[8] = tensor("norm")
      const a: u4[4, 8] = codes(round("a", asymmetric, bits = 4, group = 4))
      const as: f16[4, 2] = scales(round("a", asymmetric, bits = 4, group = 4))
      const az: u8[4, 2] = zeros(round("a", asymmetric, bits = 4, group = 4))
      const b: u4[8, 8] = codes(round("b", asymmetric, bits = 4, group = 4))
      const bs: f16[8, 2] = scales(round("b", asymmetric, bits = 4, group = 4))
      const bz: u8[8, 2] = zeros(round("b", asymmetric, bits = 4, group = 4))`;
  const ATTRS = '{group = 4, activationGroup = 4, zero = 0}';
  const TO = '{group = 4, to = "int8"}';
  const Q = `q: i8[tokens, 8], scale: f32[tokens, 2], sum: i32[tokens, 2]`;

  it('are fused below each other, with their scales and zeros', () => {
    const after = apply(
      fuseProjections,
      `${EMBED}${PARTS}
      ${X}
      ${Q} = quantize.group(x) ${TO}
      y: f32[tokens, 4] = lowbit.matmul.group(q, scale, sum, a, as, az) ${ATTRS}
      z: f32[tokens, 8] = lowbit.matmul.group(q, scale, sum, b, bs, bz) ${ATTRS}
      return y, z`,
    );
    const text = printGraph(after);
    expect(text).toContain(
      'y_z: f32[tokens, 12] = lowbit.matmul.group(q, scale, sum, y_z.weight, y_z.weightScale, y_z.zeros) {group = 4, activationGroup = 4, zero = 0}',
    );
    expect(text).toContain(
      'const y_z.zeros: u8[12, 2] = concat(zeros(round("a", asymmetric, bits = 4, group = 4)), ',
    );
  });

  it('are not fused where groups or zeros differ', () => {
    expectUntouched(
      fuseProjections,
      `${EMBED}${PARTS}
      ${X}
      ${Q} = quantize.group(x) ${TO}
      y: f32[tokens, 4] = lowbit.matmul.group(q, scale, sum, a, as, az) ${ATTRS}
      z: f32[tokens, 8] = lowbit.matmul.group(q, scale, sum, b, bs) {group = 4, activationGroup = 4, zero = 8}
      return y, z`,
    );
  });

  it('take the norm before and the residual after them in', () => {
    const product = (op: string, more: string) =>
      `lowbit.matmul.group${op}(q, scale, sum, b, bs, ${more}bz) ${ATTRS}`;
    const before = `${EMBED}${PARTS}
      ${X}
      n: f32[tokens, 8] = rmsNorm(x, w) {eps = 0.5}
      ${Q} = quantize.group(n) ${TO}
      y: f32[tokens, 8] = ${product('', '')}
      h: f32[tokens, 8] = add(y, x)
      return h`;
    const text = printGraph(fuseResidual.run(apply(fuseNormQuantize, before), { head: 'stored' }));
    expect(lines(text).slice(-5)).toEqual([
      X,
      `${Q} = rmsNorm.quantize.group(x, w) {eps = 0.5, group = 4, to = "int8"}`,
      `h: f32[tokens, 8] = ${product('.add', 'x, ')}`,
      'return h',
      '}',
    ]);
  });

  it('have their scales and zeros encoded as lanes', () => {
    const { constants } = apply(
      chooseEncodings,
      `${EMBED}${PARTS}
      ${X}
      ${Q} = quantize.group(x) ${TO}
      z: f32[tokens, 8] = lowbit.matmul.group.add(q, scale, sum, b, bs, x, bz) ${ATTRS}
      return z`,
    );
    const encodings = Object.fromEntries(constants.map(({ name, encoding }) => [name, encoding]));
    expect(encodings).toMatchObject({ b: 'code-tiles', bs: 'group-lanes', bz: 'group-lanes' });
  });

  it.each([
    [32, 'bit-planes'],
    [16, 'code-tiles'],
  ])('are looked up in groups of %i as %s', (group, encoding) => {
    const { constants } = apply(
      chooseEncodings,
      `${EMBED}
      const b: u4[8, 8] = codes(round("b", symmetric, bits = 4, group = ${group}))
      const bs: f16[8, 1] = scales(round("b", symmetric, bits = 4, group = ${group}))
      ${X}
      q: i8[tokens, 8], scale: f32[tokens, 1], sum: i32[tokens, 1] = quantize.group(x) {group = ${group}, to = "int8"}
      z: f32[tokens, 8] = lowbit.matmul.group(q, scale, sum, b, bs) {group = ${group}, activationGroup = ${group}, zero = 8}
      return z`,
      { head: 'stored', lookup: [4] },
    );
    expect(constants.find(({ name }) => name === 'b')?.encoding).toBe(encoding);
  });
});
