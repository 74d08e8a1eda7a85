//! llama.cpp's tensor names and those of Hugging Face.

/// Outside of the layers.
const TOP: [(&str, &str); 3] = [
    ("output", "lm_head"),
    ("output_norm", "model.norm"),
    ("token_embd", "model.embed_tokens"),
];

/// Within `blk.N` and `model.layers.N`.
const LAYER: [(&str, &str); 11] = [
    ("attn_k", "self_attn.k_proj"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_norm", "input_layernorm"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_v", "self_attn.v_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.up_proj"),
];

/// The name that Hugging Face gives a tensor; a name without a counterpart stays as it is.
pub(super) fn hf_name(name: &str) -> String {
    translate(name).unwrap_or_else(|| name.to_owned())
}

fn translate(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    if let Some(in_layers) = stem.strip_prefix("blk.") {
        let (layer, stem) = in_layers.split_once('.')?;
        return Some(format!("model.layers.{layer}.{}.{end}", look_up(&LAYER, stem)?));
    }
    Some(format!("{}.{end}", look_up(&TOP, stem)?))
}

fn look_up(table: &[(&str, &'static str)], stem: &str) -> Option<&'static str> {
    table.iter().find(|(gguf, _)| *gguf == stem).map(|(_, hf)| *hf)
}

#[cfg(test)]
mod tests {
    use super::hf_name;

    #[test]
    fn known_names_are_translated_and_others_stay() {
        assert_eq!(hf_name("token_embd.weight"), "model.embed_tokens.weight");
        assert_eq!(
            hf_name("blk.12.attn_q.bias"),
            "model.layers.12.self_attn.q_proj.bias"
        );
        assert_eq!(
            hf_name("blk.3.ffn_norm.weight"),
            "model.layers.3.post_attention_layernorm.weight"
        );
        assert_eq!(hf_name("rope_freqs.weight"), "rope_freqs.weight");
        assert_eq!(
            hf_name("blk.0.ffn_gate_exps.weight"),
            "blk.0.ffn_gate_exps.weight"
        );
    }
}
