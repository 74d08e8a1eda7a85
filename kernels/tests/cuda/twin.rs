//! The same inputs on both devices, and how far results may differ.

use ferrum_kernels::{
    Backend, HostTensor,
    cpu::{CpuBackend, CpuBuffer, CpuIndices},
    cuda::{CudaBackend, CudaBuffer, CudaIndices, Element},
};
use half::{bf16, f16};

use crate::support::Random;

pub(crate) const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];

/// A GPU that computes with `element`, and the CPU.
pub(crate) struct Twin {
    pub(crate) gpu: CudaBackend,
    pub(crate) cpu: CpuBackend,
    pub(crate) element: Element,
}

impl Twin {
    pub(crate) fn new(element: Element) -> Self {
        Self {
            gpu: CudaBackend::new(0, element).expect("a GPU"),
            cpu: CpuBackend::new(std::thread::available_parallelism().map_or(1, Into::into)),
            element,
        }
    }

    /// As [`Self::new`], with a GPU on which a row's bits depend on nothing but the row.
    pub(crate) fn invariant(element: Element) -> Self {
        let twin = Self::new(element);
        Self {
            gpu: twin.gpu.with_batch_invariance(true),
            ..twin
        }
    }

    /// Both devices' buffers of the same values.
    pub(crate) fn buffers(&self, values: &[f32]) -> (CudaBuffer, CpuBuffer) {
        let mut gpu = self.gpu.alloc(values.len()).expect("memory");
        self.gpu.write(values, &mut gpu).expect("room");
        (gpu, self.cpu_buffer(values))
    }

    /// As [`Self::buffers`], in single precision on the GPU too.
    pub(crate) fn exact_buffers(&self, values: &[f32]) -> (CudaBuffer, CpuBuffer) {
        let mut gpu = self.gpu.alloc_f32(values.len()).expect("memory");
        self.gpu.write(values, &mut gpu).expect("room");
        (gpu, self.cpu_buffer(values))
    }

    fn cpu_buffer(&self, values: &[f32]) -> CpuBuffer {
        let mut cpu = self.cpu.alloc(values.len()).expect("memory");
        self.cpu.write(values, &mut cpu).expect("room");
        cpu
    }

    /// A weight vector on both devices.
    pub(crate) fn vectors(&self, values: &[f32]) -> (CudaBuffer, CpuBuffer) {
        let tensor = vector(values);
        (
            self.gpu
                .prepare_vector(std::slice::from_ref(&tensor))
                .expect("memory"),
            self.cpu.prepare_vector(&[tensor]).expect("memory"),
        )
    }

    pub(crate) fn indices(&self, values: &[u32]) -> (CudaIndices, CpuIndices) {
        let mut gpu = self.gpu.alloc_indices(values.len()).expect("memory");
        self.gpu.write_indices(values, &mut gpu).expect("room");
        let mut cpu = self.cpu.alloc_indices(values.len()).expect("memory");
        self.cpu.write_indices(values, &mut cpu).expect("room");
        (gpu, cpu)
    }

    /// Results of `len` elements, NaN before.
    pub(crate) fn outputs(&self, len: usize) -> (CudaBuffer, CpuBuffer) {
        self.buffers(&vec![f32::NAN; len])
    }

    /// As [`Self::outputs`], in single precision.
    pub(crate) fn exact_outputs(&self, len: usize) -> (CudaBuffer, CpuBuffer) {
        self.exact_buffers(&vec![f32::NAN; len])
    }

    pub(crate) fn read(&self, buffer: &CudaBuffer, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        self.gpu.read_into(buffer, &mut values).expect("a result");
        values
    }

    /// What the element type can hold of uniform values in -1..1.
    pub(crate) fn random(&self, random: &mut Random, len: usize) -> Vec<f32> {
        (0..len).map(|_| round(self.element, random.unit())).collect()
    }

    /// Compares with the CPU's result; `allowed(i, expected)` is beside the rounding of a result to its element type.
    pub(crate) fn check(
        &self,
        what: &str,
        got: &CudaBuffer,
        expected: &[f32],
        allowed: impl Fn(usize, f32) -> f64,
    ) {
        let values = self.read(got, expected.len());
        let unit = unit(got.element());
        for (i, (&value, &expected)) in values.iter().zip(expected).enumerate() {
            let error = (f64::from(value) - f64::from(expected)).abs();
            // Below the range of normal numbers half precision is absolute.
            let bound = unit * f64::from(expected.abs()) + 2.0_f64.powi(-25) + allowed(i, expected);
            assert!(
                error <= bound,
                "{what}, {}, element {i} of {}: {value}, the CPU has {expected}: off by {error:e}, {bound:e} allowed",
                self.element.name(),
                expected_len(&values)
            );
        }
    }
}

fn expected_len(values: &[f32]) -> usize {
    values.len()
}

/// Largest relative error of one rounding.
pub(crate) fn unit(element: Element) -> f64 {
    match element {
        Element::F32 => 2.0_f64.powi(-24),
        Element::F16 => 2.0_f64.powi(-11),
        Element::Bf16 => 2.0_f64.powi(-8),
    }
}

pub(crate) fn round(element: Element, x: f32) -> f32 {
    match element {
        Element::F32 => x,
        Element::F16 => f16::from_f32(x).to_f32(),
        Element::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

pub(crate) fn vector(values: &[f32]) -> HostTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    HostTensor::new(ferrum_kernels::WeightFormat::F32, 1, values.len(), bytes.into())
}
