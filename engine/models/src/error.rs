//! Why a checkpoint cannot be loaded.

use std::{fmt, path::PathBuf};

use ferrum_kernels::BackendError;

/// Why a checkpoint cannot be loaded. Each message names the file, what is wrong in it, and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file that could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that is no model.
    #[error("{}: {reason}; expected a folder with config.json and *.safetensors, or a .gguf file", path.display())]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A file whose content contradicts itself or its length: truncated, damaged or hostile.
    #[error("{}: {what}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The tensor or the part of the file.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A configuration field with a value that is not allowed.
    #[error("{}: {field} is {value}; expected {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field as the file spells it.
        field: String,
        /// What it holds, or `missing`.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An architecture that no family accepts.
    #[error(
        "{}: architecture {architecture} is not supported: {}",
        path.display(),
        Reasons(refusals)
    )]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// What the file calls itself.
        architecture: String,
        /// Each family's reason.
        refusals: Vec<FamilyRefusal>,
    },
    /// An architecture that more than one family accepts: a mistake in the registry.
    #[error("{}: architecture {architecture} is claimed by {}", path.display(), families.join(" and "))]
    AmbiguousArchitecture {
        /// The file.
        path: PathBuf,
        /// What the file calls itself.
        architecture: String,
        /// Who claims it.
        families: Vec<&'static str>,
    },
    /// Weights in a quantization that this build has no code for.
    #[error("{}: {method} weights are not supported by this build; expected {allowed}", path.display())]
    UnsupportedQuantization {
        /// The file.
        path: PathBuf,
        /// As the checkpoint names it: `gptq`, `awq`, ….
        method: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A tensor in a storage format that this build has no code for.
    #[error("{}: tensor {tensor} is stored as {format}; expected one of {allowed}", path.display())]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// As the file names it.
        format: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// No tokenizer beside the weights.
    #[error("{}: no tokenizer: expected {expected}", path.display())]
    MissingTokenizer {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// A tokenizer that cannot be built.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A tensor that the architecture needs.
    #[error("{}: tensor {tensor} is missing", path.display())]
    MissingTensor {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("{}: tensor {tensor} has shape {found:?}; the configuration expects {expected:?}", path.display())]
    TensorShape {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// Tensors that the architecture has no place for: probably another architecture than the file says.
    #[error("{}: {count} tensors are not part of this architecture, such as {}", path.display(), examples.join(", "))]
    UnusedTensors {
        /// Folder or file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first of them.
        examples: Vec<String>,
    },
    /// A [`LoadOptions`](crate::LoadOptions) field that this model does not allow.
    #[error("{option} is {value}; expected {allowed}")]
    Option {
        /// The field.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// What the device said.
    #[error("{what}: {source}")]
    Backend {
        /// The tensor or buffer.
        what: String,
        /// The device's reason.
        source: BackendError,
    },
}

/// Why one family does not take a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRefusal {
    /// The family's name.
    pub family: &'static str,
    /// Its reason.
    pub reason: String,
}

struct Reasons<'a>(&'a [FamilyRefusal]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, refusal) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", refusal.family, refusal.reason)?;
        }
        Ok(())
    }
}
