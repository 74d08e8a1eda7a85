//! The kernels of the best instruction set give, bit for bit, what those of the lesser ones do, at the shapes and
//! numbers of rows that each of them treats apart.

#![allow(clippy::print_stderr)] // says what it could not compare

#[allow(dead_code)] // what other tests use
mod support;

use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    cpu::{CpuBackend, Isa, detect},
    ops::LinearOps,
};
use support::{QUANTIZED, Random};

/// Rows that are taken alone, in pairs of blocks (7, 8), as full tiles (16), and one after a full tile.
const ROWS: std::ops::RangeInclusive<usize> = 1..=17;

/// The two to compare: AMX and AVX-512 where this machine has both, else its best and portable Rust.
fn best_and_other() -> (Isa, Isa) {
    let best = detect();
    let other = if best == Isa::Amx {
        Isa::Avx512
    } else {
        Isa::Portable
    };
    if best < Isa::Amx {
        eprintln!("this machine has no AMX, or may not use it: comparing {best} with {other} instead");
    }
    (best, other)
}

/// `x . w^T`: x `(rows, k)`.
fn linear(isa: Isa, threads: usize, weight: &HostTensor, x: &[f32]) -> Vec<f32> {
    let backend = CpuBackend::with_isa(threads, isa);
    let rows = x.len() / weight.cols;
    let weight = backend
        .prepare_weight(std::slice::from_ref(weight))
        .expect("a weight");
    let mut x_buffer = backend.alloc(x.len()).expect("memory");
    backend.write(x, &mut x_buffer).expect("it fits");
    // A row more, to see that none is written past the end.
    let mut out = backend.alloc((rows + 1) * weight.n()).expect("memory");
    out.fill(f32::NAN);
    backend
        .linear(&x_buffer, &weight, None, rows, &mut out)
        .expect("a product");
    assert!(out[rows * weight.n()..].iter().all(|y| y.is_nan()));
    out[..rows * weight.n()].to_vec()
}

fn same_bits(weight: &HostTensor, rows: impl Iterator<Item = usize>, random: &mut Random) {
    let (best, other) = best_and_other();
    let HostTensor {
        format,
        rows: n,
        cols: k,
        ..
    } = *weight;
    for rows in rows {
        let x = random.activations(rows * k);
        let expected = linear(other, 1, weight, &x);
        for threads in [1, 2] {
            let y = linear(best, threads, weight, &x);
            let same = y
                .iter()
                .zip(&expected)
                .all(|(y, expected)| y.to_bits() == expected.to_bits());
            assert!(same, "{format} {n} x {k}, {rows} rows: {best} and {other} differ");
        }
    }
}

#[test]
fn shapes_of_smollm2_have_the_same_bits_with_and_without_the_matrix_unit() {
    let mut random = Random(31);
    for (n, k) in [(576, 576), (192, 576), (960, 576), (3072, 576), (576, 1536)] {
        same_bits(&random.matrix(WeightFormat::Q4_1, n, k), ROWS, &mut random);
    }
    same_bits(
        &random.matrix(WeightFormat::Q8_0, 49152, 576),
        [7, 8, 16].into_iter(),
        &mut random,
    );
}

#[test]
fn every_format_has_the_same_bits_with_and_without_the_matrix_unit() {
    let mut random = Random(32);
    for format in QUANTIZED {
        // The last group of rows is not full; prefills end in tiles of 8 and of 7 rows.
        let rows = ROWS.chain([24, 39, 48]);
        same_bits(&random.matrix(format, 75, 768), rows, &mut random);
        if format.block_len() == 32 {
            // Blocks that make no pairs, one block, and fewer than are under way at once.
            for k in [224, 32, 64, 96] {
                same_bits(&random.matrix(format, 33, k), [8, 16].into_iter(), &mut random);
            }
        }
    }
}

#[test]
fn extremes_have_the_same_bits_with_and_without_the_matrix_unit() {
    let mut random = Random(33);
    let (best, other) = best_and_other();
    for format in QUANTIZED {
        let weight = random.matrix(format, 32, 256);
        for rows in [8, 16] {
            // The largest overflow: results are infinite or no numbers, on both.
            for x in [1.0, -1.0, 1e-38, 3e38] {
                let x = vec![x; rows * 256];
                let bits = |isa| -> Vec<u32> {
                    let y = linear(isa, 1, &weight, &x);
                    y.into_iter().map(f32::to_bits).collect()
                };
                assert_eq!(bits(best), bits(other), "{format}, {rows} rows of {}", x[0]);
            }
            // A row that is not finite shows in its own results alone.
            let mut x = random.activations(rows * 256);
            x[2 * 256 + 100] = f32::NAN;
            let y = linear(best, 1, &weight, &x);
            for (row, y) in y.chunks_exact(32).enumerate() {
                assert_eq!(y.iter().all(|y| y.is_finite()), row != 2, "{format}, row {row}");
            }
        }
    }
}
