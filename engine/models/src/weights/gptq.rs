//! Linear layers that GPTQ has quantized to 4 bits.
//!
//! A layer `(rows, cols)` is four tensors (<https://github.com/ModelCloud/GPTQModel>, "gptq" and "gptq_v2"):
//!
//! ```text
//! qweight  i32 (cols / 8, rows)      eight levels a word, those of inputs 8i, 8i + 1, ... from the low bits up
//! qzeros   i32 (groups, rows / 8)    eight zero levels a word, of neighbouring rows; less 1 in the first version
//! scales   f16 (groups, rows)
//! g_idx    i32 (cols)                the group of each input; may be missing where they are in order
//! ```
//!
//! An element is `scale * (level - zero)`. Here they become rows of [`WeightFormat::Int4G32`] and its like. Groups
//! whose inputs lie scattered (`desc_act`: quantized in the order of importance) are brought together, and the
//! order of the columns goes with the tensor.

use std::{sync::Arc, thread};

use ferrum_kernels::{HostTensor, SharedBytes, WeightFormat};
use half::{bf16, f16};

use super::{RawTensor, Storage, Weights};
use crate::{
    LoadError,
    config::{GptqConfig, Grouping},
    shard::Extent,
};

/// The end of the name that says that a layer is quantized.
const LEVELS: &str = ".qweight";

/// Rows that are brought into order at once, so that their words stay in the nearest cache.
const TILE: usize = 64;

/// Bytes of a layer below which other threads are not worth their start.
const SHARED_BYTES: usize = 1 << 20;

/// Most threads that convert a layer.
const MAX_THREADS: usize = 16;

/// Whether tensor `<module>.weight` is there as levels.
pub(crate) fn is_quantized(weights: &Weights, module: &str) -> bool {
    weights.contains(&format!("{module}{LEVELS}"))
}

/// Layers that are quantized, by what their tensors' names begin with.
pub(crate) fn modules<'a>(names: impl Iterator<Item = &'a String>) -> impl Iterator<Item = &'a str> {
    names.filter_map(|name| name.strip_suffix(LEVELS))
}

/// Parameters that a tensor of a quantized checkpoint stands for.
pub(crate) fn num_parameters(name: &str, tensor: &RawTensor) -> u64 {
    let elements = tensor.num_elements() as u64;
    match (&tensor.storage, name) {
        (_, name) if name.ends_with(LEVELS) => 8 * elements,
        (Storage::Other(_), _) => 0,
        (_, name) if name.ends_with(".scales") => 0,
        _ => elements,
    }
}

/// Columns that cannot be cut apart, in the layers whose dense name would end so.
pub(crate) fn largest_block(weights: &Weights, config: &GptqConfig, name_end: &str) -> usize {
    let end = name_end.trim_end_matches(".weight");
    let blocks = weights.tensors.iter().filter_map(|(name, entry)| {
        let module = name.strip_suffix(LEVELS).filter(|module| module.ends_with(end))?;
        let cols = 8 * entry.tensor.shape.first()?;
        Some(format_of(config.of(module).group_size.unwrap_or(cols), cols)?.block_len())
    });
    blocks.max().unwrap_or(1)
}

/// Takes some rows of layer `module`, all of its columns.
pub(crate) fn take(
    weights: &Weights,
    grouping: Grouping,
    module: &str,
    (rows, cols): (Extent, usize),
) -> Result<HostTensor, LoadError> {
    let group_size = grouping.group_size.unwrap_or(cols).max(1);
    let groups = cols.div_ceil(group_size);
    let format = format_of(group_size, cols).ok_or_else(|| {
        let name = format!("{module}{LEVELS}");
        weights.unsupported(
            &name,
            format!("GPTQ with {cols} inputs"),
            "a multiple of 32 inputs",
        )
    })?;
    let words = |end: &str, shape: &[usize]| words(weights, &format!("{module}{end}"), shape);
    let levels = words(LEVELS, &[cols / 8, rows.full])?;
    let zeros = words(".qzeros", &[groups, rows.full.div_ceil(8)])?;
    let scales = scales(weights, &format!("{module}.scales"), &[groups, rows.full])?;
    let index = format!("{module}.g_idx");
    let order = match weights.contains(&index) {
        true => order(&words(".g_idx", &[cols])?, group_size)
            .map_err(|reason| weights.corrupt(&format!("tensor {index}"), reason))?,
        false => None,
    };
    let layer = Layer {
        levels: levels.as_chunks().0,
        zeros: zeros.as_chunks().0,
        scales: &scales,
        order: order.as_deref(),
        rows,
        cols,
        group_size,
        zero_offset: grouping.zero_offset,
        format,
    };
    let bytes = layer.to_rows();
    levels.release();
    Ok(HostTensor {
        order,
        ..HostTensor::new(format, rows.len, cols, bytes.into())
    })
}

/// The largest block that divides the groups as well as the row.
fn format_of(group_size: usize, cols: usize) -> Option<WeightFormat> {
    [
        WeightFormat::Int4G128,
        WeightFormat::Int4G64,
        WeightFormat::Int4G32,
    ]
    .into_iter()
    .find(|format| {
        let block = format.block_len();
        cols.is_multiple_of(block) && (group_size.is_multiple_of(block) || group_size == cols)
    })
}

/// Takes a tensor of 32-bit integers.
fn words(weights: &Weights, name: &str, shape: &[usize]) -> Result<SharedBytes, LoadError> {
    let tensor = &weights.entry(name, shape)?.tensor;
    match &tensor.storage {
        Storage::Other(kind) if kind == "I32" || kind == "U32" => {}
        Storage::Other(kind) => return Err(weights.unsupported(name, kind.clone(), "I32")),
        Storage::Known(format) => return Err(weights.unsupported(name, format.to_string(), "I32")),
    }
    let expected = tensor.num_elements() * 4;
    if tensor.bytes.len() != expected {
        let reason = format!(
            "shape {shape:?} takes {expected} bytes, not {}",
            tensor.bytes.len()
        );
        return Err(weights.corrupt(&format!("tensor {name}"), reason));
    }
    Ok(tensor.bytes.clone())
}

