//! The pooling operations on the CPU.

use crate::{
    backend::BackendError,
    cpu::{CpuBackend, CpuBuffer, CpuIndices, check_cu_seqlens, check_len, shape_error},
    ops::PoolingOps,
};

/// Columns that are summed together: their f64 sums fit the registers and the first-level cache.
const COLUMNS: usize = 64;

impl PoolingOps for CpuBackend {
    fn mean_pool(
        &self,
        x: &CpuBuffer,
        cu_seqlens: &CpuIndices,
        num_seqs: usize,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let cu_seqlens = check_cu_seqlens("mean_pool: cu_seqlens", cu_seqlens, num_seqs)?;
        let rows = cu_seqlens[num_seqs] as usize;
        check_len("mean_pool: x", x.len(), rows * width)?;
        check_len("mean_pool: out", out.len(), num_seqs * width)?;
        if let Some(empty) = cu_seqlens.windows(2).position(|w| w[0] == w[1]) {
            return Err(shape_error(format!("mean_pool: sequence {empty} has no rows")));
        }
        // A task is one sequence: its rows are read once, in order.
        self.run_rows(&mut out[..num_seqs * width], width, 1, |seq, out| {
            let rows = cu_seqlens[seq] as usize..cu_seqlens[seq + 1] as usize;
            mean_rows(&x[rows.start * width..rows.end * width], out);
        });
        Ok(())
    }

    fn l2_normalize(&self, x: &mut CpuBuffer, rows: usize, width: usize) -> Result<(), BackendError> {
        check_len("l2_normalize: x", x.len(), rows * width)?;
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut x[..rows * width], width, task_rows, |_, row| {
            unit_length(row)
        });
        Ok(())
    }
}

/// The mean of the rows of `x`, summed in f64 in their order.
fn mean_rows(x: &[f32], out: &mut [f32]) {
    let width = out.len();
    let count = (x.len() / width) as f64;
    for (column, out) in out.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [0.0_f64; COLUMNS];
        for row in x.chunks_exact(width) {
            for (sum, x) in sums.iter_mut().zip(&row[column * COLUMNS..][..out.len()]) {
                *sum += f64::from(*x);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (sum / count) as f32;
        }
    }
}

/// Divides by the Euclidean length, summed in f64 in the elements' order, in which no square of an f32
/// overflows or vanishes.
fn unit_length(row: &mut [f32]) {
    let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if squares == 0.0 {
        return;
    }
    let scale = 1.0 / squares.sqrt();
    for x in row {
        *x = (f64::from(*x) * scale) as f32;
    }
}
