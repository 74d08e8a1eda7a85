//! Which files of a repository an engine needs: weights once, in one format, and what describes them.
//!
//! Pure: the same choice is made over the hub's listing, a folder that is imported and a snapshot in the cache.

use super::reference::{Choice, has_gguf_extension};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepoFile {
    /// Path inside of the repository, with `/`.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Name of its blob: the SHA-256 of a large file, git's object id of a small one.
    pub(crate) etag: String,
    /// SHA-256 of the content, where the hub tells it.
    pub(crate) sha256: Option<String>,
}

/// The files to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection<'a> {
    /// Descriptions first, weights last: a snapshot whose weights are there has everything.
    pub(crate) files: Vec<&'a RepoFile>,
    /// What the engine opens.
    pub(crate) entry: Entry<'a>,
}

/// What the engine opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// The folder: safetensors beside config.json.
    Folder,
    /// One GGUF file.
    Gguf(&'a str),
}

/// Why no files can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectError {
    /// The weights of an adapter.
    #[error("it holds a LoRA adapter and no model; name the base model")]
    Adapter,
    /// Several GGUF files and no word which.
    #[error("it holds several GGUF files: {}", .labels.join(", "))]
    Ambiguous {
        /// Their quantizations.
        labels: Vec<String>,
    },
    /// A file that was named is not there.
    #[error("it has no file {file}{}", list(" (it has ", .available))]
    NoSuchFile {
        /// What was asked for.
        file: String,
        /// GGUF files there are.
        available: Vec<String>,
    },
    /// No GGUF file of this quantization.
    #[error("it has no GGUF file of quantization {label}{}", list(" (it has ", .available))]
    NoSuchQuantization {
        /// What was asked for.
        label: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Weights in formats that are not read.
    #[error("it has no safetensors and no GGUF weights{}", list(" (only ", .found))]
    NoWeights {
        /// Weights of other formats.
        found: Vec<String>,
    },
    /// The description is missing.
    #[error("it has no {0}, which safetensors weights need beside them")]
    Missing(&'static str),
    /// A GGUF file in parts.
    #[error("its GGUF file {0} is one part of several; split GGUF files are not read, name another file")]
    SplitGguf(String),
}

/// Chooses from `files`.
///
/// # Errors
/// See [`SelectError`].
pub(crate) fn select<'a>(files: &'a [RepoFile], choice: &Choice) -> Result<Selection<'a>, SelectError> {
    let ggufs: Vec<_> = files.iter().filter(|file| is_gguf_model(&file.path)).collect();
    match choice {
        Choice::File(name) => match ggufs.iter().find(|file| file.path == *name) {
            Some(file) => gguf(file),
            None => Err(SelectError::NoSuchFile {
                file: name.clone(),
                available: paths(&ggufs),
            }),
        },
        Choice::Quantization(label) => by_label(&ggufs, label),
        Choice::Auto => {
            let shards: Vec<_> = files
                .iter()
                .filter(|file| is_safetensors_weight(&file.path))
                .collect();
            match (shards.is_empty(), ggufs.as_slice()) {
                (false, _) => folder(files, shards),
                (true, [file]) => gguf(file),
                (true, []) => Err(no_weights(files)),
                (true, many) => Err(SelectError::Ambiguous { labels: labels(many) }),
            }
        }
    }
}

/// The quantization that a GGUF file's name tells: `Q4_K_M` of `model-7b.Q4_K_M.gguf`.
pub(crate) fn quantization_label(path: &str) -> Option<String> {
    let stem = path
        .rsplit('/')
        .next()?
        .get(..path.rsplit('/').next()?.len().checked_sub(5)?)?;
    stem.split(['-', '.'])
        .rev()
        .map(str::to_ascii_uppercase)
        .find(|part| {
            let digits = part
                .strip_prefix("IQ")
                .or_else(|| part.strip_prefix('Q'))
                .or_else(|| part.strip_prefix("TQ"));
            matches!(part.as_str(), "F16" | "F32" | "BF16" | "MXFP4")
                || digits
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('_'))
        })
}

