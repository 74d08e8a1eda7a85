//! Attention within sequences laid end to end.

use ferrum_kernels::{
    Backend,
    cpu::CpuBackend,
    ops::{AttentionMask, AttentionOps, HeadLayout},
};

use crate::{
    fixture::{HEADS, exact, isas},
    support::Random,
};

fn varlen(
    backend: &CpuBackend,
    (heads, mask): (HeadLayout, AttentionMask),
    qkv: &[f32],
    lengths: &[usize],
) -> Vec<f32> {
    let mut cu_seqlens = vec![0];
    for len in lengths {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + *len as u32);
    }
    let rows = qkv.len() / heads.qkv_width();
    let mut buffer = backend.alloc(qkv.len()).expect("memory");
    backend.write(qkv, &mut buffer).expect("it fits");
    let mut offsets = backend.alloc_indices(cu_seqlens.len()).expect("memory");
    backend.write_indices(&cu_seqlens, &mut offsets).expect("it fits");
    let mut out = backend.alloc(rows * heads.q_width()).expect("memory");
    out.fill(f32::NAN);
    let scale = 1.0 / (heads.head_dim as f32).sqrt();
    backend
        .varlen_attention(&buffer, heads, &offsets, lengths.len(), mask, scale, &mut out)
        .expect("a well-formed batch");
    out.to_vec()
}

fn random_rows(random: &mut Random, heads: HeadLayout, rows: usize) -> Vec<f32> {
    (0..rows * heads.qkv_width())
        .map(|_| 2.0 * random.unit())
        .collect()
}

#[test]
fn sequences_of_all_lengths_match_f64_arithmetic() {
    let lengths = [1, 15, 16, 0, 17, 77, 300];
    for isa in isas() {
        let backend = CpuBackend::with_isa(2, isa);
        for heads in HEADS {
            for mask in [AttentionMask::Bidirectional, AttentionMask::Causal] {
                let mut random = Random(heads.head_dim as u64);
                let qkv = random_rows(&mut random, heads, lengths.iter().sum());
                let out = varlen(&backend, (heads, mask), &qkv, &lengths);
                let mut start = 0;
                for len in lengths {
                    let rows = &qkv[start * heads.qkv_width()..][..len * heads.qkv_width()];
                    let out = &out[start * heads.q_width()..][..len * heads.q_width()];
                    check(out, rows, heads, mask);
                    start += len;
                }
            }
        }
    }
}

fn check(out: &[f32], qkv: &[f32], heads: HeadLayout, mask: AttentionMask) {
    let (group, head_dim) = (heads.num_heads / heads.num_kv_heads, heads.head_dim);
    let part = |offset: usize| -> Vec<Vec<f64>> {
        qkv.chunks_exact(heads.qkv_width())
            .map(|row| {
                row[offset..offset + head_dim]
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect()
            })
            .collect()
    };
    for head in 0..heads.num_heads {
        let key = heads.q_width() + head / group * head_dim;
        let (keys, values) = (part(key), part(key + heads.kv_width()));
        for position in 0..keys.len() {
            let q = &qkv[position * heads.qkv_width() + head * head_dim..][..head_dim];
            let end = match mask {
                AttentionMask::Bidirectional => keys.len(),
                AttentionMask::Causal => position + 1,
            };
            let scale = 1.0 / (head_dim as f32).sqrt();
            let (expected, allowed) = exact(q, &keys[..end], &values[..end], scale);
            let out = &out[position * heads.q_width() + head * head_dim..];
            for (out, expected) in out.iter().zip(expected) {
                let error = (f64::from(*out) - expected).abs();
                assert!(
                    error <= allowed,
                    "{heads:?}, {mask:?}, head {head}, position {position} of {}: off by {error:e}, {allowed:e} \
                     allowed",
                    keys.len()
                );
            }
        }
    }
}

#[test]
fn a_sequence_in_company_has_the_bits_that_it_has_alone() {
    let lengths = [60, 300, 3, 128, 511];
    for isa in isas() {
        let single = CpuBackend::with_isa(1, isa);
        let shared = CpuBackend::with_isa(4, isa);
        for heads in HEADS {
            let mask = AttentionMask::Bidirectional;
            let mut random = Random(1);
            let qkv = random_rows(&mut random, heads, lengths.iter().sum());
            let together = varlen(&shared, (heads, mask), &qkv, &lengths);
            let mut start = 0;
            for len in lengths {
                let rows = &qkv[start * heads.qkv_width()..][..len * heads.qkv_width()];
                let alone = varlen(&single, (heads, mask), rows, &[len]);
                assert_eq!(
                    alone,
                    together[start * heads.q_width()..][..alone.len()],
                    "{heads:?}, {len} tokens"
                );
                start += len;
            }
        }
    }
}
