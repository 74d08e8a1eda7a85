//! Tensors by name, as the files hold them.

pub(crate) mod convert;
pub(crate) mod gguf;
pub(crate) mod gptq;
pub(crate) mod loader;
pub(crate) mod mapped;
pub(crate) mod safetensors;
pub(crate) mod slice;

use std::{
    cell::Cell,
    collections::HashMap,
    path::{Path, PathBuf},
};

use ferrum_kernels::{HostTensor, SharedBytes, WeightFormat};

use crate::{LoadError, config::GptqConfig, shard::Extent};

/// The formats that a matrix may have, for messages.
pub(crate) const ALLOWED_FORMATS: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

/// How the elements of a tensor are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// A format that a backend may take.
    Known(WeightFormat),
    /// Another one (integers of a buffer, mostly), by the file's name for it; an error only where it is used.
    Other(String),
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor {
    /// How it is stored.
    pub(crate) storage: Storage,
    /// Outermost dimension first; empty for a scalar.
    pub(crate) shape: Vec<usize>,
    /// Its bytes, as many as storage and shape say (checked where it was read).
    pub(crate) bytes: SharedBytes,
}

impl RawTensor {
    pub(crate) fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors of a checkpoint under the names of Hugging Face, and which of them a model has taken.
pub(crate) struct Weights {
    path: PathBuf,
    tensors: HashMap<String, Entry>,
    gptq: Option<GptqConfig>,
}

struct Entry {
    tensor: RawTensor,
    /// Heads whose rows llama.cpp has interleaved, or 0; see [`convert::restore_head_rows`].
    interleaved_heads: usize,
    used: Cell<bool>,
}

impl Weights {
    pub(crate) fn new(path: &Path, tensors: impl IntoIterator<Item = (String, RawTensor)>) -> Self {
        let entry = |tensor| Entry {
            tensor,
            interleaved_heads: 0,
            used: Cell::new(false),
        };
        Self {
            path: path.to_owned(),
            tensors: tensors.into_iter().map(|(name, t)| (name, entry(t))).collect(),
            gptq: None,
        }
    }

    /// Says how GPTQ has quantized some of the matrices, if it has.
    pub(crate) fn with_gptq(self, gptq: Option<GptqConfig>) -> Self {
        Self { gptq, ..self }
    }

