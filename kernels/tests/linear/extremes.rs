//! The largest levels, zeros, and activations that are no numbers.

use ferrum_kernels::{WeightFormat, cpu::CpuBackend};

use crate::{
    fixture::{check, isas, linear},
    support::{DENSE, QUANTIZED, Random},
};

#[test]
fn extreme_levels_do_not_overflow() {
    for format in QUANTIZED {
        let k = 256;
        let mut tensor = Random(9).matrix(format, 16, k);
        let ones: Vec<u8> = tensor
            .bytes
            .chunks_exact(format.block_bytes())
            .flat_map(|block| {
                // Scales as they were, every level at its largest, or for Q8_0 at its lowest, -128.
                let level = if format == WeightFormat::Q8_0 { 0x80 } else { 0xff };
                let mut block = block.to_vec();
                let levels = match format {
                    WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 => 2..block.len(),
                    WeightFormat::Q6K => 0..192,
                    WeightFormat::Q4K | WeightFormat::Q5K => 16..block.len(),
                    _ => 4..block.len(),
                };
                block[levels].fill(level);
                block
            })
            .collect();
        tensor.bytes = ones.into();
        for value in [1.0, -1.0] {
            let x = vec![value; 5 * k];
            let mut random = Random(10);
            for isa in isas() {
                let y = linear(&CpuBackend::with_isa(1, isa), &[tensor.clone()], &x, None);
                check(&[tensor.clone()], &x, None, &y, &mut random);
            }
        }
    }
}

#[test]
fn zeros_give_zeros_and_a_nan_shows() {
    let mut random = Random(11);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let parts = [random.matrix(format, 20, 256)];
        for isa in isas() {
            let backend = CpuBackend::with_isa(1, isa);
            let y = linear(&backend, &parts, &vec![0.0; 3 * 256], None);
            assert!(y.iter().all(|&y| y == 0.0), "{format} on {isa}");
            for poison in [f32::NAN, f32::INFINITY] {
                let mut x = random.activations(3 * 256);
                x[256 + 40] = poison;
                let y = linear(&backend, &parts, &x, None);
                assert!(y[20..40].iter().all(|y| !y.is_finite()), "{format} on {isa}");
                assert!(
                    y[..20].iter().chain(&y[40..]).all(|y| y.is_finite()),
                    "{format} on {isa}"
                );
            }
        }
    }
}
