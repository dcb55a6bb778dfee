import { describe, expect, it } from 'vitest';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { printGraph } from '../graph/print.ts';
import { ReferenceExecutor } from '../graph/reference.ts';
import { ReferenceCache } from '../graph/step.ts';
import { verifyGraph } from '../graph/verify.ts';
import { importModel } from './import.ts';
import { ropeFrequencies } from './rope.ts';
import {
  bf16Tensor,
  type MemoryTensors,
  memoryCheckpoint,
  SMALL,
  smallConfig,
  smallTensors,
} from './testing.ts';
import { exactValues } from './weights.ts';

const { head_dim: _, ...SMALL_CONFIG } = smallConfig(SMALL);
const BITNET_NORMS = { attention: 'attn_sub_norm', feedForward: 'ffn_sub_norm' };
const ONEBIT_NORMS = { attention: 'inner_attn_ln', feedForward: 'ffn_layernorm' };

const LLAMA = {
  ...SMALL_CONFIG,
  model_type: 'llama',
  architectures: ['LlamaForCausalLM'],
  quantization_config: { quant_method: 'bitnet', modules_to_not_convert: ['lm_head'] },
};
const BITNET = {
  ...SMALL_CONFIG,
  model_type: 'bitnet',
  architectures: ['BitNetForCausalLM'],
  hidden_act: 'relu2',
  quantization_config: {
    quant_method: 'bitnet',
    linear_class: 'autobitlinear',
    quantization_mode: 'offline',
  },
};
const ONEBIT = {
  ...SMALL_CONFIG,
  model_type: 'llama',
  architectures: ['BitnetForCausalLM'],
  weight_bits: 1,
  input_bits: 8,
  tie_word_embeddings: true,
};

const LLAMA_TENSORS = smallTensors({ weights: { packedScale: 8 } });

type Config = Readonly<Record<string, unknown>>;

const llama = (config: Config = {}, tensors: MemoryTensors = LLAMA_TENSORS) =>
  memoryCheckpoint(tensors, { ...LLAMA, ...config });

async function logitsOf(checkpoint: Checkpoint): Promise<Float64Array> {
  const { graph } = importModel(checkpoint);
  const executor = await ReferenceExecutor.create(graph, (constant) => exactValues(constant, checkpoint));
  return executor.forward(Int32Array.of(3, 17, 0, 5), {
    position: 0,
    logits: 'all',
    cache: new ReferenceCache(),
  });
}

