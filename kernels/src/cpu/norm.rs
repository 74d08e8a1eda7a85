//! The norm operations on the CPU.
#![allow(unsafe_code)]

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, CpuBuffer, check_len,
        lanes::{Kernel, LANES, Lanes},
        pool::SyncPtr,
    },
    ops::{HeadLayout, NormOps},
};

impl NormOps for CpuBackend {
    fn rms_norm(
        &self,
        x: &CpuBuffer,
        weight: &CpuBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_len("rms_norm: x", x.len(), rows * width)?;
        check_len("rms_norm: weight", weight.len(), width)?;
        check_len("rms_norm: out", out.len(), rows * width)?;
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut out[..rows * width], width, task_rows, |row, out| {
            let x = &x[row * width..][..width];
            self.vectorize(RmsNorm {
                x,
                weight: &weight[..width],
                eps,
                out,
            });
        });
        Ok(())
    }

    /// One pass: a row is still in the first-level cache when it is normalised.
    fn add_rms_norm(
        &self,
        x: &CpuBuffer,
        residual: &mut CpuBuffer,
        weight: &CpuBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_len("add_rms_norm: x", x.len(), rows * width)?;
        check_len("add_rms_norm: residual", residual.len(), rows * width)?;
        check_len("add_rms_norm: weight", weight.len(), width)?;
        check_len("add_rms_norm: out", out.len(), rows * width)?;
        let residual = SyncPtr(residual.as_mut_ptr());
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut out[..rows * width], width, task_rows, |row, out| {
            // SAFETY: `residual` is borrowed mutably and holds `rows` rows; each row is visited once.
            let residual = unsafe { std::slice::from_raw_parts_mut(residual.get().add(row * width), width) };
            self.vectorize(AddRmsNorm {
                x: &x[row * width..][..width],
                residual,
                weight: &weight[..width],
                eps,
                out,
            });
        });
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &CpuBuffer,
        (weight, bias): (&CpuBuffer, &CpuBuffer),
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_len("layer_norm: x", x.len(), rows * width)?;
        check_len("layer_norm: weight", weight.len(), width)?;
        check_len("layer_norm: bias", bias.len(), width)?;
        check_len("layer_norm: out", out.len(), rows * width)?;
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut out[..rows * width], width, task_rows, |row, out| {
            self.vectorize(LayerNorm {
                x: &x[row * width..][..width],
                affine: (&weight[..width], &bias[..width]),
                eps,
                out,
            });
        });
        Ok(())
    }

    fn qk_norm(
        &self,
        qkv: &mut CpuBuffer,
        heads: HeadLayout,
        (q_weight, k_weight): (&CpuBuffer, &CpuBuffer),
        eps: f32,
        rows: usize,
    ) -> Result<(), BackendError> {
        let HeadLayout {
            num_heads,
            num_kv_heads,
            head_dim,
        } = heads;
        let width = heads.qkv_width();
        check_len("qk_norm: qkv", qkv.len(), rows * width)?;
        check_len("qk_norm: q_weight", q_weight.len(), head_dim)?;
        check_len("qk_norm: k_weight", k_weight.len(), head_dim)?;
        if head_dim == 0 {
            return Ok(());
        }
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut qkv[..rows * width], width, task_rows, |_, row| {
            let normed = row.chunks_exact_mut(head_dim).take(num_heads + num_kv_heads);
            for (head, x) in normed.enumerate() {
                let weight = if head < num_heads { q_weight } else { k_weight };
                self.vectorize(RmsNormInPlace {
                    x,
                    weight: &weight[..head_dim],
                    eps,
                });
            }
        });
        Ok(())
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let scale = inverse_rms(s, self.x, self.eps);
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

struct RmsNormInPlace<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let scale = inverse_rms(s, self.x, self.eps);
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * scale * weight;
        }
    }
}

struct AddRmsNorm<'a> {
    x: &'a [f32],
    residual: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for AddRmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for (residual, x) in self.residual.iter_mut().zip(self.x) {
            *residual += x;
        }
        RmsNorm {
            x: self.residual,
            weight: self.weight,
            eps: self.eps,
            out: self.out,
        }
        .run(s);
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    affine: (&'a [f32], &'a [f32]),
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let n = self.x.len() as f32;
        let mean = reduce(s, self.x, 0.0, |sum, x| s.add(sum, x)) / n;
        // The second pass subtracts the mean first: the difference of two large sums would lose digits.
        let center = s.splat(mean);
        let squares = reduce(s, self.x, mean, |sum, x| {
            let d = s.sub(x, center);
            s.mul_add(d, d, sum)
        });
        let scale = 1.0 / (squares / n + self.eps).sqrt();
        let (weight, bias) = self.affine;
        for (((out, x), weight), bias) in self.out.iter_mut().zip(self.x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_rms<S: Lanes>(s: S, x: &[f32], eps: f32) -> f32 {
    let squares = reduce(s, x, 0.0, |sum, x| s.mul_add(x, x, sum));
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

/// Folds vectors into four sums and adds those up, always in the same order. `fill` stands in for the
/// elements that the last vector lacks.
#[inline(always)]
fn reduce<S: Lanes>(s: S, x: &[f32], fill: f32, f: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let (quads, rest) = x.as_chunks::<{ 4 * LANES }>();
    for quad in quads {
        for (sum, x) in sums.iter_mut().zip(quad.as_chunks().0) {
            *sum = f(*sum, s.load(x));
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.chunks(LANES)) {
        *sum = f(*sum, s.load_partial(x, fill));
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
