//! Steps that contradict the cache are refused, and say why.

use ferrum_kernels::{
    Backend, BackendError,
    backend::{KvDtype, KvLayout},
    cpu::{CpuBackend, CpuIndices, CpuKvCache},
    ops::{AttentionOps, HeadLayout, PagedBatch},
};

use crate::fixture::heads;

const HEADS: HeadLayout = heads(4, 2, 16);

fn indices(backend: &CpuBackend, values: &[u32]) -> CpuIndices {
    let mut buffer = backend.alloc_indices(values.len()).expect("memory");
    backend.write_indices(values, &mut buffer).expect("it fits");
    buffer
}

fn cache(backend: &CpuBackend) -> CpuKvCache {
    backend
        .alloc_kv_cache(&KvLayout {
            num_layers: 1,
            num_kv_heads: 2,
            head_dim: 16,
            block_size: 16,
            num_blocks: 4,
            dtype: KvDtype::F32,
        })
        .expect("memory for a small cache")
}

/// Attends two rows of one sequence; `step` is (cu_seqlens_q, context, block table).
fn attend(layer: usize, window: Option<usize>, step: ([u32; 2], u32, &[u32])) -> Result<(), BackendError> {
    let backend = CpuBackend::new(1);
    let cache = cache(&backend);
    let qkv = backend.alloc(2 * HEADS.qkv_width()).expect("memory");
    let mut out = backend.alloc(2 * HEADS.q_width()).expect("memory");
    let (cu_seqlens, context, table) = step;
    let batch = PagedBatch {
        cu_seqlens_q: &indices(&backend, &cu_seqlens),
        context_lens: &indices(&backend, &[context]),
        block_tables: &indices(&backend, table),
        max_blocks: table.len(),
        num_seqs: 1,
        rows: 2,
    };
    backend.paged_attention(&qkv, HEADS, &cache, layer, &batch, 0.25, window, &mut out)
}

fn message(result: Result<(), BackendError>) -> String {
    match result {
        Ok(()) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_step_that_contradicts_the_cache_is_refused_with_the_reason() {
    attend(0, None, ([0, 2], 20, &[3, 0])).expect("a well-formed step");
    for (result, expected) in [
        (
            attend(1, None, ([0, 2], 20, &[3, 0])),
            "layer 1 of a cache of 1 layers",
        ),
        (
            attend(0, Some(0), ([0, 2], 20, &[3, 0])),
            "a window of 0 positions",
        ),
        (
            attend(0, None, ([0, 1], 20, &[3, 0])),
            "ends at 1, the step has 2 rows",
        ),
        (
            attend(0, None, ([0, 2], 1, &[3, 0])),
            "2 queries and a context of 1",
        ),
        (
            attend(0, None, ([0, 2], 33, &[3, 0])),
            "needs 3 blocks, its table holds 2",
        ),
        (attend(0, None, ([0, 2], 20, &[3, 4])), "names block 4 of 4"),
    ] {
        let message = message(result);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_slot_past_the_cache_is_refused() {
    let backend = CpuBackend::new(1);
    let mut cache = cache(&backend);
    let qkv = backend.alloc(HEADS.qkv_width()).expect("memory");
    let slots = indices(&backend, &[64]);
    let result = backend.write_kv(&qkv, HEADS, &mut cache, 0, &slots, 1);
    assert!(message(result).contains("slot 64 of a cache of 64"));
}

#[test]
fn a_position_past_the_rotary_table_is_refused() {
    let backend = CpuBackend::new(1);
    let table = backend.prepare_rope(&[1.0; 8], 10).expect("memory");
    let mut qkv = backend.alloc(HEADS.qkv_width()).expect("memory");
    let result = backend.rope(&mut qkv, HEADS, &indices(&backend, &[10]), &table, 1);
    assert!(message(result).contains("position 10 is past the table of 10 positions"));
}