describe('architectures', () => {
  it('reads llamas with packed bitlinear layers, whose scales divide', () => {
    const { graph, info } = importModel(llama());
    verifyGraph(graph);
    expect(info).toEqual({
      architecture: 'llama-bitnet',
      name: 'test-model',
      ...SMALL,
      maxContext: 32,
      tied: false,
      activation: 'silu',
      subNorms: false,
      normEps: 1e-5,
      ropeTheta: 10000,
      quantization: { form: 'packed', direction: 'divide' },
      parameters: {
        ternary: 2 * (24 * (24 + 8 + 8) + 24 * 24 + 3 * 24 * 20),
        tables: 2 * 18 * 24,
        norms: 5 * 24,
      },
      headDType: 'bf16',
      bosId: 1,
      eosIds: [2],
    });
    const text = printGraph(graph);
    expect(text).toContain('scale("model.layers.1.mlp.down_proj.weight_scale", divide, rows = 24)');
    expect(text).toContain('const head: bf16[18, 24] = tensor("lm_head.weight")');
    expect(text).toContain('gated: f32[tokens, 20] = gate(l0.gate, l0.up) {act = "silu"}');
    expect(text).not.toContain('SubNorm');
  });

  it('reads packed bitnet, whose scales multiply', () => {
    const tensors = smallTensors({ weights: { packedScale: 2.5 }, subNorms: BITNET_NORMS, tied: true });
    const checkpoint = memoryCheckpoint(
      tensors,
      { ...BITNET, tie_word_embeddings: true },
      { eos_token_id: [2, 7] },
    );
    const { graph, info } = importModel(checkpoint);
    verifyGraph(graph);
    expect(info.architecture).toBe('bitnet');
    expect(info.eosIds).toEqual([2, 7]);
    expect(info.quantization).toEqual({ form: 'packed', direction: 'multiply' });
    const text = printGraph(graph);
    expect(text).toContain('l1.ffnSubNorm: f32[tokens, 20] = rmsNorm(l1.gated, l1.ffnSubNorm.weight)');
    expect(text).toContain('logits: f32[outputs, 18] = matmul(norm, embed)');
    expect(text).toContain('{act = "relu2"}');
  });

  it('reads the 1bitLLM family, though it calls itself llama', () => {
    const tensors = smallTensors({ weights: 'masters', subNorms: ONEBIT_NORMS, tied: true });
    const { graph, info } = importModel(memoryCheckpoint(tensors, ONEBIT));
    verifyGraph(graph);
    expect([info.architecture, info.quantization.form, info.subNorms]).toEqual(['1bitllm', 'online', true]);
    expect(printGraph(graph)).toContain('tensor("model.layers.0.self_attn.inner_attn_ln.weight")');
  });

  it('computes the same whatever the norms are called', async () => {
    const onebit = smallTensors({ weights: 'masters', subNorms: ONEBIT_NORMS });
    const bitnet = smallTensors({ weights: 'masters', subNorms: BITNET_NORMS });
    const online = { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'online' };
    const a = await logitsOf(memoryCheckpoint(onebit, { ...ONEBIT, tie_word_embeddings: false }));
    const b = await logitsOf(
      memoryCheckpoint(bitnet, { ...BITNET, hidden_act: 'silu', quantization_config: online }),
    );
    expect(a.length).toBe(4 * SMALL.vocab);
    expect(a).toEqual(b);
    expect(new Set(a).size).toBeGreaterThan(60);
  });

  it('computes the same from a scale and its reciprocal in the other direction', async () => {
    const multiply = { quant_method: 'bitnet', linear_class: 'autobitlinear' };
    const a = await logitsOf(llama());
    const b = await logitsOf(
      llama({ quantization_config: multiply }, smallTensors({ weights: { packedScale: 1 / 8 } })),
    );
    expect(a).toEqual(b);
  });
});

