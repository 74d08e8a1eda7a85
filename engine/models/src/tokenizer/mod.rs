//! Text to ids and back, and the texts that a chat template needs.

mod gguf;
mod special;

use std::path::Path;

use tokenizers::Tokenizer;

pub(crate) use self::{gguf::build_gguf, special::ChatTexts};
use crate::LoadError;

const FILE: &str = "tokenizer.json";

/// Reads a folder's tokenizer.json. Its settings for truncation and padding, left over from training, are dropped:
/// a prompt is counted and refused, never cut.
pub(crate) fn read_folder(folder: &Path) -> Result<Tokenizer, LoadError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(LoadError::MissingTokenizer {
            path: folder.to_owned(),
            expected: FILE,
        });
    }
    let broken = |reason: String| LoadError::Tokenizer {
        path: path.clone(),
        reason,
    };
    let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| broken(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| broken(error.to_string()))?;
    Ok(tokenizer)
}
