//! Every format, the shapes of models, and parts that are stacked.

use ferrum_kernels::{Backend, HostTensor, WeightFormat, cpu::CpuBackend, ops::LinearOps};

use crate::{
    fixture::{check_shape, stored_order},
    support::{DENSE, QUANTIZED, Random, dequantized_row},
};

/// Rows of the steps that a server makes: decode alone and in company, prefill in chunks.
const ROWS: [usize; 8] = [1, 2, 3, 5, 8, 17, 64, 512];

#[test]
fn every_format_multiplies_within_its_rounding() {
    let mut random = Random(1);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        let k = if 576 % format.block_len() == 0 { 576 } else { 768 };
        check_shape(&[random.matrix(format, 960, k)], false, &ROWS);
    }
}

#[test]
fn shapes_of_smollm2_multiply_within_their_rounding() {
    let mut random = Random(2);
    for (n, k) in [(960, 576), (576, 576), (3072, 576), (576, 1536)] {
        check_shape(&[random.matrix(WeightFormat::Q4_1, n, k)], false, &ROWS);
        check_shape(&[random.matrix(WeightFormat::F16, n, k)], false, &[1, 3, 64]);
    }
    check_shape(&[random.matrix(WeightFormat::Q8_0, 49152, 576)], false, &[1, 8]);
}

#[test]
fn shapes_of_qwen2_multiply_within_their_rounding() {
    let mut random = Random(3);
    let mut matrix = |format, n, k| random.matrix(format, n, k);
    let qkv = [
        matrix(WeightFormat::Q5_0, 896, 896),
        matrix(WeightFormat::Q5_0, 128, 896),
        matrix(WeightFormat::Q8_0, 128, 896),
    ];
    check_shape(&qkv, true, &ROWS);
    check_shape(&[matrix(WeightFormat::Q5_0, 9728, 896)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q4K, 896, 4864)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q6K, 896, 4864)], false, &[1, 17]);
    check_shape(&[matrix(WeightFormat::Q8_0, 151_936, 896)], false, &[1]);
}

#[test]
fn shapes_of_minilm_multiply_within_their_rounding() {
    let mut random = Random(4);
    for (n, k) in [(1152, 384), (384, 384), (1536, 384), (384, 1536)] {
        check_shape(&[random.matrix(WeightFormat::F32, n, k)], true, &ROWS);
    }
}

#[test]
fn narrow_and_odd_shapes_multiply_within_their_rounding() {
    let mut random = Random(5);
    for format in QUANTIZED.into_iter().chain(DENSE) {
        for k in [32, 64, 96, 128, 256, 512] {
            for n in [1, 3, 16, 17, 33, 100] {
                if k % format.block_len() == 0 {
                    check_shape(&[random.matrix(format, n, k)], n % 2 == 1, &[1, 2, 7, 20]);
                }
            }
        }
    }
    for format in DENSE {
        for k in [1, 15, 17, 100] {
            check_shape(&[random.matrix(format, 7, k)], true, &[1, 2, 5]);
        }
    }
}

#[test]
fn parts_of_different_formats_stack() {
    let mut random = Random(6);
    let parts = [
        random.matrix(WeightFormat::Q4K, 512, 512),
        random.matrix(WeightFormat::Q4K, 70, 512),
        random.matrix(WeightFormat::Q6K, 33, 512),
        random.matrix(WeightFormat::F16, 5, 512),
        random.matrix(WeightFormat::Q4_1, 20, 512),
    ];
    check_shape(&parts, true, &ROWS);
}

/// Columns sorted by what matters most, each part its own way.
#[test]
fn columns_in_an_order_of_their_own_multiply_the_inputs_they_belong_to() {
    let mut random = Random(15);
    let mut shuffled = |format, rows| {
        let mut order: Vec<u32> = (0..512).collect();
        (1..512).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        HostTensor {
            order: Some(order.into()),
            ..random.matrix(format, rows, 512)
        }
    };
    let parts = [
        shuffled(WeightFormat::Int4G128, 70),
        shuffled(WeightFormat::Int4G32, 33),
        shuffled(WeightFormat::F16, 20),
        Random(16).matrix(WeightFormat::Int4G128, 5, 512),
    ];
    check_shape(&parts, true, &ROWS);
    let backend = CpuBackend::new(1);
    let table = backend.prepare_weight(&parts[..1]).expect("a weight");
    let ids = backend.alloc_indices(1).expect("memory");
    let mut row = backend.alloc(512).expect("memory");
    backend.embed(&table, &ids, 1, &mut row).expect("a row");
    assert_eq!(
        stored_order(&parts[0], &row),
        dequantized_row(&parts, 0),
        "a row comes back in the order of the inputs"
    );
}