describe('config.json', () => {
  it.each([
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'vocab_size',
    'max_position_embeddings',
    'rms_norm_eps',
    'hidden_act',
    'model_type',
  ])('names the missing key %s', (key) => {
    const { [key]: _, ...rest } = LLAMA as Record<string, unknown>;
    expect(() => importModel(memoryCheckpoint(LLAMA_TENSORS, rest))).toThrow(
      `/models/acme/test-model/config.json: ${key} is missing`,
    );
  });

  it.each([
    ['hidden_size', '24'],
    ['num_hidden_layers', 0],
    ['rms_norm_eps', -1],
    ['vocab_size', 1.5],
    ['eos_token_id', ['x']],
    ['tie_word_embeddings', 'yes'],
  ])('names the key %s when it is %j', (key, value) => {
    expect(() => importModel(llama({ [key]: value }))).toThrow(`config.json: ${key}`);
  });

  it.each<[Config, string]>([
    [{ model_type: 'mamba2' }, 'the architecture mamba2, LlamaForCausalLM is not supported'],
    [{ quantization_config: { quant_method: 'hqq', bits: 4 } }, 'the quantization "hqq" is not supported'],
    [
      { quantization_config: { quant_method: 'bitnet', linear_class: 'fancylinear' } },
      'linear_class "fancylinear" is not supported',
    ],
    [{ quantization_config: { quant_method: 'bitnet', use_rms_norm: true } }, 'use_rms_norm'],
    [
      { quantization_config: { quant_method: 'bitnet', modules_to_not_convert: ['lm_head', 'down_proj'] } },
      'leaving "down_proj" unquantized (modules_to_not_convert) is not supported',
    ],
    [{ hidden_act: 'gelu' }, 'hidden_act "gelu" is not supported'],
    [{ head_dim: 3 }, 'head_dim 3 is not supported'],
    [{ attention_bias: true }, 'attention_bias is not supported'],
    [{ mlp_bias: true }, 'mlp_bias is not supported'],
    [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor 0.5 is not supported'],
    [{ rope_scaling: { type: 'dynamic', factor: 2 } }, 'rope_scaling of type "dynamic" is not supported'],
    [{ weight_bits: 2, input_bits: 8 }, 'weight_bits 2 is not supported'],
    [{ weight_bits: 1, input_bits: 4 }, 'input_bits 4 is not supported'],
  ])('refuses %j by name, with what is supported', (config, message) => {
    let error: unknown;
    try {
      importModel(llama(config));
    } catch (caught) {
      error = caught;
    }
    expect(error).toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining(message),
      hint: expect.stringContaining('Supported: '),
    });
  });

  it('refuses heads that do not divide', () => {
    expect(() => importModel(llama({ num_key_value_heads: 4 }))).toThrow(
      'num_attention_heads 6 is no multiple of num_key_value_heads 4',
    );
    expect(() => importModel(llama({ num_attention_heads: 5, num_key_value_heads: 5 }))).toThrow(
      'hidden_size 24 is no multiple of num_attention_heads 5',
    );
  });

  it('takes theta and scaling from where newer transformers write them', () => {
    const rope = {
      rope_type: 'llama3',
      rope_theta: 500000,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 16,
    };
    const { graph, info } = importModel(llama({ rope_theta: undefined, rope_parameters: rope }));
    expect(info.ropeTheta).toBe(500000);
    expect(graph.constants.find(({ name }) => name === 'rope')!.source).toEqual({
      kind: 'rope-table',
      theta: 500000,
      headDim: 4,
      positions: 32,
      scaling: { factor: 8, lowFactor: 1, highFactor: 4, originalContext: 16 },
    });
    expect(() => importModel(llama({ rope_scaling: { ...rope, high_freq_factor: 1 } }))).toThrow(
      'high_freq_factor must be above low_freq_factor',
    );
    expect(() => importModel(llama({ rope_scaling: { rope_type: 'llama3' } }))).toThrow(
      'rope_scaling: factor is missing',
    );
  });

  it('takes theta to be 10000 where nothing is said, as transformers does', () => {
    expect(importModel(llama({ rope_theta: undefined })).info.ropeTheta).toBe(10000);
  });

  it('lists the architectures that are known', () => {
    let error: unknown;
    try {
      importModel(llama({ model_type: 'toString' }));
    } catch (caught) {
      error = caught;
    }
    expect(error).toMatchObject({
      code: 'unsupported',
      hint: 'Supported: model_type bitnet, llama, mistral, qwen2, qwen3, phi3, gemma3_text, and BitnetForCausalLM of 1bitLLM.',
    });
  });

  it.each<[Config, string]>([
    [{ model_type: 'gemma3_text', final_logit_softcapping: 30 }, 'final_logit_softcapping is not supported'],
    [{ model_type: 'gemma3_text', use_bidirectional_attention: true }, 'use_bidirectional_attention'],
    [{ model_type: 'mistral', sliding_window: 0 }, 'sliding_window is 0'],
    [
      { model_type: 'mistral', sliding_window: 8, layer_types: ['full_attention'] },
      'has 1 entries for 2 layers',
    ],
    [
      { model_type: 'mistral', sliding_window: 8, layer_types: ['full_attention', 'linear_attention'] },
      'a layer of type "linear_attention" is not supported',
    ],
    [{ model_type: 'phi3', partial_rotary_factor: 0.75 }, 'partial_rotary_factor 0.75 is not supported'],
    [
      { model_type: 'phi3', rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1, 1] } },
      'rope_scaling.short_factor has 1 numbers, expected 2',
    ],
    [{ model_type: 'phi3', rope_scaling: { type: 'longrope' } }, 'rope_scaling: short_factor is missing'],
    [{ rope_scaling: { type: 'linear', factor: 'x' } }, 'rope_scaling: factor is "x"'],
    [{ rope_scaling: { type: 'yarn', factor: 4, mscale: 1 } }, 'mscale is not supported'],
  ])('refuses %j', (config, message) => {
    expect(() => importModel(llama(config))).toThrow(message);
  });

  it('limits the rotation table to the context asked for', () => {
    const positions = (context: number) =>
      importModel(llama(), { context }).graph.constants.find(({ name }) => name === 'rope')!.type.shape[0];
    expect([positions(8), positions(1000)]).toEqual([8, 32]);
  });
});

