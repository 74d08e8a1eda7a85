//! A checkpoint on disk: what it says of itself, and how it is loaded.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferrum_engine::{DefaultSampling, Dtype, OutputLayer, Quantization, Task};
use ferrum_kernels::Backend;
use tokenizers::Tokenizer;

use crate::{
    BatchLimits, LoadError, Model,
    config::{GptqConfig, GptqRules, RawConfig, generation::Generation},
    families::Limits,
    registry::{self, FamilyConfig},
    tokenizer::{self, ChatTexts},
    weights::{RawTensor, Weights, gguf::GgufFile, gptq, loader::WeightLoader, safetensors, summarize},
};

/// How a checkpoint is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Element type of matrices that are not quantized: they are converted at load; `Auto` keeps the file's.
    pub dtype: Dtype,
    /// What the weights must be; anything else is refused.
    pub quantization: Quantization,
    /// How the output layer is kept.
    pub output_layer: OutputLayer,
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
            output_layer: OutputLayer::Auto,
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
    /// Storage of most weights as they are in the file: `f32`, `f16`, `bf16`, `gguf Q4_1`, `gptq int4 g128`, ….
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

/// A checkpoint whose description was read and checked; its weights are mapped and not yet read.
///
/// It can be shared between threads: the tokenizer may be built while the weights are loaded.
pub struct Checkpoint {
    path: PathBuf,
    facts: CardFacts,
    family: FamilyConfig,
    source: Source,
}

enum Source {
    Folder(Folder),
    Gguf(Arc<GgufFile>),
}

struct Folder {
    tensors: HashMap<String, RawTensor>,
    gptq: Option<GptqConfig>,
}

/// Opens a folder in the layout of Hugging Face, or a `.gguf` file (also the only one in a folder without
/// config.json).
///
/// # Errors
/// See [`LoadError`].
pub fn open(path: &Path) -> Result<Checkpoint, LoadError> {
    let metadata = fs::metadata(path).map_err(|source| LoadError::Io {
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_dir() && path.join("config.json").exists() {
        open_folder(path)
    } else if metadata.is_dir() {
        open_gguf(&only_gguf(path)?)
    } else if path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
    {
        open_gguf(path)
    } else {
        Err(LoadError::NotACheckpoint {
            path: path.to_owned(),
            reason: "it is a file without the ending .gguf".to_owned(),
        })
    }
}

fn open_folder(folder: &Path) -> Result<Checkpoint, LoadError> {
    let raw = RawConfig::read_json(&folder.join("config.json"))?;
    let rules = GptqRules::read(&raw, folder)?;
    let family = registry::probe(&raw)?;
    let tensors = safetensors::read_folder(folder)?;
    let (format, mut num_parameters) = summarize(tensors.values());
    let mut weights = format.map_or_else(|| "none".to_owned(), |format| format.to_string().to_lowercase());
    let gptq = match rules {
        Some(rules) => Some(rules.of_layers(gptq::modules(tensors.keys()))?),
        None => None,
    };
    if let Some(config) = &gptq {
        if gptq::modules(tensors.keys()).next().is_none() {
            return Err(LoadError::Corrupt {
                path: folder.to_owned(),
                what: "quantization".to_owned(),
                reason: "the configuration says gptq, and there is no tensor that ends with .qweight"
                    .to_owned(),
            });
        }
        weights = config.label();
        num_parameters = tensors
            .iter()
            .map(|(name, tensor)| gptq::num_parameters(name, tensor))
            .sum();
    }
    let generation = Generation::read_folder(folder, &raw)?;
    let texts = ChatTexts::read_folder(folder)?;
    Ok(Checkpoint {
        path: folder.to_owned(),
        facts: card_facts(&family, (weights, num_parameters), generation, texts),
        family,
        source: Source::Folder(Folder { tensors, gptq }),
    })
}

fn open_gguf(path: &Path) -> Result<Checkpoint, LoadError> {
    let file = Arc::new(GgufFile::read(path)?);
    let family = registry::probe(&RawConfig::from_gguf(Arc::clone(&file)))?;
    let (format, num_parameters) = summarize(file.tensors.values());
    let weights = format.map_or_else(|| "none".to_owned(), |format| format!("gguf {format}"));
    let (generation, texts) = (Generation::read_gguf(&file), ChatTexts::read_gguf(&file));
    Ok(Checkpoint {
        path: path.to_owned(),
        facts: card_facts(&family, (weights, num_parameters), generation, texts),
        family,
        source: Source::Gguf(file),
    })
}

fn only_gguf(folder: &Path) -> Result<PathBuf, LoadError> {
    let entries = fs::read_dir(folder).map_err(|source| LoadError::Io {
        path: folder.to_owned(),
        source,
    })?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "gguf"))
        .collect();
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (found, more) => Err(LoadError::NotACheckpoint {
            path: folder.to_owned(),
            reason: match found {
                None => "there is no config.json".to_owned(),
                Some(_) => format!("there are {} .gguf files; name one of them", more + 1),
            },
        }),
    }
}