    /// Says that the rows of every tensor whose name ends so hold the halves of `heads` heads interleaved.
    pub(crate) fn mark_interleaved(&mut self, name_end: &str, heads: usize) {
        for (name, entry) in &mut self.tensors {
            if name.ends_with(name_end) {
                entry.interleaved_heads = heads;
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Tensors that were taken.
    pub(crate) fn taken(&self) -> usize {
        self.tensors.values().filter(|entry| entry.used.get()).count()
    }

    /// Whether any tensor is quantized.
    pub(crate) fn is_quantized(&self) -> bool {
        if self.gptq.is_some() && gptq::modules(self.tensors.keys()).next().is_some() {
            return true;
        }
        let in_blocks = |storage: &Storage| matches!(storage, Storage::Known(f) if f.block_len() > 1);
        self.tensors
            .values()
            .any(|entry| in_blocks(&entry.tensor.storage))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Columns that lie in one block, in the coarsest of the tensors whose name ends so; 1 if all are dense.
    pub(crate) fn largest_block(&self, name_end: &str) -> usize {
        let named = self.tensors.iter().filter(|(name, _)| name.ends_with(name_end));
        let blocks = named.map(|(_, entry)| match &entry.tensor.storage {
            Storage::Known(format) => format.block_len(),
            Storage::Other(_) => 1,
        });
        let grouped = self
            .gptq
            .as_ref()
            .map_or(1, |config| gptq::largest_block(self, config, name_end));
        blocks.max().unwrap_or(1).max(grouped)
    }

    /// Takes a matrix `(rows, cols)`, or the part of it.
    pub(crate) fn matrix(&self, name: &str, rows: Extent, cols: Extent) -> Result<HostTensor, LoadError> {
        let host = match (&self.gptq, name.strip_suffix(".weight")) {
            (Some(config), Some(module)) if gptq::is_quantized(self, module) => {
                gptq::take(self, config.of(module), module, (rows, cols.full))?
            }
            _ => self.take(name, &[rows.full, cols.full], rows)?,
        };
        slice::take_cols(host, cols).map_err(|block_len| LoadError::Option {
            option: "tensor_parallel",
            value: format!(
                "such that a rank has columns {}..{} of {name}",
                cols.range().start,
                cols.range().end
            ),
            allowed: format!("one that cuts at multiples of {block_len}, as these are blocks of it"),
        })
    }

    /// Takes a vector, or the part of it.
    pub(crate) fn vector(&self, name: &str, len: Extent) -> Result<HostTensor, LoadError> {
        let column = self.take(name, &[len.full], len)?;
        Ok(HostTensor {
            rows: 1,
            cols: len.len,
            ..column
        })
    }

    /// Takes a vector of `len` elements that the host itself reads.
    pub(crate) fn dense_vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let vector = self.vector(name, len.into())?;
        if vector.format.block_len() > 1 {
            return Err(self.unsupported(name, vector.format.to_string(), "F32, F16, BF16"));
        }
        Ok(convert::elements(&vector).collect())
    }

    /// Checks that every tensor was taken, those aside whose name contains one of `ignored`.
    pub(crate) fn finish(&self, ignored: &[&str]) -> Result<(), LoadError> {
        let mut left: Vec<&String> = self
            .tensors
            .iter()
            .filter(|(name, entry)| !entry.used.get() && !ignored.iter().any(|part| name.contains(part)))
            .filter(|(name, entry)| !self.is_blank_bias(name, &entry.tensor))
            .map(|(name, _)| name)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        left.sort();
        Err(LoadError::UnusedTensors {
            path: self.path.clone(),
            count: left.len(),
            examples: left.into_iter().take(3).cloned().collect(),
        })
    }

    /// Older quantizers gave every layer a bias, of zeros where the model has none.
    fn is_blank_bias(&self, name: &str, tensor: &RawTensor) -> bool {
        self.gptq.is_some()
            && name
                .strip_suffix(".bias")
                .is_some_and(|module| gptq::is_quantized(self, module))
            && tensor.bytes.iter().all(|&byte| byte == 0)
    }

    /// Rows of the outermost dimension; a vector comes as one column.
    fn take(&self, name: &str, shape: &[usize], rows: Extent) -> Result<HostTensor, LoadError> {
        let Entry {
            tensor,
            interleaved_heads,
            ..
        } = self.entry(name, shape)?;
        let format = match &tensor.storage {
            Storage::Known(format) => *format,
            Storage::Other(format) => return Err(self.unsupported(name, format.clone(), ALLOWED_FORMATS)),
        };
        let cols = shape.get(1).copied().unwrap_or(1);
        let host = HostTensor::new(format, rows.full, cols, tensor.bytes.clone());
        let part = slice::take_rows(host, rows);
        // Ranks have whole heads.
        let heads = interleaved_heads * rows.len / rows.full.max(1);
        Ok(match heads {
            0 => part,
            heads => convert::restore_head_rows(&part, heads),
        })
    }

    /// Takes a tensor of a shape, as it is stored.
    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry, LoadError> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(LoadError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            });
        };
        entry.used.set(true);
        if entry.tensor.shape != shape {
            return Err(LoadError::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: entry.tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        Ok(entry)
    }

    fn corrupt(&self, what: &str, reason: String) -> LoadError {
        LoadError::Corrupt {
            path: self.path.clone(),
            what: what.to_owned(),
            reason,
        }
    }

    fn unsupported(&self, name: &str, format: String, allowed: &'static str) -> LoadError {
        LoadError::UnsupportedFormat {
            path: self.path.clone(),
            tensor: name.to_owned(),
            format,
            allowed,
        }
    }
}

/// The format that holds most elements, and the elements in all.
pub(crate) fn summarize<'a>(tensors: impl IntoIterator<Item = &'a RawTensor>) -> (Option<WeightFormat>, u64) {
    let mut by_format: HashMap<WeightFormat, u64> = HashMap::new();
    for tensor in tensors {
        if let Storage::Known(format) = tensor.storage {
            *by_format.entry(format).or_default() += tensor.num_elements() as u64;
        }
    }
    let total = by_format.values().sum();
    let most = by_format
        .into_iter()
        .max_by_key(|&(format, count)| (count, format.block_len()));
    (most.map(|(format, _)| format), total)
}