/// Takes the scales as halves; those of a bfloat16 checkpoint must be halves as well.
fn scales(weights: &Weights, name: &str, shape: &[usize]) -> Result<Vec<[u8; 2]>, LoadError> {
    let tensor = &weights.entry(name, shape)?.tensor;
    let stored = tensor.bytes.as_chunks().0;
    match &tensor.storage {
        Storage::Known(WeightFormat::F16) => Ok(stored.to_vec()),
        Storage::Known(WeightFormat::BF16) => stored
            .iter()
            .map(|&bytes| {
                let scale = bf16::from_le_bytes(bytes).to_f32();
                let half = f16::from_f32(scale);
                (half.to_f32() == scale).then_some(half.to_le_bytes())
            })
            .collect::<Option<_>>()
            .ok_or_else(|| weights.unsupported(name, "BF16 beyond the range of F16".to_owned(), "F16")),
        Storage::Known(format) => Err(weights.unsupported(name, format.to_string(), "F16, BF16")),
        Storage::Other(kind) => Err(weights.unsupported(name, kind.clone(), "F16, BF16")),
    }
}

/// The inputs in the order of their groups, or `None` if they are in it already; else what is wrong with the groups.
fn order(groups: &[u8], group_size: usize) -> Result<Option<Arc<[u32]>>, String> {
    let groups: Vec<u32> = groups
        .as_chunks()
        .0
        .iter()
        .map(|&word| u32::from_le_bytes(word))
        .collect();
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|&input| groups[input as usize]);
    for (place, &input) in order.iter().enumerate() {
        let (found, expected) = (groups[input as usize], place / group_size);
        if found as usize != expected {
            return Err(format!(
                "input {input} is of group {found}; expected {group_size} inputs of each group, here of {expected}"
            ));
        }
    }
    Ok((!order.is_sorted()).then(|| order.into()))
}

/// A layer as the file has it.
struct Layer<'a> {
    levels: &'a [[u8; 4]],
    zeros: &'a [[u8; 4]],
    scales: &'a [[u8; 2]],
    order: Option<&'a [u32]>,
    /// Those that are taken.
    rows: Extent,
    cols: usize,
    group_size: usize,
    zero_offset: u8,
    format: WeightFormat,
}

impl Layer<'_> {
    /// The rows one after the other.
    fn to_rows(&self) -> Vec<u8> {
        let rows = self.rows.len;
        let row_bytes = self.cols / self.format.block_len() * self.format.block_bytes();
        let mut out = vec![0; rows * row_bytes];
        let threads = match out.len() < SHARED_BYTES {
            true => 1,
            false => thread::available_parallelism()
                .map_or(1, Into::into)
                .min(MAX_THREADS),
        };
        let share = rows.div_ceil(threads).next_multiple_of(TILE).max(TILE);
        thread::scope(|scope| {
            for (index, out) in out.chunks_mut(share * row_bytes).enumerate() {
                let mut convert = move || {
                    for (tile, out) in out.chunks_mut(TILE * row_bytes).enumerate() {
                        self.convert(self.rows.start + index * share + tile * TILE, row_bytes, out);
                    }
                };
                if threads == 1 {
                    convert();
                } else {
                    scope.spawn(convert);
                }
            }
        });
        out
    }

    /// Rows of the file from `first` on, as many as `out` has room for, at most [`TILE`].
    fn convert(&self, first: usize, row_bytes: usize, out: &mut [u8]) {
        let rows = self.rows.full;
        let block_bytes = self.format.block_bytes();
        let words = self.format.block_len() / 8;
        let mut tile = [0_u32; TILE];
        for block in 0..row_bytes / block_bytes {
            let group = block * self.format.block_len() / self.group_size;
            for (i, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let row = first + i;
                let zeros = u32::from_le_bytes(self.zeros[group * rows.div_ceil(8) + row / 8]);
                let zero = (zeros >> (4 * (row % 8)) & 15) as u8 + self.zero_offset;
                let at = block * block_bytes;
                out[at..at + 2].copy_from_slice(&self.scales[group * rows + row]);
                out[at + 2] = zero;
            }
            for word in 0..words {
                self.gather(block * words + word, first, &mut tile);
                let at = block * block_bytes + 4 + 4 * word;
                for (out, levels) in out.chunks_exact_mut(row_bytes).zip(tile) {
                    out[at..at + 4].copy_from_slice(&levels.to_le_bytes());
                }
            }
        }
    }

    /// Eight columns, from `8 * word` on, of rows `first..first + TILE` (fewer at the end).
    fn gather(&self, word: usize, first: usize, tile: &mut [u32; TILE]) {
        let rows = self.rows.full;
        let len = TILE.min(self.rows.range().end - first);
        let stored = |input: usize| &self.levels[input / 8 * rows + first..][..len];
        let Some(order) = self.order else {
            for (levels, &stored) in tile.iter_mut().zip(stored(8 * word)) {
                *levels = u32::from_le_bytes(stored);
            }
            return;
        };
        tile.fill(0);
        for (j, &input) in order[8 * word..][..8].iter().enumerate() {
            let input = input as usize;
            for (levels, &stored) in tile.iter_mut().zip(stored(input)) {
                *levels |= (u32::from_le_bytes(stored) >> (4 * (input % 8)) & 15) << (4 * j);
            }
        }
    }
}

#[cfg(test)]
mod tests;
