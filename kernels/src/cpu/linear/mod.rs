//! Products with prepared weights.
#![allow(unsafe_code)]

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, CpuBuffer, CpuIndices, check_host_tensor, check_len, dequant, pool::SyncPtr, row_bytes,
    },
    ops::LinearOps,
    tensor::HostTensor,
};

/// A matrix `(n, k)`: parts stacked along their rows, each in its own format.
#[derive(Debug)]
pub struct CpuWeight {
    parts: Vec<HostTensor>,
    n: usize,
    k: usize,
}

impl CpuWeight {
    pub(super) fn prepare(_backend: &CpuBackend, parts: &[HostTensor]) -> Result<Self, BackendError> {
        let Some(first) = parts.first() else {
            return Err(BackendError::Shape("a weight without parts".to_owned()));
        };
        for part in parts {
            check_host_tensor(part)?;
            if part.cols != first.cols {
                return Err(BackendError::Shape(format!(
                    "parts of {} and {} columns do not stack",
                    first.cols, part.cols
                )));
            }
        }
        Ok(Self {
            n: parts.iter().map(|part| part.rows).sum(),
            k: first.cols,
            parts: parts.to_vec(),
        })
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(super) fn packed_bytes(&self) -> usize {
        0
    }

    /// Row `row` as f32.
    fn row_into(&self, mut row: usize, out: &mut [f32]) -> Result<(), BackendError> {
        for part in &self.parts {
            if row < part.rows {
                let bytes = row_bytes(part.format, part.cols)?;
                dequant::dequantize_into(part.format, &part.bytes[row * bytes..(row + 1) * bytes], out);
                return Ok(());
            }
            row -= part.rows;
        }
        Err(BackendError::Shape(format!(
            "row {row} past the last of {} rows",
            self.n
        )))
    }
}

impl LinearOps for CpuBackend {
    fn linear(
        &self,
        x: &CpuBuffer,
        weight: &CpuWeight,
        bias: Option<&CpuBuffer>,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (n, k) = (weight.n, weight.k);
        check_len("x", x.len(), rows * k)?;
        check_len("out", out.len(), rows * n)?;
        if let Some(bias) = bias {
            check_len("bias", bias.len(), n)?;
        }
        let out = SyncPtr(out.as_mut_ptr());
        self.pool().run(n.div_ceil(32), |task| {
            let mut w = vec![0.0; k];
            for j in task * 32..n.min(task * 32 + 32) {
                weight.row_into(j, &mut w).expect("j < n");
                for i in 0..rows {
                    let dot: f32 = x[i * k..][..k].iter().zip(&w).map(|(x, w)| x * w).sum();
                    let y = dot + bias.map_or(0.0, |bias| bias[j]);
                    // SAFETY: i < rows and j < n, checked against out's length; no other task has this j.
                    unsafe { out.get().add(i * n + j).write(y) };
                }
            }
        });
        Ok(())
    }

    fn embed(
        &self,
        table: &CpuWeight,
        ids: &CpuIndices,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let k = table.k;
        check_len("ids", ids.len(), rows)?;
        check_len("out", out.len(), rows * k)?;
        for (id, out) in ids[..rows].iter().zip(out.chunks_exact_mut(k.max(1))) {
            table.row_into(*id as usize, out)?;
        }
        Ok(())
    }
}
