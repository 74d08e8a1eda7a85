//! GGUF, versions 2 and 3: header, metadata, tensor infos, padding, data.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every count, length and offset is checked
//! against the file before it is used, and nothing is reserved on the word of a count, so that a truncated or hostile
//! file ends in an error that says where.

mod cursor;
mod names;
mod value;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use ferrum_kernels::{SharedBytes, WeightFormat};

use self::cursor::Cursor;
pub(crate) use self::value::{Array, Value};
use super::{ALLOWED_FORMATS, RawTensor, Storage, Weights, mapped::map_file};
use crate::LoadError;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml has four dimensions at most.
const MAX_DIMS: u32 = 4;
/// Beyond any tensor, and small enough that the bytes of one row can be computed.
const MAX_DIM: u64 = 1 << 40;

/// A GGUF file whose header was read; its data is mapped.
pub(crate) struct GgufFile {
    pub(crate) path: PathBuf,
    metadata: HashMap<String, Value>,
    /// Under the file's own names.
    pub(crate) tensors: HashMap<String, RawTensor>,
}

impl GgufFile {
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let bytes = map_file(path)?;
        parse(path, &bytes)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(crate) fn string(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    /// A token id of the tokenizer's metadata (`bos`, `eos`, `eot`, …).
    pub(crate) fn token_id(&self, name: &str) -> Option<u32> {
        u32::try_from(self.value(&format!("tokenizer.ggml.{name}_token_id"))?.as_u64()?).ok()
    }

    /// All tensors under the names of Hugging Face; a name without a counterpart stays.
    pub(crate) fn weights(&self) -> Weights {
        let tensors = &self.tensors;
        let renamed = tensors
            .iter()
            .map(|(name, tensor)| (names::hf_name(name), tensor.clone()));
        Weights::new(&self.path, renamed)
    }
}

fn parse(path: &Path, file: &SharedBytes) -> Result<GgufFile, LoadError> {
    let corrupt = |(what, reason): (String, String)| LoadError::Corrupt {
        path: path.to_owned(),
        what,
        reason,
    };
    let in_header = |reason: String| corrupt(("header".to_owned(), reason));
    let mut cursor = Cursor::new(file);
    let (num_tensors, num_values) = header(&mut cursor).map_err(in_header)?;
    let metadata = metadata(&mut cursor, num_values).map_err(corrupt)?;
    let infos = tensor_infos(&mut cursor, num_tensors).map_err(corrupt)?;
    let alignment = alignment(&metadata).map_err(in_header)?;
    let data_start = cursor.position().next_multiple_of(alignment);
    let mut tensors = HashMap::new();
    for info in infos {
        let Some(format) = weight_format(info.kind) else {
            return Err(LoadError::UnsupportedFormat {
                path: path.to_owned(),
                tensor: info.name,
                format: format_name(info.kind),
                allowed: ALLOWED_FORMATS,
            });
        };
        let name = info.name.clone();
        let tensor = place(file, info, format, (data_start, alignment))
            .map_err(|reason| corrupt((format!("tensor {name}"), reason)))?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(corrupt((
                format!("tensor {name}"),
                "it is listed twice".to_owned(),
            )));
        }
    }
    Ok(GgufFile {
        path: path.to_owned(),
        metadata,
        tensors,
    })
}

fn header(cursor: &mut Cursor<'_>) -> Result<(u64, u64), String> {
    let magic = cursor.bytes(4)?;
    if magic != MAGIC {
        return Err(format!("it begins with {magic:?}, expected \"GGUF\""));
    }
    match cursor.u32()? {
        2 | 3 => Ok((cursor.u64()?, cursor.u64()?)),
        swapped if matches!(swapped.swap_bytes(), 2 | 3) => {
            Err("the file is big-endian; expected little-endian".to_owned())
        }
        version => Err(format!("version {version}; expected 2 or 3")),
    }
}

fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<HashMap<String, Value>, (String, String)> {
    let mut metadata = HashMap::new();
    for index in 0..count {
        let at = |reason| (format!("metadata key {index} of {count}"), reason);
        let key = cursor.string().map_err(at)?;
        let value = value::read(cursor).map_err(|reason| (format!("metadata {key}"), reason))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err((format!("metadata {key}"), "it is given twice".to_owned()));
        }
    }
    Ok(metadata)
}

struct TensorInfo {
    name: String,
    /// Outermost dimension first.
    shape: Vec<usize>,
    kind: u32,
    /// From the start of the data.
    offset: u64,
}

fn tensor_infos(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, (String, String)> {
    let mut infos = Vec::new();
    for index in 0..count {
        let at = |reason| (format!("tensor {index} of {count}"), reason);
        let name = cursor.string().map_err(at)?;
        infos.push(tensor_info(cursor, &name).map_err(|reason| (format!("tensor {name}"), reason))?);
    }
    Ok(infos)
}

fn tensor_info(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorInfo, String> {
    let dims = cursor.u32()?;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(format!("it has {dims} dimensions; expected 1 to {MAX_DIMS}"));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = cursor.u64()?;
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(format!("a dimension is {dim}; expected 1 to {MAX_DIM}"));
        }
        shape.push(dim as usize);
    }
    shape.reverse(); // the file has the innermost dimension first
    Ok(TensorInfo {
        name: name.to_owned(),
        shape,
        kind: cursor.u32()?,
        offset: cursor.u64()?,
    })
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<usize, String> {
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    // The file's own rule; the upper bound is ours, far beyond any page.
    match usize::try_from(alignment) {
        Ok(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(alignment),
        _ => Err(format!(
            "general.alignment is {alignment}; expected a power of two up to 1048576"
        )),
    }
}

/// Finds a tensor's bytes within the file.
fn place(
    file: &SharedBytes,
    info: TensorInfo,
    format: WeightFormat,
    (data_start, alignment): (usize, usize),
) -> Result<RawTensor, String> {
    let TensorInfo { shape, offset, .. } = info;
    let cols = shape.last().copied().unwrap_or(1);
    let row_bytes = format.bytes_of(cols).ok_or_else(|| {
        let block = format.block_len();
        format!("rows of {cols} elements are no multiple of the {format} block of {block}")
    })?;
    let size = shape[..shape.len() - 1]
        .iter()
        .try_fold(row_bytes, |product, &dim| product.checked_mul(dim));
    let start = usize::try_from(offset)
        .ok()
        .and_then(|offset| data_start.checked_add(offset));
    let (Some(size), Some(start)) = (size, start) else {
        return Err(format!("shape {shape:?} at offset {offset} is beyond any file"));
    };
    if !offset.is_multiple_of(alignment as u64) {
        return Err(format!(
            "its offset {offset} is no multiple of the alignment {alignment}"
        ));
    }
    match start.checked_add(size) {
        Some(end) if end <= file.len() => Ok(RawTensor {
            storage: Storage::Known(format),
            shape,
            bytes: file.slice(start..end),
        }),
        _ => Err(format!(
            "its {size} bytes at {start} reach past the end of the file at {} (is it truncated?)",
            file.len()
        )),
    }
}

fn weight_format(kind: u32) -> Option<WeightFormat> {
    Some(match kind {
        0 => WeightFormat::F32,
        1 => WeightFormat::F16,
        2 => WeightFormat::Q4_0,
        3 => WeightFormat::Q4_1,
        6 => WeightFormat::Q5_0,
        7 => WeightFormat::Q5_1,
        8 => WeightFormat::Q8_0,
        12 => WeightFormat::Q4K,
        13 => WeightFormat::Q5K,
        14 => WeightFormat::Q6K,
        30 => WeightFormat::BF16,
        _ => return None,
    })
}

/// ggml's name of a format that we have no code for.
fn format_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("ggml type {kind}"),
    };
    name.to_owned()
}
