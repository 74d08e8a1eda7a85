//! Pooling of the CPU backend against f64 arithmetic.

#[allow(dead_code)] // the other tests use the rest
mod support;

use ferrum_kernels::{
    Backend,
    cpu::{CpuBackend, CpuBuffer, CpuIndices},
    ops::PoolingOps,
};
use support::Random;

/// Unit roundoff of f32; sums are taken in f64, so that one rounding is all there is, and 1e-6 of it the sums'.
const U: f64 = 1.000_001 / (1 << 24) as f64;

fn buffer(backend: &CpuBackend, values: &[f32]) -> CpuBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("it fits");
    buffer
}

fn indices(backend: &CpuBackend, values: &[u32]) -> CpuIndices {
    let mut buffer = backend.alloc_indices(values.len()).expect("memory");
    backend.write_indices(values, &mut buffer).expect("it fits");
    buffer
}

#[test]
fn the_mean_of_each_sequence_is_its_own_whatever_is_beside_it() {
    for threads in [1, 3] {
        let backend = CpuBackend::new(threads);
        for width in [384, 1, 65, 63] {
            let lengths = [1, 512, 7, 100];
            let mut random = Random(width as u64);
            let x = random.activations(lengths.iter().sum::<usize>() * width);
            let cu_seqlens = [0, 1, 513, 520, 620];
            let mut out = buffer(&backend, &vec![f32::NAN; lengths.len() * width]);
            backend
                .mean_pool(
                    &buffer(&backend, &x),
                    &indices(&backend, &cu_seqlens),
                    4,
                    width,
                    &mut out,
                )
                .expect("it fits");
            for (seq, ends) in cu_seqlens.windows(2).enumerate() {
                let rows = &x[ends[0] as usize * width..ends[1] as usize * width];
                for column in 0..width {
                    let values = rows.iter().skip(column).step_by(width);
                    let exact = values.clone().map(|&x| f64::from(x)).sum::<f64>() / lengths[seq] as f64;
                    // A mean near zero rounds relative to itself, but its f64 sum relative to its terms.
                    let magnitude = values.map(|&x| f64::from(x.abs())).sum::<f64>();
                    let allowed = U * exact.abs() + 1e-13 * magnitude;
                    assert!((f64::from(out[seq * width + column]) - exact).abs() <= allowed);
                }
                let mut alone = buffer(&backend, &vec![f32::NAN; width]);
                let len = indices(&backend, &[0, lengths[seq] as u32]);
                backend
                    .mean_pool(&buffer(&backend, rows), &len, 1, width, &mut alone)
                    .expect("it fits");
                assert_eq!(alone.to_vec(), out[seq * width..][..width]);
            }
        }
    }
}

#[test]
fn rows_get_unit_length_and_zeros_stay() {
    let backend = CpuBackend::new(2);
    let width = 384;
    let mut random = Random(1);
    let mut x = random.activations(5 * width);
    x[width..2 * width].fill(0.0);
    // Squares that f32 could not hold.
    x[2 * width..3 * width].iter_mut().for_each(|x| *x *= 1e30);
    x[3 * width..4 * width].iter_mut().for_each(|x| *x *= 1e-30);
    let mut out = buffer(&backend, &x);
    backend.l2_normalize(&mut out, 5, width).expect("it fits");
    for (row, (out, x)) in out.chunks_exact(width).zip(x.chunks_exact(width)).enumerate() {
        let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        for (out, x) in out.iter().zip(x) {
            let exact = if row == 1 { 0.0 } else { f64::from(*x) / length };
            assert!((f64::from(*out) - exact).abs() <= U * exact.abs());
        }
    }
}

#[test]
fn offsets_that_make_no_sense_are_refused() {
    let backend = CpuBackend::new(1);
    let x = buffer(&backend, &[0.0; 40]);
    for (cu_seqlens, reason) in [
        ([0, 3, 2], "never decrease"),
        ([1, 2, 3], "start at 0"),
        ([0, 2, 2], "sequence 1 has no rows"),
        ([0, 2, 5], "50 needed"),
    ] {
        let mut out = buffer(&backend, &[0.0; 20]);
        let error = backend
            .mean_pool(&x, &indices(&backend, &cu_seqlens), 2, 10, &mut out)
            .expect_err("no such sequences");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