fn gguf(file: &RepoFile) -> Result<Selection<'_>, SelectError> {
    if shard_of(&file.path, ".gguf").is_some() {
        return Err(SelectError::SplitGguf(file.path.clone()));
    }
    Ok(Selection {
        files: vec![file],
        entry: Entry::Gguf(&file.path),
    })
}

fn by_label<'a>(ggufs: &[&'a RepoFile], label: &str) -> Result<Selection<'a>, SelectError> {
    let wanted = label.to_ascii_uppercase();
    let has_label = |file: &&&RepoFile| quantization_label(&file.path).is_some_and(|found| found == wanted);
    let matching: Vec<_> = ggufs.iter().filter(has_label).collect();
    match matching.as_slice() {
        [] => Err(SelectError::NoSuchQuantization {
            label: label.to_owned(),
            available: labels(ggufs),
        }),
        [file] => gguf(file),
        [file, ..] if shard_of(&file.path, ".gguf").is_some() => gguf(file),
        many => Err(SelectError::Ambiguous {
            labels: many.iter().map(|file| file.path.clone()).collect(),
        }),
    }
}

fn folder<'a>(files: &'a [RepoFile], mut weights: Vec<&'a RepoFile>) -> Result<Selection<'a>, SelectError> {
    let has = |path: &str| files.iter().any(|file| file.path == path);
    if !has("config.json") {
        let adapter = has("adapter_config.json");
        return Err(if adapter {
            SelectError::Adapter
        } else {
            SelectError::Missing("config.json")
        });
    }
    if !has("tokenizer.json") {
        return Err(SelectError::Missing("tokenizer.json"));
    }
    // A repository may hold both the whole and its shards; the whole is one file less to open.
    if weights.iter().any(|file| file.path == "model.safetensors") {
        weights.retain(|file| file.path == "model.safetensors");
    }
    let mut chosen: Vec<_> = files.iter().filter(|file| is_description(&file.path)).collect();
    chosen.extend(weights);
    Ok(Selection {
        files: chosen,
        entry: Entry::Folder,
    })
}

fn no_weights(files: &[RepoFile]) -> SelectError {
    if files.iter().any(|file| file.path == "adapter_config.json") {
        return SelectError::Adapter;
    }
    let other = [
        ".bin",
        ".pt",
        ".pth",
        ".onnx",
        ".h5",
        ".msgpack",
        ".safetensors",
        ".nemo",
    ];
    let is_other = |file: &&RepoFile| other.iter().any(|end| file.path.ends_with(end));
    let found = files
        .iter()
        .filter(is_other)
        .map(|file| file.path.clone())
        .take(4)
        .collect();
    SelectError::NoWeights { found }
}

/// `model.safetensors` or a shard of it. `consolidated.safetensors` and the folders `original/`, `onnx/` hold the
/// same weights again in other layouts.
fn is_safetensors_weight(path: &str) -> bool {
    path == "model.safetensors" || (path.starts_with("model-") && shard_of(path, ".safetensors").is_some())
}

/// Weights of a language model: not the vision projector that some repositories keep beside it.
fn is_gguf_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    has_gguf_extension(&name) && !name.starts_with("mmproj") && !name.contains("imatrix")
}

/// `(2, 3)` of `model-00002-of-00003.safetensors`.
fn shard_of(path: &str, extension: &str) -> Option<(u32, u32)> {
    let (rest, total) = path.strip_suffix(extension)?.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    Some((number.parse().ok()?, total.parse().ok()?))
}

