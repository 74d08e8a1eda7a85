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