describe('tensors', () => {
  it('names the first that is missing, with what it should be', () => {
    const { 'model.layers.1.mlp.up_proj.weight': _, ...rest } = LLAMA_TENSORS;
    expect(() => importModel(llama({}, rest))).toThrow(
      'has no tensor model.layers.1.mlp.up_proj.weight (u8 [5, 24])',
    );
  });

  it('names one of another shape', () => {
    expect(() => importModel(llama({ intermediate_size: 24 }))).toThrow(
      'tensor model.layers.0.mlp.gate_proj.weight is u8 [5, 24], expected u8 [6, 24]',
    );
  });

  it('needs packed weights to have a multiple of 4 rows', () => {
    expect(() => importModel(llama({ intermediate_size: 22 }))).toThrow('gate_proj.weight has 22 rows');
  });

  it('refuses biases and whatever else the architecture has not', () => {
    const bias = { 'model.layers.0.self_attn.q_proj.bias': bf16Tensor([24], new Float32Array(24)) };
    expect(() => importModel(llama({}, { ...LLAMA_TENSORS, ...bias }))).toThrow(
      'has biases that a model of the architecture llama-bitnet has not: model.layers.0.self_attn.q_proj.bias',
    );
    const subNorms = smallTensors({ weights: { packedScale: 8 }, subNorms: BITNET_NORMS });
    expect(() => importModel(llama({}, subNorms))).toThrow(
      /has tensors .*attn_sub_norm\.weight.* and 1 more/,
    );
  });

  it('does without what is known to be of no use', () => {
    const extra = {
      'model.layers.0.self_attn.rotary_emb.inv_freq': bf16Tensor([2], [1, 0.01]),
    };
    const { info } = importModel(llama({ tie_word_embeddings: true }, { ...LLAMA_TENSORS, ...extra }));
    expect(info.tied).toBe(true);
  });

  it('takes the name from a hub cache, and the head tied when there is none', () => {
    const tensors = smallTensors({ weights: { packedScale: 8 }, tied: true });
    const checkpoint = {
      ...llama({ tie_word_embeddings: undefined }, tensors),
      path: '/home/me/.cache/huggingface/hub/models--acme--small-1.58/snapshots/0123abc',
    };
    const { info } = importModel(checkpoint);
    expect([info.name, info.tied]).toEqual(['acme/small-1.58', true]);
  });
});

describe('frequencies of llama3 scaling', () => {
  it('keeps the short wavelengths, stretches the long, and blends between', () => {
    const scaling = { factor: 8, lowFactor: 1, highFactor: 4, originalContext: 8192 };
    const plain = ropeFrequencies(500000, 128);
    const scaled = ropeFrequencies(500000, 128, scaling);
    const turns = plain.map((f) => (8192 * f) / (2 * Math.PI));
    for (const [i, f] of plain.entries()) {
      if (turns[i]! > 4) expect(scaled[i]).toBe(f);
      else if (turns[i]! < 1) expect(scaled[i]).toBe(f / 8);
      else {
        // transformers: smooth between 0 at a wavelength of 8192 and 1 at one of 2048.
        const smooth = (8192 / ((2 * Math.PI) / f) - 1) / (4 - 1);
        expect(scaled[i]).toBeCloseTo(((1 - smooth) * f) / 8 + smooth * f, 15);
      }
    }
    expect(turns.filter((t) => t >= 1 && t <= 4).length).toBeGreaterThan(3);
  });
});
