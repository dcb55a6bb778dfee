/** What `lutra inspect` writes for people. */
import { printFunction } from '../loops/print.ts';
import type {
  ActivationForm,
  MixedQuantization,
  ModelInfo,
  ParameterCounts,
  Quantization,
} from '../models/info.ts';
import { bitsOfWeight } from '../models/summary.ts';
import type { Plan } from '../plan/types.ts';
import type { Costs } from './costs.ts';
import { byteSize, count, table } from './render.ts';

/** The facts of a model as two columns; `more` are lines of the caller's. */
export function summaryText(
  info: ModelInfo,
  plan: Plan,
  costs: Costs,
  more: readonly (readonly [string, string])[],
): string {
  const { parameters, quantization } = info;
  return table([
    ['model', info.name],
    ['architecture', info.architecture],
    [
      'parameters',
      `${parametersText(parameters)}, ${count(parameters.tables)} in tables (${info.headDType}), ${count(parameters.norms)} in norms`,
    ],
    ['weights', weightsText(quantization)],
    [
      'layers',
      `${info.layers} of width ${info.hidden}, feed-forward ${info.intermediate} (${info.activation})`,
    ],
    ['attention', `${info.heads} heads of ${info.headDim}, ${info.kvHeads} for keys and values`],
    ['vocabulary', `${info.vocab}, output head ${info.tied ? 'tied to the embedding' : 'of its own'}`],
    ['context', `${plan.options.context} of ${info.maxContext} positions`],
    ['memory', `${byteSize(costs.memoryBytes)}: ${memoryText(plan)}`],
    ['disk', diskText(costs)],
    ['speed', speedText(costs)],
    ...more,
  ]);
}

function parametersText({ ternary, projections = 0 }: ParameterCounts): string {
  return projections === 0 ? `${count(ternary)} ternary` : `${count(projections)} in projections`;
}

/** How the weights of projections are stored. */
function weightsText(quantization: Quantization): string {
  switch (quantization.form) {
    case 'online':
      return 'quantized on import from master weights';
    case 'packed':
      return `packed, outputs ${quantization.direction === 'multiply' ? 'multiplied' : 'divided'} by weight_scale`;
    case 'float':
      return 'floats';
    case 'mixed':
      return mixedText(quantization);
    case 'groups': {
      const { format, bits, group, symmetric } = quantization;
      const columns =
        typeof group === 'number' ? `groups of ${group}` : `whole ${group === 'row' ? 'rows' : 'matrices'}`;
      const zeros = symmetric ? 'symmetric' : 'with zero points';
      if (format === 'absmean') return `ternary in ${columns} (absmean); ${activationsText(quantization)}`;
      return `${bits} bits in ${columns}, ${zeros} (${format}); ${activationsText(quantization)}`;
    }
  }
}

const activationsText = ({ activations, byteSums = false }: ActivationForm) =>
  `activations ${activations}${byteSums ? ' in tables of bytes' : ''}`;

/** How many matrices have which codes. */
function mixedText({ matrices, ...activations }: MixedQuantization): string {
  const counts = new Map<string, number>();
  for (const codes of Object.values(matrices)) {
    const { bits, group, block, zero } = codes;
    const inBlocks = block === undefined ? '' : ` in blocks of ${block}`;
    const minima = zero === undefined ? ' with minima' : '';
    const all = Number(bitsOfWeight(codes).toFixed(3));
    const kind = `${bits} bits in groups of ${group}${inBlocks}${minima} (${all} a weight)`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  const kinds = Array.from(counts, ([kind, number]) => `${number} matrices of ${kind}`);
  return `${kinds.join(', ')}; ${activationsText(activations)}`;
}

function diskText({ compiledBytes, checkpointBytes, downloadBytes }: Costs): string {
  const compiled = `${byteSize(compiledBytes)} compiled`;
  if (checkpointBytes === undefined) return compiled;
  if (downloadBytes > 0) return `${byteSize(downloadBytes)} to download, then ${compiled}`;
  return `${byteSize(checkpointBytes)} of weights here, ${compiled}`;
}

function speedText({ speed }: Costs): string {
  if ('unknown' in speed) return `unknown: ${speed.unknown}`;
  const { tokensPerSecond, bytesPerToken, bytesPerSecond, target, threads } = speed;
  const rate = tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : tokensPerSecond.toFixed(0);
  const limit = `${byteSize(bytesPerToken)} a token, ${(bytesPerSecond / 1e9).toFixed(1)} GB/s with ${threads} threads (${target})`;
  return `at most ${rate} tokens/s here if memory alone limits: ${limit}`;
}

function memoryText(plan: Plan): string {
  const { weightsBytes, arenaBytes, cacheBytes } = plan;
  return `${byteSize(weightsBytes)} weights, ${byteSize(arenaBytes)} arena, ${byteSize(cacheBytes)} KV cache a session`;
}

/** Kernels, where weights lie, and the forward step. */
export function planText(plan: Plan): string {
  const kernels = plan.kernels.map(({ name, op, family, shape }) => [
    name,
    `${op} (${family})`,
    Object.entries(shape)
      .map(([key, value]) => `${key}=${value}`)
      .join(' '),
  ]);
  const regions = plan.weights.flatMap(({ constant, encoding, regions }) =>
    regions.map(({ offset, bytes }, i) => [
      offset,
      bytes,
      i === 0 ? encoding : `${encoding} +${i}`,
      constant,
    ]),
  );
  const { context, block, cacheElem } = plan.options;
  return [
    `plan ${plan.name}: context ${context}, blocks of ${block} tokens, KV cache in ${cacheElem}\n`,
    `${memoryText(plan)}\n`,
    `\nkernels\n${table(kernels)}`,
    `\nweights: offset, bytes, encoding, constant\n${table(regions)}`,
    `\n${printFunction(plan.main)}\n`,
  ].join('');
}
