/** Names of tensors in GGUF and in Hugging Face checkpoints. */

const MODEL: ReadonlyMap<string, string> = new Map([
  ['token_embd', 'model.embed_tokens'],
  ['output_norm', 'model.norm'],
  ['output', 'lm_head'],
]);

const LAYER: ReadonlyMap<string, string> = new Map([
  ['attn_norm', 'input_layernorm'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_q_norm', 'self_attn.q_norm'],
  ['attn_k_norm', 'self_attn.k_norm'],
  ['attn_sub_norm', 'self_attn.attn_sub_norm'],
  ['attn_output', 'self_attn.o_proj'],
  ['ffn_norm', 'post_attention_layernorm'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  ['ffn_sub_norm', 'mlp.ffn_sub_norm'],
  ['ffn_down', 'mlp.down_proj'],
]);

/** The norms in front of every projection that BitNet embedding models have. */
const INPUT_NORMS: readonly (readonly [string, string])[] = [
  ['attn_q_norm_in', 'self_attn.q_proj.norm'],
  ['attn_k_norm_in', 'self_attn.k_proj.norm'],
  ['attn_v_norm_in', 'self_attn.v_proj.norm'],
  ['attn_output_norm_in', 'self_attn.o_proj.norm'],
  ['ffn_gate_norm_in', 'mlp.gate_proj.norm'],
  ['ffn_up_norm_in', 'mlp.up_proj.norm'],
  ['ffn_down_norm_in', 'mlp.down_proj.norm'],
];

/** What an architecture calls otherwise. */
const OWN: Readonly<Record<string, ReadonlyMap<string, string>>> = {
  qwen3: new Map(INPUT_NORMS),
  phi3: new Map([
    ['attn_qkv', 'self_attn.qkv_proj'],
    ['ffn_up', 'mlp.gate_up_proj'],
  ]),
  gemma3: new Map([
    ['post_attention_norm', 'post_attention_layernorm'],
    ['ffn_norm', 'pre_feedforward_layernorm'],
    ['post_ffw_norm', 'post_feedforward_layernorm'],
    ...INPUT_NORMS,
  ]),
};

/** Where a tensor of a GGUF file belongs. */
export interface TensorRole {
  /** Hugging Face's name: `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** GGUF's name of the part: `attn_q`. */
  readonly part: string;
  readonly kind: 'projection' | 'norm' | 'table' | 'bias';
}

/** The role of `blk.0.attn_q.weight` and the like; undefined for names that the architecture does not have. */
export function tensorRole(name: string, architecture: string): TensorRole | undefined {
  const [, layer, part, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  if (part === undefined || kind === undefined) return undefined;
  const own = Object.hasOwn(OWN, architecture) ? OWN[architecture] : undefined;
  const known = layer === undefined ? MODEL.get(part) : (own?.get(part) ?? LAYER.get(part));
  if (known === undefined) return undefined;
  return {
    name: `${layer === undefined ? '' : `model.layers.${layer}.`}${known}.${kind}`,
    part,
    kind: kind === 'bias' ? 'bias' : kindOf(known),
  };
}

function kindOf(known: string): TensorRole['kind'] {
  if (known.endsWith('norm')) return 'norm';
  return known.endsWith('_proj') ? 'projection' : 'table';
}

/** Tensors beside a matrix: its scale, in the forms that llama.cpp and bitnet.cpp's converter have. */
export function scaleNames(name: string): readonly string[] {
  return [name.replace(/\.weight$/, '.scale'), `${name}_scale`];
}
