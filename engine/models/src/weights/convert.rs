//! Changes to tensors on their way to a backend.

use std::{panic::resume_unwind, thread};

use ferrum_engine::Dtype;
use ferrum_kernels::{HostTensor, SharedBytes, WeightFormat};
use half::{bf16, f16};

/// The matrix in another element type. Quantized matrices, and `Auto`, leave it as it is.
pub(crate) fn to_dtype(tensor: HostTensor, dtype: Dtype) -> HostTensor {
    let target = match dtype {
        Dtype::Auto => return tensor,
        Dtype::F32 => WeightFormat::F32,
        Dtype::F16 => WeightFormat::F16,
        Dtype::Bf16 => WeightFormat::BF16,
    };
    if tensor.format == target || tensor.format.block_len() > 1 {
        return tensor;
    }
    let bytes: Vec<u8> = match target {
        WeightFormat::F32 => elements(&tensor).flat_map(f32::to_le_bytes).collect(),
        WeightFormat::F16 => elements(&tensor)
            .flat_map(|x| f16::from_f32(x).to_le_bytes())
            .collect(),
        _ => elements(&tensor)
            .flat_map(|x| bf16::from_f32(x).to_le_bytes())
            .collect(),
    };
    tensor.bytes.release();
    HostTensor {
        format: target,
        bytes: SharedBytes::from(bytes),
        ..tensor
    }
}

/// A dense matrix as Q8_0: levels of -127..=127 and an f16 scale for each 32 columns. Quantized matrices, and those
/// whose width is no multiple of 32, are left as they are.
pub(crate) fn to_int8(tensor: HostTensor) -> HostTensor {
    let block = WeightFormat::Q8_0.block_len();
    if tensor.format.block_len() > 1 || !tensor.cols.is_multiple_of(block) {
        return tensor;
    }
    let row_bytes = tensor.bytes.len() / tensor.rows.max(1);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(16);
    let share = tensor.rows.div_ceil(workers).max(1);
    let quantize = |first: usize| {
        let rows = share.min(tensor.rows - first);
        let bytes = tensor.bytes.slice(first * row_bytes..(first + rows) * row_bytes);
        let part = HostTensor::new(tensor.format, rows, tensor.cols, bytes);
        let values: Vec<f32> = elements(&part).collect();
        let mut quantized = Vec::with_capacity(values.len() / block * WeightFormat::Q8_0.block_bytes());
        values
            .chunks_exact(block)
            .for_each(|values| push_q8_0(values, &mut quantized));
        quantized
    };
    let bytes = thread::scope(|scope| {
        let starts = (0..tensor.rows).step_by(share);
        let parts: Vec<_> = starts.map(|first| scope.spawn(move || quantize(first))).collect();
        let joined = parts.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .flat_map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<u8>>()
    });
    tensor.bytes.release();
    HostTensor {
        format: WeightFormat::Q8_0,
        bytes: SharedBytes::from(bytes),
        ..tensor
    }
}

/// One block: the scale lets the largest value be the largest level.
fn push_q8_0(values: &[f32], to: &mut Vec<u8>) {
    let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = f16::from_f32(most / 127.0);
    let inverse = match scale.to_f32() {
        0.0 => 0.0,
        scale => 1.0 / scale,
    };
    to.extend_from_slice(&scale.to_le_bytes());
    // Saturates where rounding the scale down lets the largest value pass 127.
    to.extend(
        values
            .iter()
            .map(|x| ((x * inverse).round().clamp(-127.0, 127.0) as i8).cast_unsigned()),
    );
}

