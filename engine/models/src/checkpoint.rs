//! A checkpoint on disk: what it says of itself, and how it is loaded.

use std::path::{Path, PathBuf};

use ferrum_engine::{DefaultSampling, Dtype, Quantization, Task};
use ferrum_kernels::Backend;
use tokenizers::Tokenizer;

use crate::{LoadError, Model};

/// How a checkpoint is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Element type of matrices that are not quantized: they are converted at load; `Auto` keeps the file's.
    pub dtype: Dtype,
    /// What the weights must be; anything else is refused.
    pub quantization: Quantization,
    /// Most tokens of a sequence; `None` takes the model's own maximum, more than that is refused.
    pub max_model_len: Option<usize>,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Called with tensors done and tensors in all, after each.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

impl Default for LoadOptions<'_> {
    /// Everything as the checkpoint has it; steps of 512 tokens and 32 sequences.
    fn default() -> Self {
        Self {
            dtype: Dtype::Auto,
            quantization: Quantization::Auto,
            max_model_len: None,
            max_num_batched_tokens: 512,
            max_num_seqs: 32,
            progress: None,
        }
    }
}

/// What a checkpoint says of itself: the model's share of a [`ModelCard`](ferrum_engine::ModelCard).
#[derive(Clone, Debug, PartialEq)]
pub struct CardFacts {
    /// What the model is for.
    pub task: Task,
    /// `llama`, `qwen2`, `bert`, ….
    pub architecture: String,
    /// Storage of most weights as they are in the file: `f32`, `f16`, `bf16`, `gguf Q4_1`, ….
    pub weights: String,
    /// Parameters.
    pub num_parameters: u64,
    /// Entries of the vocabulary; a token id is below it.
    pub vocab_size: usize,
    /// Most tokens that the model was made for.
    pub max_model_len: usize,
    /// Elements of an embedding; 0 for other tasks.
    pub embedding_dims: usize,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
    /// Text of the begin-of-sequence token.
    pub bos_token: Option<String>,
    /// Text of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// Ids that end a generation.
    pub stop_token_ids: Vec<u32>,
    /// Sampling defaults of the checkpoint.
    pub default_sampling: DefaultSampling,
}

/// A checkpoint whose description was read and checked; its weights are not yet read.
///
/// It can be shared between threads: the tokenizer may be built while the weights are loaded.
pub struct Checkpoint {
    path: PathBuf,
    facts: CardFacts,
}

/// Opens a folder in the layout of Hugging Face, or a `.gguf` file.
///
/// # Errors
/// See [`LoadError`].
pub fn open(path: &Path) -> Result<Checkpoint, LoadError> {
    Err(LoadError::NotACheckpoint {
        path: path.to_owned(),
        reason: "reading is not part of this build".to_owned(),
    })
}

impl Checkpoint {
    /// Folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub fn facts(&self) -> &CardFacts {
        &self.facts
    }

    /// Builds the tokenizer; it adds the special tokens that the checkpoint asks for when it is told to.
    ///
    /// # Errors
    /// [`LoadError::MissingTokenizer`], [`LoadError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        Err(LoadError::MissingTokenizer {
            path: self.path.clone(),
            expected: "tokenizer.json",
        })
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load<B: Backend>(&self, backend: &B, options: &LoadOptions<'_>) -> Result<Model<B>, LoadError> {
        let _ = (backend, options);
        Err(LoadError::NotACheckpoint {
            path: self.path.clone(),
            reason: "loading is not part of this build".to_owned(),
        })
    }
}
