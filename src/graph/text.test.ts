import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LutraError } from '../common/errors.ts';
import { GraphBuilder } from './builder.ts';
import type { Attrs, AttrValue, Constant, Dim, Graph, Node, TensorType, Value, WeightSource } from './ir.ts';
import { parseGraph } from './parse.ts';
import { printGraph } from './print.ts';
import { DTYPES, tensor } from './types.ts';

const SMALL = `graph small {
  input tokens: i32[tokens]

  const embed: bf16[1024, 256] = tensor("model.embed_tokens.weight")
  const rope: f32[512, 32] = rope-table(theta = 10000, headDim = 32, positions = 512)
  const up: ternary[768, 256] @i2 = concat(packed-ternary("a"), absmean-ternary("b"))
  const upScale: f32[768] = scale("a.weight_scale", divide, rows = 768)
  const down: u4[256, 768] = codes(round("c", asymmetric, bits = 4, group = 128))

  x: f32[tokens, 256] = embedding(tokens, embed)
  quantize.q: i8[tokens, 256], quantize.scale: f32[tokens], quantize.sum: i32[tokens] = quantize(x)
  y: f32[tokens, 768] = lowbit.matmul(quantize.q, quantize.scale, quantize.sum, up, upScale)
  turned: f32[tokens, 256] = rope(x, rope) {heads = 8, headDim = 32, style = "half"}
  normed: f32[tokens, 256] = rmsNorm(turned, w) {eps = 0.00001}

  return y, turned
}
`;

test('prints what it parsed', () => {
  expect(printGraph(parseGraph(SMALL))).toBe(SMALL);
});

test('prints what a builder wrote, and parses it back', () => {
  const g = new GraphBuilder('tiny model');
  const tokens = g.input('tokens', 'i32', ['tokens']);
  const table = g.constant('embed', tensor('f32', 4, 2), {
    kind: 'data',
    values: [1, -0, 0.1, 2, 3, 4, 5, 1e-300],
  });
  const x = g.op('embedding', [tokens, table]);
  const graph = g.build([g.op('matmul', [g.op('selectOutputs', [x]), table], {}, 'return')]);
  const text = printGraph(graph);
  expect(text).toBe(`graph "tiny model" {
  input tokens: i32[tokens]

  const embed: f32[4, 2] = data(1, -0, 0.1, 2, 3, 4, 5, 1e-300)

  embedding: f32[tokens, 2] = embedding(tokens, embed)
  selectOutputs: f32[outputs, 2] = selectOutputs(embedding)
  "return": f32[outputs, 4] = matmul(selectOutputs, embed)

  return "return"
}
`);
  expect(parseGraph(text)).toEqual(graph);
});

test('comments, free layout and order of statements are allowed', () => {
  const graph = parseGraph('graph g{ x:f32[tokens,2]=a(c) // one\r\n const c:f32[2]=tensor("t") return x }');
  expect(graph.nodes[0]?.inputs).toEqual(['c']);
  expect(graph.constants[0]?.source).toEqual({ kind: 'tensor', tensor: 't' });
});

const name = fc.oneof(
  fc.string(),
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    'return',
    'input',
    'const',
    'graph',
    'NaN',
    'Infinity',
    'tokens',
    'a.b-c',
    'Infinity-2',
    '__proto__',
  ),
);
const dim: fc.Arbitrary<Dim> = fc.oneof(fc.constantFrom<Dim[]>('tokens', 'outputs'), fc.nat());
const type: fc.Arbitrary<TensorType> = fc.record({ dtype: fc.constantFrom(...DTYPES), shape: fc.array(dim) });
const number = fc.double();
const value: fc.Arbitrary<Value> = fc.record({ name, type });

const { source } = fc.letrec<{ source: WeightSource }>((tie) => ({
  source: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.record({ kind: fc.constantFrom('tensor', 'packed-ternary', 'absmean-ternary'), tensor: name }),
    fc.record({
      kind: fc.constant('scale'),
      tensor: name,
      direction: fc.constantFrom('multiply', 'divide'),
      rows: fc.nat(),
    }),
    fc.record({ kind: fc.constant('absmean-scale'), tensor: name, rows: fc.nat() }),
    fc.record({
      kind: fc.constant('adjusted'),
      tensor: name,
      plus: number,
      factor: number,
      times: fc.nat(),
    }),
    fc.record(
      {
        kind: fc.constant('rope-table'),
        theta: number,
        headDim: fc.nat(),
        positions: fc.nat(),
        scaling: fc.record({
          factor: number,
          lowFactor: number,
          highFactor: number,
          originalContext: number,
        }),
        divisors: fc.array(number),
        magnitude: number,
      },
      { requiredKeys: ['kind', 'theta', 'headDim', 'positions'] },
    ),
    fc.record({
      kind: fc.constantFrom('codes', 'scales', 'zeros', 'scaleCodes', 'zeroCodes', 'order'),
      of: fc.oneof(
        fc.record({
          format: fc.constant('round'),
          tensor: name,
          bits: fc.constantFrom(1, 2, 3, 4, 8),
          group: fc.nat(),
          symmetric: fc.boolean(),
        }),
        fc.record({
          format: fc.constant('absmean'),
          tensor: name,
          per: fc.constantFrom('tensor', 'group'),
          bits: fc.constant(2),
          group: fc.nat(),
        }),
        fc.record(
          {
            format: fc.constant('gptq'),
            tensor: name,
            bits: fc.constantFrom(2, 3, 4, 8),
            group: fc.nat(),
            zeros: fc.constantFrom('v1', 'v2', 'none'),
            order: name,
          },
          { requiredKeys: ['format', 'tensor', 'bits', 'group', 'zeros'] },
        ),
        fc.record(
          {
            format: fc.constant('parts'),
            tensor: name,
            bits: fc.constantFrom(1, 2, 3, 4, 6, 8),
            group: fc.nat(),
            minima: fc.boolean(),
            block: fc.nat(),
          },
          { requiredKeys: ['format', 'tensor', 'bits', 'group', 'minima'] },
        ),
        fc.record({ format: fc.constant('awq'), tensor: name, bits: fc.constant(4), group: fc.nat() }),
      ),
    }),
    fc.record({ kind: fc.constant('data'), values: fc.array(number) }),
    fc.record({ kind: fc.constant('concat'), parts: fc.array(tie('source'), { maxLength: 4 }) }),
  ) as fc.Arbitrary<WeightSource>,
}));