fn card_facts(
    family: &FamilyConfig,
    (weights, num_parameters): (String, u64),
    generation: Generation,
    texts: ChatTexts,
) -> CardFacts {
    let description = family.describe();
    CardFacts {
        task: description.task,
        architecture: description.architecture,
        weights,
        num_parameters,
        vocab_size: description.vocab_size,
        max_model_len: description.max_model_len,
        embedding_dims: description.embedding_dims,
        chat_template: texts.template,
        bos_token: texts.bos_token,
        eos_token: texts.eos_token,
        stop_token_ids: generation.stop_token_ids,
        default_sampling: generation.sampling,
    }
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
        match &self.source {
            Source::Folder(_) => tokenizer::read_folder(&self.path),
            Source::Gguf(file) => tokenizer::build_gguf(file),
        }
    }

    /// Refuses a number of devices that the model cannot be split over; [`Self::load`] does so too.
    ///
    /// # Errors
    /// [`LoadError::Option`] with what is allowed.
    pub fn check_ranks(&self, count: usize) -> Result<(), LoadError> {
        self.family.check_ranks(count)
    }

    /// Loads the weights, or the part of the backend's rank.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load<B: Backend>(&self, backend: &B, options: &LoadOptions<'_>) -> Result<Model<B>, LoadError> {
        let limits = self.limits(options)?;
        self.check_ranks(backend.rank().count)?;
        let weights = match &self.source {
            Source::Folder(Folder { tensors, gptq }) => {
                let tensors = tensors
                    .iter()
                    .map(|(name, tensor)| (name.clone(), tensor.clone()));
                Weights::new(&self.path, tensors).with_gptq(gptq.clone())
            }
            Source::Gguf(file) => {
                let mut weights = file.weights();
                self.family.arrange_gguf(&mut weights);
                weights
            }
        };
        self.check_quantization(options.quantization, &weights)?;
        let loader = WeightLoader::new(backend, &weights, options);
        let model = self.family.load(&loader, limits)?;
        let there = backend.await_weights();
        there.map_err(|source| loader.failed("the weights", source))?;
        Ok(model)
    }

    /// Bytes of all tensors in the files.
    pub fn weight_bytes(&self) -> u64 {
        let tensors = match &self.source {
            Source::Folder(folder) => &folder.tensors,
            Source::Gguf(file) => &file.tensors,
        };
        tensors.values().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    fn limits(&self, options: &LoadOptions<'_>) -> Result<Limits, LoadError> {
        let positive = |option: &'static str, value: usize| match value {
            0 => Err(refuse_option(option, value, "1 or more")),
            value => Ok(value),
        };
        let own = self.facts.max_model_len;
        let max_model_len = positive("max_model_len", options.max_model_len.unwrap_or(own))?;
        if max_model_len > own {
            return Err(refuse_option(
                "max_model_len",
                max_model_len,
                format!("at most the model's {own}"),
            ));
        }
        Ok(Limits {
            step: BatchLimits {
                max_num_batched_tokens: positive("max_num_batched_tokens", options.max_num_batched_tokens)?,
                max_num_seqs: positive("max_num_seqs", options.max_num_seqs)?,
            },
            max_model_len,
        })
    }

    fn check_quantization(&self, wanted: Quantization, weights: &Weights) -> Result<(), LoadError> {
        let found = match &self.source {
            Source::Gguf(_) => Quantization::Gguf,
            Source::Folder(folder) if folder.gptq.is_some() => Quantization::GptqInt4,
            Source::Folder(_) => Quantization::None,
        };
        // A GGUF file may hold dense weights only.
        let is_dense = wanted == Quantization::None && !weights.is_quantized();
        if wanted == Quantization::Auto || wanted == found || is_dense {
            return Ok(());
        }
        let allowed = format!("auto or {found}");
        let allowed = format!(
            "{allowed}, as {} has {} weights",
            self.path.display(),
            self.facts.weights
        );
        Err(refuse_option("quantization", wanted, allowed))
    }
}

fn refuse_option(
    option: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<String>,
) -> LoadError {
    LoadError::Option {
        option,
        value: value.to_string(),
        allowed: allowed.into(),
    }
}
