//! Safetensors: eight bytes of header length, a JSON header, then the data; in one file or in shards with an index.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Component, Path, PathBuf},
};

use ferrum_kernels::{SharedBytes, WeightFormat};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::Deserialize;

use super::{RawTensor, Storage, mapped::map_file};
use crate::LoadError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads the headers of all weight files of a folder.
pub(crate) fn read_folder(folder: &Path) -> Result<HashMap<String, RawTensor>, LoadError> {
    let index = folder.join(INDEX);
    if folder.join(SINGLE).exists() {
        read_file(&folder.join(SINGLE))
    } else if index.exists() {
        read_shards(folder, &index)
    } else {
        Err(LoadError::NotACheckpoint {
            path: folder.to_owned(),
            reason: missing_weights(folder),
        })
    }
}

fn missing_weights(folder: &Path) -> String {
    if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
        return "its weights are pytorch_model.bin, which can run code when it is read".to_owned();
    }
    format!("neither {SINGLE} nor {INDEX} is there")
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_shards(folder: &Path, index: &Path) -> Result<HashMap<String, RawTensor>, LoadError> {
    let corrupt = |what: &str, reason: String| LoadError::Corrupt {
        path: index.to_owned(),
        what: what.to_owned(),
        reason,
    };
    let text = fs::read(index).map_err(|source| LoadError::Io {
        path: index.to_owned(),
        source,
    })?;
    let Index { weight_map } =
        serde_json::from_slice(&text).map_err(|error| corrupt("weight_map", error.to_string()))?;
    let mut tensors = HashMap::new();
    for shard in weight_map.values().collect::<BTreeSet<_>>() {
        tensors.extend(read_file(
            &shard_path(folder, shard).map_err(|r| corrupt("weight_map", r))?,
        )?);
    }
    match weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        Some((name, shard)) => Err(corrupt(
            name,
            format!("it is not in {shard}, where the index has it"),
        )),
        None => Ok(tensors),
    }
}

/// A shard is a plain file name: an index must not reach outside of its folder.
fn shard_path(folder: &Path, shard: &str) -> Result<PathBuf, String> {
    let mut components = Path::new(shard).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Ok(folder.join(shard)),
        _ => Err(format!("shard {shard:?} is not a plain file name")),
    }
}

pub(crate) fn read_file(path: &Path) -> Result<HashMap<String, RawTensor>, LoadError> {
    parse(&map_file(path)?).map_err(|(what, reason)| LoadError::Corrupt {
        path: path.to_owned(),
        what,
        reason,
    })
}

/// The tensors of one file; an error names what is wrong and why. The crate's own reader of a whole header does not
/// say which tensor a truncated file lacks, so its type is read tensor by tensor.
fn parse(file: &SharedBytes) -> Result<HashMap<String, RawTensor>, (String, String)> {
    let header_error = |reason: String| ("header".to_owned(), reason);
    let length: [u8; 8] = file
        .get(..8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| header_error(format!("the file has {} bytes, too few for a header", file.len())))?;
    let length = u64::from_le_bytes(length);
    let data_start = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(8))
        .filter(|&end| end <= file.len())
        .ok_or_else(|| {
            header_error(format!(
                "it claims {length} bytes, the file has {} in all",
                file.len()
            ))
        })?;
    let mut header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&file[8..data_start]).map_err(|error| header_error(error.to_string()))?;
    header.remove("__metadata__");
    let data = file.slice(data_start..file.len());
    header
        .into_iter()
        .map(|(name, info)| match tensor(&data, info) {
            Ok(tensor) => Ok((name, tensor)),
            Err(reason) => Err((format!("tensor {name}"), reason)),
        })
        .collect()
}

fn tensor(data: &SharedBytes, info: serde_json::Value) -> Result<RawTensor, String> {
    let TensorInfo {
        dtype,
        shape,
        data_offsets: (start, end),
    } = serde_json::from_value(info).map_err(|error| error.to_string())?;
    if start > end || end > data.len() {
        return Err(format!(
            "its data is at {start}..{end}, the file has {} bytes of data (is it truncated?)",
            data.len()
        ));
    }
    let storage = storage(dtype);
    if let Storage::Known(format) = storage {
        let expected = shape
            .iter()
            .try_fold(1_usize, |product, &dim| product.checked_mul(dim))
            .and_then(|elements| elements.checked_mul(format.block_bytes()));
        if expected != Some(end - start) {
            return Err(format!(
                "{dtype} of shape {shape:?} does not take {} bytes",
                end - start
            ));
        }
    }
    Ok(RawTensor {
        storage,
        shape,
        bytes: data.slice(start..end),
    })
}

fn storage(dtype: Dtype) -> Storage {
    match dtype {
        Dtype::F32 => Storage::Known(WeightFormat::F32),
        Dtype::F16 => Storage::Known(WeightFormat::F16),
        Dtype::BF16 => Storage::Known(WeightFormat::BF16),
        other => Storage::Other(other.to_string()),
    }
}
