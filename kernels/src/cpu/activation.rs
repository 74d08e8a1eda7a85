//! The activation operations on the CPU.

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, CpuBuffer, CpuIndices, check_len,
        lanes::{self, Kernel, LANES, Lanes},
        shape_error,
    },
    ops::{ActivationOps, Gelu},
};

/// Elements that a task works on at least: below, handing out tasks costs more than it saves.
const MIN_TASK_LEN: usize = 4096;

impl ActivationOps for CpuBackend {
    fn add(&self, x: &CpuBuffer, y: &mut CpuBuffer, len: usize) -> Result<(), BackendError> {
        check_len("add: x", x.len(), len)?;
        check_len("add: y", y.len(), len)?;
        let chunk_len = self.task_rows(len, 1);
        self.pool().run_chunks(&mut y[..len], chunk_len, |task, y| {
            let x = &x[task * chunk_len..][..y.len()];
            self.vectorize(Add { x, y });
        });
        Ok(())
    }

    fn silu_mul(
        &self,
        gate_up: &CpuBuffer,
        rows: usize,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_len("silu_mul: gate_up", gate_up.len(), 2 * rows * width)?;
        check_len("silu_mul: out", out.len(), rows * width)?;
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut out[..rows * width], width, task_rows, |row, out| {
            let (gate, up) = gate_up[2 * row * width..][..2 * width].split_at(width);
            self.vectorize(SiluMul { gate, up, out });
        });
        Ok(())
    }

    fn gelu(&self, x: &mut CpuBuffer, kind: Gelu, len: usize) -> Result<(), BackendError> {
        check_len("gelu: x", x.len(), len)?;
        let chunk_len = self.task_rows(len, 1);
        self.pool().run_chunks(&mut x[..len], chunk_len, |_, x| {
            self.vectorize(GeluInPlace { x, kind });
        });
        Ok(())
    }

    fn gather_rows(
        &self,
        x: &CpuBuffer,
        indices: &CpuIndices,
        rows: usize,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_len("gather_rows: indices", indices.len(), rows)?;
        check_len("gather_rows: out", out.len(), rows * width)?;
        if let Some(&index) = indices[..rows].iter().max() {
            let index = index as usize;
            check_len("gather_rows: x", x.len(), (index + 1) * width)
                .map_err(|_| shape_error(format!("gather_rows: no row {index} of width {width} in x")))?;
        }
        let task_rows = self.task_rows(rows, width);
        self.run_rows(&mut out[..rows * width], width, task_rows, |row, out| {
            out.copy_from_slice(&x[indices[row] as usize * width..][..width]);
        });
        Ok(())
    }
}

impl CpuBackend {
    /// Rows of `width` elements that one task should take, so that all threads have work and no task is too
    /// small to be worth handing out.
    pub(super) fn task_rows(&self, rows: usize, width: usize) -> usize {
        let threads = self.pool().threads();
        let tasks = (rows * width / MIN_TASK_LEN).clamp(1, 4 * threads);
        // As many for each thread.
        let tasks = if tasks > threads {
            tasks / threads * threads
        } else {
            tasks
        };
        rows.div_ceil(tasks).max(1)
    }

    /// Calls `f` with each row of `data` and its index, `task_rows` rows a task.
    pub(super) fn run_rows(
        &self,
        data: &mut [f32],
        width: usize,
        task_rows: usize,
        f: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        if width == 0 {
            return;
        }
        self.pool().run_chunks(data, task_rows * width, |task, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                f(task * task_rows + i, row);
            }
        });
    }
}

struct Add<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y += x;
        }
    }
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let (gate, gate_rest) = self.gate.as_chunks::<LANES>();
        let (up, up_rest) = self.up.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            s.store(silu_mul(s, s.load(gate), s.load(up)), out);
        }
        let gate = s.load_partial(gate_rest, 0.0);
        let up = s.load_partial(up_rest, 0.0);
        s.store_partial(silu_mul(s, gate, up), out_rest);
    }
}

#[inline(always)]
fn silu_mul<S: Lanes>(s: S, gate: S::V, up: S::V) -> S::V {
    s.mul(s.mul(gate, lanes::sigmoid(s, gate)), up)
}

struct GeluInPlace<'a> {
    x: &'a mut [f32],
    kind: Gelu,
}

impl Kernel for GeluInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let (chunks, rest) = self.x.as_chunks_mut::<LANES>();
        for x in chunks {
            s.store(gelu(s, self.kind, s.load(x)), x);
        }
        let last = gelu(s, self.kind, s.load_partial(rest, 0.0));
        s.store_partial(last, rest);
    }
}

#[inline(always)]
fn gelu<S: Lanes>(s: S, kind: Gelu, x: S::V) -> S::V {
    let weight = match kind {
        Gelu::Erf => lanes::normal_cdf(s, x),
        Gelu::Quick => lanes::sigmoid(s, s.mul(x, s.splat(1.702))),
        Gelu::Tanh => {
            // (1 + tanh(u)) / 2 = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            let slope = s.splat(1.595_769);
            let cubic = s.splat(1.595_769 * 0.044_715);
            let twice = s.mul(x, s.mul_add(s.mul(x, x), cubic, slope));
            lanes::sigmoid(s, twice)
        }
    };
    s.mul(x, weight)
}
