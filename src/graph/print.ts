/**
 * The readable text of a graph; `parse.ts` reads it back to an equal graph.
 *
 *     graph small {
 *       input tokens: i32[tokens]
 *
 *       const embed: bf16[1024, 256] = tensor("model.embed_tokens.weight")
 *       const rope: f32[512, 32] = rope-table(theta = 10000, headDim = 32, positions = 512)
 *       const up: ternary[768, 256] @i2 = packed-ternary("model.layers.0.mlp.up_proj.weight")
 *
 *       x: f32[tokens, 256] = embedding(tokens, embed)
 *       q: i8[tokens, 256], scale: f32[tokens], sum: i32[tokens] = quantize(x)
 *       turned: f32[tokens, 256] = rope(x, rope) {heads = 8, headDim = 32, style = "half"}
 *
 *       return x
 *     }
 *
 * Names are bare where they can be, else quoted as in JSON; `//` starts a comment.
 */
import { unreachable } from '../common/errors.ts';
import type { AttrValue, Constant, Graph, GroupSource, Node, Value, WeightSource } from './ir.ts';
import { typeText } from './types.ts';

/** Words that start a statement, or are numbers, and so cannot be bare names. */
export const RESERVED: ReadonlySet<string> = new Set([
  'graph',
  'input',
  'const',
  'return',
  'NaN',
  'Infinity',
]);

/** What may stand unquoted. */
export const BARE_NAME = /[A-Za-z_][A-Za-z0-9_.-]*/y;

function nameText(name: string): string {
  BARE_NAME.lastIndex = 0;
  const bare = BARE_NAME.exec(name)?.[0] === name && !RESERVED.has(name);
  return bare ? name : JSON.stringify(name);
}

/** The shortest decimal that gives the number back, its sign of zero included. */
function numberText(value: number): string {
  return Object.is(value, -0) ? '-0' : String(value);
}

export function attrText(value: AttrValue): string {
  if (typeof value === 'number') return numberText(value);
  if (typeof value === 'object') return `[${value.map(numberText).join(', ')}]`;
  return JSON.stringify(value);
}

function assignments(fields: Readonly<Record<string, number>>): string {
  return Object.entries(fields)
    .map(([name, value]) => `${name} = ${numberText(value)}`)
    .join(', ');
}

function groupText(source: GroupSource): string {
  const { format, tensor, bits, group } = source;
  const sizes = assignments({ bits, group });
  const from = `${format}(${JSON.stringify(tensor)}`;
  if (format === 'awq') return `${from}, ${sizes})`;
  if (format === 'parts') {
    const block = source.block === undefined ? '' : `, ${assignments({ block: source.block })}`;
    return `${from}, ${source.minima ? 'minima, ' : ''}${sizes}${block})`;
  }
  if (format === 'round') return `${from}, ${source.symmetric ? 'symmetric' : 'asymmetric'}, ${sizes})`;
  if (format === 'absmean') return `${from}, per = ${JSON.stringify(source.per)}, ${sizes})`;
  const order = source.order === undefined ? '' : `, order = ${JSON.stringify(source.order)}`;
  return `${from}, zeros = ${JSON.stringify(source.zeros)}, ${sizes}${order})`;
}

function sourceText(source: WeightSource): string {
  switch (source.kind) {
    case 'tensor':
    case 'packed-ternary':
    case 'absmean-ternary':
      return `${source.kind}(${JSON.stringify(source.tensor)})`;
    case 'scale':
      return `scale(${JSON.stringify(source.tensor)}, ${source.direction}, rows = ${source.rows})`;
    case 'absmean-scale':
      return `absmean-scale(${JSON.stringify(source.tensor)}, rows = ${source.rows})`;
    case 'adjusted': {
      const { tensor, plus, factor, times } = source;
      return `adjusted(${JSON.stringify(tensor)}, ${assignments({ plus, factor, times })})`;
    }
    case 'concat':
      return `concat(${source.parts.map(sourceText).join(', ')})`;
    case 'rope-table': {
      const { theta, headDim, positions, scaling, divisors, magnitude } = source;
      const numbers = {
        theta,
        headDim,
        positions,
        ...scaling,
        ...(magnitude !== undefined && { magnitude }),
      };
      const divided = divisors === undefined ? '' : `, divisors = ${attrText(divisors)}`;
      return `rope-table(${assignments(numbers)}${divided})`;
    }
    case 'codes':
    case 'scales':
    case 'zeros':
    case 'scaleCodes':
    case 'zeroCodes':
    case 'order':
      return `${source.kind}(${groupText(source.of)})`;
    case 'data':
      return `data(${source.values.map(numberText).join(', ')})`;
    default:
      return unreachable(source);
  }
}

function valueText(value: Value): string {
  return `${nameText(value.name)}: ${typeText(value.type)}`;
}

function constantText(constant: Constant): string {
  const encoding = constant.encoding === undefined ? '' : ` @${nameText(constant.encoding)}`;
  return `const ${valueText(constant)}${encoding} = ${sourceText(constant.source)}`;
}

export function nodeLine(node: Node): string {
  const attrs = Object.entries(node.attrs).map(([name, value]) => `${nameText(name)} = ${attrText(value)}`);
  const call = `${nameText(node.op)}(${node.inputs.map(nameText).join(', ')})`;
  return `${node.outputs.map(valueText).join(', ')} = ${call}${attrs.length === 0 ? '' : ` {${attrs.join(', ')}}`}`;
}

export function printGraph(graph: Graph): string {
  const sections = [
    graph.inputs.map((input) => `input ${valueText(input)}`),
    graph.constants.map(constantText),
    graph.nodes.map(nodeLine),
    [`return ${graph.outputs.map(nameText).join(', ')}`.trimEnd()],
  ];
  const body = sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.map((line) => `  ${line}\n`).join(''))
    .join('\n');
  return `graph ${nameText(graph.name)} {\n${body}}\n`;
}
