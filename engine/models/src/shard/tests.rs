use serde_json::{Value, json};

use super::*;
use crate::config::RawConfig;

fn config(fields: Value) -> DecoderConfig {
    let mut config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 192,
        "vocab_size": 1000, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0
    });
    for (field, value) in fields.as_object().expect("fields") {
        config[field] = value.clone();
    }
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, config.to_string().as_bytes()).expect("written");
    DecoderConfig::read(&RawConfig::read_json(file.path()).expect("JSON")).expect("a configuration")
}

fn shards(config: &DecoderConfig, count: usize, block_len: usize) -> Vec<DecoderShard> {
    (0..count)
        .map(|index| DecoderShard::of(config, Rank { index, count }, block_len).expect("a divisor"))
        .collect()
}

/// Asserts that the parts lie side by side and are the whole.
fn assert_covers(parts: impl Iterator<Item = Extent>) {
    let mut end = 0;
    let mut full = 0;
    for part in parts {
        assert_eq!(part.start, end, "{part:?}");
        assert!(part.len > 0, "{part:?}");
        (end, full) = (part.start + part.len, part.full);
    }
    assert_eq!(end, full);
}

#[test]
fn one_rank_has_everything() {
    let config = config(json!({}));
    let shard = &shards(&config, 1, 1)[0];
    assert_eq!(shard.heads, config.heads);
    for extent in [shard.q, shard.kv, shard.intermediate, shard.vocab] {
        assert!(extent.is_whole(), "{extent:?}");
    }
}

#[test]
fn the_parts_of_all_ranks_are_the_whole() {
    for (vocab, intermediate) in [(1000, 192), (151_936, 9728), (50_257, 4864), (17, 19)] {
        let config = config(json!({"vocab_size": vocab, "intermediate_size": intermediate}));
        for count in [2, 4] {
            for block_len in [1, 32, 256] {
                let shards = shards(&config, count, block_len);
                assert_covers(shards.iter().map(|shard| shard.q));
                assert_covers(shards.iter().map(|shard| shard.kv));
                assert_covers(shards.iter().map(|shard| shard.intermediate));
                assert_covers(shards.iter().map(|shard| shard.vocab));
            }
        }
    }
}

#[test]
fn a_block_of_columns_is_not_cut() {
    let config = config(json!({"intermediate_size": 4864}));
    let starts: Vec<usize> = shards(&config, 2, 256)
        .iter()
        .map(|shard| shard.intermediate.start)
        .collect();
    assert_eq!(starts, [0, 9 * 256]);
}

#[test]
fn key_heads_that_are_fewer_than_ranks_are_had_by_several() {
    let config = config(json!({"num_key_value_heads": 2}));
    let shards = shards(&config, 4, 1);
    let starts: Vec<usize> = shards.iter().map(|shard| shard.kv.start).collect();
    assert_eq!(starts, [0, 0, 16, 16]);
    for shard in &shards {
        assert_eq!((shard.heads.num_heads, shard.heads.num_kv_heads), (2, 1));
        // Its query heads are those of its key head.
        assert_eq!(shard.q.start / 16 / 4, shard.kv.start / 16);
    }
}

#[test]
fn heads_that_do_not_divide_are_refused_with_both_numbers_and_what_is_allowed() {
    let config = config(json!({"num_attention_heads": 9, "num_key_value_heads": 3}));
    let refusal = check_ranks(&config, 2).expect_err("nine heads");
    assert_eq!(
        refusal.to_string(),
        "tensor_parallel is 2; expected one of 1, 3, 9, as the model has 9 query heads and 3 key heads"
    );
    assert!(check_ranks(&config, 0).is_err());
}