const constant: fc.Arbitrary<Constant> = fc.record(
  { name, type, source, encoding: name },
  { requiredKeys: ['name', 'type', 'source'] },
);
const attrValue: fc.Arbitrary<AttrValue> = fc.oneof(number, fc.string(), fc.boolean(), fc.array(number));
const attrs: fc.Arbitrary<Attrs> = fc
  .array(fc.tuple(name, attrValue), { maxLength: 4 })
  .map((entries) => Object.fromEntries(entries));
const node: fc.Arbitrary<Node> = fc.record({
  op: name,
  inputs: fc.array(name),
  outputs: fc.array(value, { minLength: 1, maxLength: 3 }),
  attrs,
});
const graphs: fc.Arbitrary<Graph> = fc.record({
  name,
  inputs: fc.array(value, { maxLength: 3 }),
  constants: fc.array(constant, { maxLength: 4 }),
  nodes: fc.array(node, { maxLength: 6 }),
  outputs: fc.array(name, { maxLength: 3 }),
});

test('any graph at all comes back from its text, meaningless ones and odd names included', () => {
  fc.assert(
    fc.property(graphs, (graph) => {
      expect(parseGraph(printGraph(graph))).toEqual(graph);
    }),
    { numRuns: 300, seed: 1 },
  );
});

/** Whatever the text, the parser either reads it or says where it is wrong. */
function parsesOrExplains(text: string): void {
  try {
    parseGraph(text);
  } catch (error) {
    expect(error).toBeInstanceOf(LutraError);
    expect((error as LutraError).message).toMatch(/^graph text, line \d+, column \d+: /);
  }
}

test('texts with a piece cut, doubled or replaced never crash the parser', () => {
  const edit = fc.record({
    at: fc.nat(SMALL.length),
    length: fc.nat(40),
    insert: fc.oneof(fc.string(), fc.constantFrom('{', '"', '\\', '[', '-', '@', ', ', '\n', '1e999')),
  });
  fc.assert(
    fc.property(edit, ({ at, length, insert }) => {
      parsesOrExplains(SMALL.slice(0, at) + insert + SMALL.slice(at + length));
    }),
    { numRuns: 1000, seed: 2 },
  );
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => parsesOrExplains(text)),
    { seed: 3 },
  );
});

test('hostile sizes are refused or read, without exhausting the stack', () => {
  parsesOrExplains(`graph g { const c: f32[1] = ${'concat('.repeat(100_000)}`);
  parsesOrExplains(`graph "${'\\n'.repeat(2_000_000)}" { return }`);
  parsesOrExplains(`graph "${'x'.repeat(2_000_000)}`);
  parsesOrExplains(`graph g { ${' \n'.repeat(1_000_000)} return }`);
});

test.each([
  ['graph g { return x', /line 1, column 19: expected }, but the text ends/],
  ['graph g {\n  input x i32[tokens]', /line 2, column 11: expected :, but found i32/],
  ['graph g { input x: i64[2]', /line 1, column 20: expected a type \(f32, .*\), but found i64/],
  ['graph g { input x: i32[1.5]', /1\.5 is no size/],
  ['graph g { x: f32[2] = add(a, b) {n = 1, n = 2}', /column 41: the attribute n is given twice/],
  ['graph g { const c: f32[2] = random(3) return c }', /"random" is no kind of source/],
  ['graph g { const c: f32[2] = scale("a", times, rows = 2) return c }', /expected multiply or divide/],
  ['graph g { const c: f32[2] = tensor("a\n") return c }', /the string does not end on its line/],
  ['graph g { const c: f32[2] = tensor("\\x") return c }', /is no JSON string/],
  ['graph g { return } graph h { return }', /expected nothing more, but found graph/],
  [
    'graph g { const c: u4[2, 2] = codes(round("c", fair, bits = 4, group = 2)) return c }',
    /expected symmetric or/,
  ],
  ['graph g { const c: u4[2, 2] = codes(round("c", symmetric, bits = 5, group = 2)) return c }', /not 5/],
  [
    'graph g { const c: u4[2, 2] = codes(gem("c", symmetric, bits = 4, group = 2)) return c }',
    /quantized matrix/,
  ],
  [
    'graph g { const c: u2[2, 2] = codes(absmean("c", per = "row", bits = 2, group = 2)) return c }',
    /per tensor or group, not row/,
  ],
  ['graph g { ; }', /column 11: unexpected ";"/],
])('%s', (text, message) => {
  expect(() => parseGraph(text)).toThrow(message);
});
