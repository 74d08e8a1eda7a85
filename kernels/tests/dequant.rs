//! Dequantisation against the `gguf` Python package (`fixtures/mk_gguf_blocks.py`).

use std::{fs, path::PathBuf};

use ferrum_kernels::{WeightFormat, cpu::dequant::dequantize_into};

const FORMATS: [(WeightFormat, &str); 11] = [
    (WeightFormat::F32, "f32"),
    (WeightFormat::F16, "f16"),
    (WeightFormat::BF16, "bf16"),
    (WeightFormat::Q4_0, "q4_0"),
    (WeightFormat::Q4_1, "q4_1"),
    (WeightFormat::Q5_0, "q5_0"),
    (WeightFormat::Q5_1, "q5_1"),
    (WeightFormat::Q8_0, "q8_0"),
    (WeightFormat::Q4K, "q4_k"),
    (WeightFormat::Q5K, "q5_k"),
    (WeightFormat::Q6K, "q6_k"),
];

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf_blocks")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Levels 0..16 twice, a scale that takes all of f16's bits, and the zero levels at both ends.
#[test]
fn groups_of_four_bits_dequantise_to_the_exact_product() {
    let scale = half::f16::from_bits(0x2bff);
    for (format, groups) in [
        (WeightFormat::Int4G32, 4),
        (WeightFormat::Int4G64, 2),
        (WeightFormat::Int4G128, 1),
    ] {
        for zero in [0_u8, 1, 8, 15, 16] {
            let levels = (0..64 / groups).map(|i: usize| (2 * i as u8) & 15 | ((2 * i as u8 + 1) & 15) << 4);
            let block: Vec<u8> = scale
                .to_le_bytes()
                .into_iter()
                .chain([zero, 0])
                .chain(levels)
                .collect();
            let mut out = vec![f32::NAN; 128];
            dequantize_into(format, &block.repeat(groups), &mut out);
            for (at, &got) in out.iter().enumerate() {
                let exact = f64::from(scale.to_f32()) * ((at % 16) as f64 - f64::from(zero));
                assert!(
                    f64::from(got) == exact,
                    "{format} zero {zero}, element {at}: {got}, exactly {exact}"
                );
            }
        }
    }
}

#[test]
fn every_format_dequantises_to_the_bits_of_the_gguf_package() {
    for (format, name) in FORMATS {
        let expected: Vec<f32> = fixture(&format!("{name}.f32"))
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let mut out = vec![f32::NAN; expected.len()];
        dequantize_into(format, &fixture(&format!("{name}.blocks")), &mut out);
        for (at, (got, want)) in out.iter().zip(&expected).enumerate() {
            assert!(
                got.to_bits() == want.to_bits() || (*got == 0.0 && *want == 0.0),
                "{format} element {at}: {got} instead of {want}"
            );
        }
    }
}
