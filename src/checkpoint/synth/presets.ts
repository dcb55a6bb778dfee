/** The configurations of published models, as their config.json has them. */

export type SynthPreset =
  | 'bitnet-2b-4t'
  | 'bitnet-2b-4t-bf16'
  | 'bitnet-3b'
  | 'llama3-8b-1.58'
  | 'llama2-7b-w2'
  | 'llama2-7b-w4';

/** microsoft/bitnet-b1.58-2B-4T; `offline` has packed weights, `online` (-bf16) the master weights. */
function bitnet2B4T(mode: 'offline' | 'online'): Record<string, unknown> {
  return {
    architectures: ['BitNetForCausalLM'],
    bos_token_id: 128000,
    eos_token_id: 128001,
    hidden_act: 'relu2',
    hidden_size: 2560,
    initializer_range: 0.02,
    intermediate_size: 6912,
    max_position_embeddings: 4096,
    model_type: 'bitnet',
    rms_norm_eps: 1e-5,
    num_attention_heads: 20,
    num_hidden_layers: 30,
    num_key_value_heads: 5,
    rope_theta: 500000.0,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    use_cache: true,
    vocab_size: 128256,
    quantization_config: {
      quant_method: 'bitnet',
      linear_class: 'autobitlinear',
      quantization_mode: mode,
    },
  };
}

/** 1bitLLM/bitnet_b1_58-3B */
const BITNET_3B = {
  architectures: ['BitnetForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 3200,
  initializer_range: 0.02,
  input_bits: 8,
  intermediate_size: 8640,
  max_position_embeddings: 2048,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 26,
  num_key_value_heads: 32,
  pad_token_id: 32000,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 10000.0,
  tie_word_embeddings: true,
  torch_dtype: 'float16',
  transformers_version: '4.39.0',
  use_cache: true,
  vocab_size: 32002,
  weight_bits: 1,
};

/** HF1BitLLM/Llama3-8B-1.58-100B-tokens */
const LLAMA3_8B = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 128000,
  eos_token_id: 128009,
  hidden_act: 'silu',
  hidden_size: 4096,
  initializer_range: 0.02,
  intermediate_size: 14336,
  max_position_embeddings: 8192,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  quantization_config: { modules_to_not_convert: null, quant_method: 'bitnet' },
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 500000.0,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  use_cache: true,
  vocab_size: 128256,
};

/** meta-llama/Llama-2-7b-hf, 8 of its 32 layers, as GPTQ quantizes it in groups of 128. */
function llama2(bits: 2 | 4): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    bos_token_id: 1,
    eos_token_id: 2,
    hidden_act: 'silu',
    hidden_size: 4096,
    initializer_range: 0.02,
    intermediate_size: 11008,
    max_position_embeddings: 4096,
    model_type: 'llama',
    num_attention_heads: 32,
    num_hidden_layers: 8,
    num_key_value_heads: 32,
    pretraining_tp: 1,
    quantization_config: {
      bits,
      checkpoint_format: 'gptq',
      desc_act: false,
      group_size: 128,
      quant_method: 'gptq',
      sym: true,
    },
    rms_norm_eps: 1e-5,
    rope_scaling: null,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
    torch_dtype: 'float16',
    use_cache: true,
    vocab_size: 32000,
  };
}

export const SYNTH_PRESETS: Readonly<Record<SynthPreset, Readonly<Record<string, unknown>>>> = {
  'bitnet-2b-4t': bitnet2B4T('offline'),
  'bitnet-2b-4t-bf16': bitnet2B4T('online'),
  'bitnet-3b': BITNET_3B,
  'llama3-8b-1.58': LLAMA3_8B,
  'llama2-7b-w2': llama2(2),
  'llama2-7b-w4': llama2(4),
};
