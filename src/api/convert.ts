import { resolve } from 'node:path';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { TERNARY_BLOCK, type TernaryGgufType } from '../checkpoint/gguf/encode.ts';
import type { I2sOrder } from '../checkpoint/gguf/ternary.ts';
import { writeGguf } from '../checkpoint/gguf/write.ts';
import { vocabularyEntries } from '../checkpoint/gguf/write-vocabulary.ts';
import { openCheckpoint } from '../checkpoint/open.ts';
import { LutraError } from '../common/errors.ts';
import { importModel } from '../models/import.ts';
import type { ModelInfo } from '../models/info.ts';
import type { Progress } from '../runtime/types.ts';
import { type GgufArchitecture, modelEntries } from './convert/metadata.ts';
import { ggufTensors, type HeadType } from './convert/tensors.ts';
import { fetchModel } from './fetch-model.ts';

/** The type of a converted model's projections. */
export type ConvertType = 'tq1_0' | 'tq2_0' | 'i2_s' | 'q8_0';

export interface ConvertOptions {
  readonly type: ConvertType;
  /** Type of the embedding and the output head; default `f16`. */
  readonly head?: HeadType;
  /**
   * The name by which other programs know how to compute the model. Default: `llama` for a Llama; for a
   * BitNet `bitnet`, which llama.cpp knows, or with `i2_s` `bitnet-b1.58`, which bitnet.cpp knows.
   */
  readonly architecture?: GgufArchitecture;
  /** Of a GGUF file with I2_S weights: how their blocks are ordered, where the weights do not tell. */
  readonly i2sOrder?: I2sOrder;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  readonly onWarning?: (message: string) => void;
}

export interface Converted {
  readonly model: string;
  readonly output: string;
  readonly architecture: GgufArchitecture;
  readonly bytes: number;
}

const TYPES: Readonly<Record<ConvertType, TernaryGgufType>> = {
  tq1_0: 'TQ1_0',
  tq2_0: 'TQ2_0',
  i2_s: 'I2_S',
  q8_0: 'Q8_0',
};

/**
 * Writes a ternary model as a GGUF file, tensor by tensor: trits exactly, scales as the type has them.
 * `source` is a checkpoint folder, a GGUF file, or `hf:org/name`. Leaves nothing half-written.
 * @throws `unsupported` for a model that the type or the architecture has no form for; otherwise as `compile`
 */
export async function convert(source: string, output: string, options: ConvertOptions): Promise<Converted> {
  const { signal, onProgress, onWarning } = options;
  const folder = await fetchModel(source, options);
  const checkpoint = await openCheckpoint(
    folder,
    options.i2sOrder === undefined ? {} : { i2sOrder: options.i2sOrder },
  );
  try {
    const { graph, info } = importModel(checkpoint);
    const architecture = chooseArchitecture(info, options);
    const type = TYPES[options.type];
    requireFit(info, architecture, type);
    const { tensors, warnings } = await ggufTensors(checkpoint, graph, info, {
      architecture,
      type,
      head: options.head ?? 'f16',
    });
    for (const warning of warnings) onWarning?.(warning);
    const path = resolve(output);
    const bytes = await writeGguf(path, metadata(checkpoint, info, architecture, type), tensors, {
      signal,
      onProgress: (done, total) => onProgress?.({ stage: 'write', done, total }),
    });
    return { model: info.name, output: path, architecture, bytes };
  } finally {
    await checkpoint.close();
  }
}

function chooseArchitecture(info: ModelInfo, { architecture, type }: ConvertOptions): GgufArchitecture {
  const plain = !info.subNorms;
  if (architecture === undefined) return plain ? 'llama' : type === 'i2_s' ? 'bitnet-b1.58' : 'bitnet';
  if ((architecture === 'llama') === plain) return architecture;
  throw new LutraError(
    'usage',
    `${info.name} ${plain ? 'has no' : 'has'} sub-norms, so that it is no model of the architecture ${architecture}`,
    { hint: plain ? 'Choose llama.' : 'Choose bitnet, bitnet-25 or bitnet-b1.58.' },
  );
}

/** Architectures, by lutra's names, that GGUF files are written of. */
const WRITTEN = new Set(['bitnet', '1bitllm', 'llama-bitnet', 'llama']);

/** What the architecture takes for granted, and other programs would get wrong. */
function requireFit(info: ModelInfo, architecture: GgufArchitecture, type: TernaryGgufType): void {
  const refuse = (what: string, hint: string): never => {
    throw new LutraError('unsupported', `${info.name}: ${what}`, { hint });
  };
  if (!WRITTEN.has(info.architecture)) {
    refuse(
      `models of the architecture ${info.architecture} cannot be written`,
      'Bitnets and ternary Llamas can.',
    );
  }
  const { form } = info.quantization;
  if (form !== 'packed' && form !== 'online') {
    refuse(
      form === 'float'
        ? 'its weights are floats, not ternary'
        : 'its weights are codes of groups, not ternary',
      "convert writes ternary models alone; llama.cpp's own tools convert others.",
    );
  }
  if (architecture === 'llama') {
    if (info.activation !== 'silu') {
      refuse(`the architecture llama has no activation ${info.activation}`, 'Only silu can be written.');
    }
  } else {
    if (info.heads * info.headDim !== info.hidden) {
      refuse(`${architecture} has no heads of size ${info.headDim}`, 'hidden_size must be heads x head_dim.');
    }
    if (!info.tied && architecture !== 'bitnet-25') {
      refuse(`${architecture} has no output head of its own`, 'Use --architecture bitnet-25.');
    }
    if (architecture !== 'bitnet' && info.activation !== 'relu2') {
      refuse(`${architecture} has no activation ${info.activation}`, 'Use --architecture bitnet.');
    }
  }
  for (const cols of [info.hidden, info.heads * info.headDim, info.intermediate]) {
    const block = type === 'I2_S' ? TERNARY_BLOCK.I2_S : TERNARY_BLOCK.Q8_0;
    if (cols % block !== 0) {
      refuse(
        `rows of ${cols} weights are no multiple of ${block}`,
        'Try another --type: q8_0 takes multiples of 32.',
      );
    }
  }
}

function metadata(
  checkpoint: Checkpoint,
  info: ModelInfo,
  architecture: GgufArchitecture,
  type: TernaryGgufType,
) {
  return [
    ...modelEntries(info, architecture, type, checkpoint.generationConfig),
    ...vocabularyEntries(checkpoint, info.vocab),
  ];
}