/// The elements of a dense tensor; none of a quantized one.
pub(crate) fn elements(tensor: &HostTensor) -> Box<dyn Iterator<Item = f32> + '_> {
    let bytes = &*tensor.bytes;
    match tensor.format {
        WeightFormat::F32 => Box::new(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
        WeightFormat::F16 => Box::new(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f16::from_le_bytes(b).to_f32()),
        ),
        WeightFormat::BF16 => Box::new(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| bf16::from_le_bytes(b).to_f32()),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

/// Undoes llama.cpp's order of query and key rows for architecture `llama`.
///
/// Its converter stores the two halves of each head interleaved (row 2j holds row j, row 2j + 1 holds row
/// j + head_dim / 2), for a rotation of neighbours; ours rotates halves. Rows are stored one after the other in every
/// format, so whole rows move and nothing is dequantized. A vector (a bias) is one column.
pub(crate) fn restore_head_rows(tensor: &HostTensor, heads: usize) -> HostTensor {
    let rows = tensor.rows.max(1);
    let row_bytes = tensor.bytes.len() / rows;
    let head_dim = rows / heads;
    let half = head_dim / 2;
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for row in 0..rows {
        let (head, i) = (row / head_dim, row % head_dim);
        let source = head * head_dim + 2 * (i % half) + i / half;
        bytes.extend_from_slice(&tensor.bytes[source * row_bytes..(source + 1) * row_bytes]);
    }
    tensor.bytes.release();
    HostTensor {
        bytes: SharedBytes::from(bytes),
        ..tensor.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(values: &[f32], rows: usize) -> HostTensor {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        HostTensor::new(WeightFormat::F32, rows, values.len() / rows, bytes.into())
    }

    #[test]
    fn a_dense_matrix_changes_its_element_type() {
        let tensor = dense(&[1.0, -2.5, 65504.0, 3.3], 2);
        let half = to_dtype(tensor.clone(), Dtype::F16);
        assert_eq!(half.format, WeightFormat::F16);
        assert_eq!(
            elements(&half).collect::<Vec<_>>(),
            [1.0, -2.5, 65504.0, 3.300_781_3]
        );
        let brain = to_dtype(tensor.clone(), Dtype::Bf16);
        assert_eq!(
            elements(&brain).collect::<Vec<_>>(),
            [1.0, -2.5, 65536.0, 3.296_875]
        );
        assert_eq!(elements(&to_dtype(half, Dtype::F32)).nth(3), Some(3.300_781_3));
    }

    #[test]
    fn a_quantized_matrix_keeps_its_format() {
        let tensor = HostTensor::new(WeightFormat::Q8_0, 1, 32, vec![0; 34].into());
        assert_eq!(to_dtype(tensor, Dtype::F32).format, WeightFormat::Q8_0);
    }

    #[test]
    fn eight_bits_are_the_nearest_levels() {
        let values: Vec<f32> = (0..70 * 64)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + (i / 64) as f32))
            .collect();
        let quantized = to_int8(dense(&values, 70));
        assert_eq!(
            (quantized.format, quantized.rows, quantized.cols),
            (WeightFormat::Q8_0, 70, 64)
        );
        for (block, values) in quantized.bytes.chunks_exact(34).zip(values.chunks_exact(32)) {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            for (&level, &x) in block[2..].iter().zip(values) {
                // Half a level; a scale that was rounded down lets the largest miss by its rounding of 127 levels.
                let bound = scale * (0.5 + 127.0 / 2048.0);
                assert!(
                    (f32::from(level.cast_signed()) * scale - x).abs() <= bound,
                    "{x} in {scale}"
                );
            }
        }
        let zeros = to_int8(dense(&[0.0; 32], 1));
        assert_eq!(&*zeros.bytes, [0; 34]);
        assert_eq!(to_int8(dense(&[1.0; 24], 1)).format, WeightFormat::F32);
    }

    #[test]
    fn head_rows_come_back_in_halves() {
        // Two heads of four rows: the converter writes rows 0 2 1 3 of each head.
        let stored = dense(&[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0], 8);
        let restored = restore_head_rows(&stored, 2);
        assert_eq!(
            elements(&restored).collect::<Vec<_>>(),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        );
        let bias = dense(&[0.0, 2.0, 1.0, 3.0], 4);
        assert_eq!(
            elements(&restore_head_rows(&bias, 1)).collect::<Vec<_>>(),
            [0.0, 1.0, 2.0, 3.0]
        );
    }
}
