//! Rotary positions.

use ferrum_kernels::{Backend, cpu::CpuBackend, ops::AttentionOps};

use crate::{
    fixture::{HEADS, U, isas},
    support::Random,
};

#[test]
fn query_and_key_heads_turn_by_the_angle_of_their_position_and_values_stay() {
    for isa in isas() {
        let backend = CpuBackend::with_isa(2, isa);
        for heads in HEADS {
            let half = heads.head_dim / 2;
            let inv_freq: Vec<f32> = (0..half)
                .map(|i| 10_000_f32.powf(-2.0 * i as f32 / heads.head_dim as f32))
                .collect();
            let table = backend.prepare_rope(&inv_freq, 3000).expect("memory");
            let mut random = Random(3);
            let rows = 33;
            let positions: Vec<u32> = (0..rows).map(|_| random.below(3000) as u32).collect();
            let before: Vec<f32> = (0..rows * heads.qkv_width()).map(|_| random.unit()).collect();
            let mut qkv = backend.alloc(before.len()).expect("memory");
            backend.write(&before, &mut qkv).expect("it fits");
            let mut indices = backend.alloc_indices(rows).expect("memory");
            backend.write_indices(&positions, &mut indices).expect("it fits");
            backend
                .rope(&mut qkv, heads, &indices, &table, rows)
                .expect("positions within the table");

            for (at, (&x, &rotated)) in before.iter().zip(qkv.iter()).enumerate() {
                let (row, column) = (at / heads.qkv_width(), at % heads.qkv_width());
                if column >= heads.q_width() + heads.kv_width() {
                    assert_eq!(x, rotated, "a value");
                    continue;
                }
                let (element, low) = (column % half, column % heads.head_dim < half);
                let partner = if low {
                    before[at + half]
                } else {
                    -before[at - half]
                };
                let angle = f64::from(positions[row] as f32 * inv_freq[element]);
                let expected = f64::from(x) * angle.cos() - f64::from(partner) * angle.sin();
                // Cosine and sine, two products and their difference are each rounded once.
                let allowed = 3.01 * U * f64::from(x.abs() + partner.abs());
                assert!((f64::from(rotated) - expected).abs() <= allowed);
            }
        }
    }
}