/// Configuration, tokenizer and template: at the root, and what sentence-transformers keeps in `N_Module/`.
fn is_description(path: &str) -> bool {
    if let Some((folder, file)) = path.split_once('/') {
        return file == "config.json"
            && folder.starts_with(|c: char| c.is_ascii_digit())
            && folder.contains('_');
    }
    const TOKENIZER: [&str; 4] = [
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "chat_template.jinja",
    ];
    (path.ends_with(".json") && !path.ends_with(".bin.index.json")) || TOKENIZER.contains(&path)
}

fn labels(files: &[&RepoFile]) -> Vec<String> {
    files
        .iter()
        .map(|file| quantization_label(&file.path).unwrap_or_else(|| file.path.clone()))
        .collect()
}

fn paths(files: &[&RepoFile]) -> Vec<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

fn list(start: &str, items: &[String]) -> String {
    if items.is_empty() {
        String::new()
    } else {
        format!("{start}{})", items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(paths: &[&str]) -> Vec<RepoFile> {
        let file = |path: &&str| RepoFile {
            path: (*path).to_owned(),
            size: 1,
            etag: "e".to_owned(),
            sha256: None,
        };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str], choice: &Choice) -> Result<Vec<String>, SelectError> {
        let files = repo(paths);
        select(&files, choice).map(|selection| selection.files.iter().map(|file| file.path.clone()).collect())
    }

    fn label(text: &str) -> Choice {
        Choice::Quantization(text.to_owned())
    }

    #[test]
    fn safetensors_come_with_their_description_and_without_duplicates() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/params.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
            "tokenizer.model",
            "1_Pooling/config.json",
        ];
        let expected = [
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer.model",
            "1_Pooling/config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen(&all, &Choice::Auto).expect("selects"), expected);
    }

    #[test]
    fn a_lone_gguf_is_chosen_and_several_need_a_word() {
        let two = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m.gguf", "README.md"];
        assert_eq!(
            chosen(&["m.gguf", "x.md"], &Choice::Auto).expect("selects"),
            ["m.gguf"]
        );
        assert_eq!(chosen(&two, &label("q8_0")).expect("selects"), ["m-Q8_0.gguf"]);
        assert_eq!(
            chosen(&two, &Choice::File("m-Q8_0.gguf".into())).expect("selects"),
            ["m-Q8_0.gguf"]
        );
        let labels = vec!["Q4_K_M".to_owned(), "Q8_0".to_owned()];
        assert_eq!(
            chosen(&two, &Choice::Auto),
            Err(SelectError::Ambiguous {
                labels: labels.clone()
            })
        );
        let missing = SelectError::NoSuchQuantization {
            label: "Q4_K".to_owned(),
            available: labels,
        };
        assert_eq!(chosen(&two, &label("Q4_K")), Err(missing));
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_its_reason() {
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(chosen(&adapter, &Choice::Auto), Err(SelectError::Adapter));
        let torch = SelectError::NoWeights {
            found: vec!["pytorch_model.bin".to_owned()],
        };
        assert_eq!(
            chosen(&["config.json", "pytorch_model.bin"], &Choice::Auto),
            Err(torch)
        );
        let bare = SelectError::Missing("tokenizer.json");
        assert_eq!(
            chosen(&["config.json", "model.safetensors"], &Choice::Auto),
            Err(bare)
        );
        let split = "m-Q8_0-00001-of-00002.gguf";
        assert_eq!(
            chosen(&[split], &Choice::Auto),
            Err(SelectError::SplitGguf(split.to_owned()))
        );
    }

    #[test]
    fn a_quantization_is_read_from_the_name() {
        for (path, expected) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("d/qwen2.5-0.5b-instruct-q4_k_m.gguf", Some("Q4_K_M")),
            ("model-f16.gguf", Some("F16")),
            ("m-IQ3_XS.gguf", Some("IQ3_XS")),
            ("Qwen3-0.6B.gguf", None),
            (".gguf", None),
        ] {
            assert_eq!(quantization_label(path).as_deref(), expected, "{path}");
        }
    }
}
