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

/** Where a tensor of a GGUF file belongs. */
export interface TensorRole {
  /** Hugging Face's name: `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** GGUF's name of the part: `attn_q`. */
  readonly part: string;
  /** A matrix that a layer multiplies by. */
  readonly projection: boolean;
}

/** The role of `blk.0.attn_q.weight` and the like; undefined for names that no architecture here has. */
export function tensorRole(name: string): TensorRole | undefined {
  const [, layer, part, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  if (part === undefined || kind === undefined) return undefined;
  const known = (layer === undefined ? MODEL : LAYER).get(part);
  if (known === undefined) return undefined;
  return {
    name: `${layer === undefined ? '' : `model.layers.${layer}.`}${known}.${kind}`,
    part,
    projection: kind === 'weight' && known.endsWith('_proj'),
  };
}

/** Tensors beside a matrix: its scale, in the forms that llama.cpp and bitnet.cpp's converter have. */
export function scaleNames(name: string): readonly string[] {
  return [name.replace(/\.weight$/, '.scale'), `${name}_scale`];
}
