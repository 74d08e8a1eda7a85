//! Parts of tensors, for devices that share a model.

use ferrum_kernels::{HostTensor, SharedBytes};

use crate::shard::Extent;

/// The rows of `tensor` in `rows`: the same bytes, not copied.
pub(crate) fn take_rows(tensor: HostTensor, rows: Extent) -> HostTensor {
    if rows.is_whole() {
        return tensor;
    }
    let row_bytes = tensor.bytes.len() / tensor.rows.max(1);
    let range = rows.range();
    HostTensor {
        rows: rows.len,
        bytes: tensor.bytes.slice(range.start * row_bytes..range.end * row_bytes),
        ..tensor
    }
}

/// The columns of `tensor` in `cols`, copied; the other columns are not read.
///
/// # Errors
/// What can only be cut at multiples of: the block length of the format, if `cols` cuts a block; all columns, if they
/// are stored in an order of their own.
pub(crate) fn take_cols(tensor: HostTensor, cols: Extent) -> Result<HostTensor, usize> {
    if cols.is_whole() {
        return Ok(tensor);
    }
    if tensor.order.is_some() {
        return Err(cols.full);
    }
    let block_len = tensor.format.block_len();
    let bytes_of = |len| tensor.format.bytes_of(len).ok_or(block_len);
    let (row_bytes, start, len) = (bytes_of(cols.full)?, bytes_of(cols.start)?, bytes_of(cols.len)?);
    let mut bytes = Vec::with_capacity(tensor.rows * len);
    for row in tensor.bytes.chunks_exact(row_bytes.max(1)) {
        bytes.extend_from_slice(&row[start..start + len]);
    }
    Ok(HostTensor {
        cols: cols.len,
        bytes: SharedBytes::from(bytes),
        ..tensor
    })
}

#[cfg(test)]
mod tests {
    use ferrum_kernels::WeightFormat;

    use super::*;

    fn matrix(format: WeightFormat, rows: usize, cols: usize) -> HostTensor {
        let len = format.bytes_of(cols).expect("whole blocks") * rows;
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        HostTensor::new(format, rows, cols, bytes.into())
    }

    fn extent(full: usize, start: usize, len: usize) -> Extent {
        Extent { full, start, len }
    }

    #[test]
    fn parts_of_rows_are_the_bytes_of_those_rows() {
        let whole = matrix(WeightFormat::Q8_0, 4, 64);
        let part = take_rows(whole.clone(), extent(4, 1, 2));
        assert_eq!((part.rows, part.cols), (2, 64));
        assert_eq!(*part.bytes, whole.bytes[2 * 34..6 * 34]);
    }

    #[test]
    fn parts_of_columns_are_whole_blocks_of_each_row() {
        let whole = matrix(WeightFormat::Q8_0, 2, 96);
        let part = take_cols(whole.clone(), extent(96, 32, 64)).expect("whole blocks");
        assert_eq!((part.rows, part.cols), (2, 64));
        let expected = [&whole.bytes[34..3 * 34], &whole.bytes[4 * 34..6 * 34]].concat();
        assert_eq!(*part.bytes, *expected);
        assert_eq!(take_cols(whole, extent(96, 16, 64)).err(), Some(32));
    }
}
