//! Weight matrices on the GPU: in the element type that it computes with, or at 4 or 8 bits.

use std::{sync::Arc, thread};

use crate::{
    backend::BackendError,
    cpu::{check_host_tensor, dequant::dequantize_into, shape_error},
    cuda::{
        buffer::{CudaBuffer, Element},
        device::{Device, DeviceMemory},
        int4::Int4Matrix,
        q8::Q8Matrix,
    },
    tensor::HostTensor,
};

/// Bytes of a checkpoint that are converted at once.
const PIECE_BYTES: usize = 16 << 20;
/// Threads that convert.
const CONVERTERS: usize = 8;

/// A matrix `(rows, cols)`.
pub struct CudaWeight {
    pub(super) matrix: Matrix,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) element: Element,
}

/// How a matrix is stored.
pub(super) enum Matrix {
    /// Row-major, in the element type.
    Dense(DeviceMemory),
    /// In groups of 4-bit levels.
    Int4(Int4Matrix),
    /// In 8-bit levels.
    Q8(Q8Matrix),
}

impl CudaWeight {
    pub(super) fn prepare(
        device: &Arc<Device>,
        element: Element,
        parts: &[HostTensor],
    ) -> Result<Self, BackendError> {
        let cols = check_parts(parts)?;
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        let memory = device.alloc_for_upload(rows * cols * element.size(), "weights")?;
        let mut offset = 0;
        for part in parts {
            upload_part(device, element, part, &memory, offset)?;
            offset += part.rows * cols * element.size();
        }
        Ok(Self {
            matrix: Matrix::Dense(memory),
            rows,
            cols,
            element,
        })
    }
}

/// Checks what is to be stacked as one matrix; gives its columns.
pub(super) fn check_parts(parts: &[HostTensor]) -> Result<usize, BackendError> {
    let cols = parts.first().map_or(0, |part| part.cols);
    for part in parts {
        check_host_tensor(part)?;
        if part.cols != cols {
            return Err(shape_error(format!(
                "parts of a weight have {cols} and {} columns",
                part.cols
            )));
        }
    }
    Ok(cols)
}

/// Vectors one after the other, in single precision.
pub(super) fn prepare_vector(device: &Arc<Device>, parts: &[HostTensor]) -> Result<CudaBuffer, BackendError> {
    let mut values = Vec::new();
    for part in parts {
        check_host_tensor(part)?;
        let start = values.len();
        values.resize(start + part.rows * part.cols, 0.0);
        dequantize_into(part.format, &part.bytes, &mut values[start..]);
    }
    let mut vector = CudaBuffer::alloc(device, Element::F32, values.len(), "a vector of the model")?;
    vector.write(device, &values)?;
    Ok(vector)
}

fn upload_part(
    device: &Device,
    element: Element,
    part: &HostTensor,
    memory: &DeviceMemory,
    offset: usize,
) -> Result<(), BackendError> {
    if part.format == element.format() && part.order.is_none() {
        return device.upload_weight(&part.bytes, memory, offset);
    }
    let row_bytes = part.bytes.len() / part.rows.max(1);
    let piece_rows = (PIECE_BYTES / row_bytes.max(1)).max(1);
    for first in (0..part.rows).step_by(piece_rows) {
        let rows = first..part.rows.min(first + piece_rows);
        let bytes = convert(
            element,
            part,
            &part.bytes[rows.start * row_bytes..rows.end * row_bytes],
        );
        device.upload_weight(&bytes.into(), memory, offset + first * part.cols * element.size())?;
    }
    part.bytes.release();
    Ok(())
}

/// Puts a row's columns where their inputs are.
fn restore_order(row: &mut [f32], order: &[u32]) {
    let stored = row.to_vec();
    for (x, &input) in stored.into_iter().zip(order) {
        row[input as usize] = x;
    }
}

/// Whole rows of `part` in another element type.
fn convert(element: Element, part: &HostTensor, bytes: &[u8]) -> Vec<u8> {
    let row_bytes = part.bytes.len() / part.rows;
    let rows = bytes.len() / row_bytes;
    let share = rows.div_ceil(CONVERTERS).max(1) * row_bytes;
    let convert_rows = |bytes: &[u8]| {
        let mut values = vec![0.0; bytes.len() / row_bytes * part.cols];
        dequantize_into(part.format, bytes, &mut values);
        if let Some(order) = &part.order {
            values
                .chunks_exact_mut(part.cols)
                .for_each(|row| restore_order(row, order));
        }
        let mut encoded = Vec::with_capacity(values.len() * element.size());
        element.encode(&values, &mut encoded);
        encoded
    };
    thread::scope(|scope| {
        let workers: Vec<_> = bytes
            .chunks(share)
            .map(|bytes| scope.spawn(move || convert_rows(bytes)))
            .collect();
        let mut all = Vec::with_capacity(rows * part.cols * element.size());
        for worker in workers {
            match worker.join() {
                Ok(encoded) => all.extend_from_slice(&encoded),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}
