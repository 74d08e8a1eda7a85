//! What a model is for, as the API knows it: more than this version serves.

use std::str::FromStr;

use ferrum_engine::Task;

/// A word of `spec.task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelTask {
    /// Text from messages or a prompt.
    Chat,
    /// A vector from text.
    Embedding,
    /// Text from speech.
    Transcription,
    /// Speech from text.
    Speech,
}

impl ModelTask {
    /// Every task, in the order of documentation.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Embedding, Self::Transcription, Self::Speech];

    /// The word in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embedding => "embedding",
            Self::Transcription => "transcription",
            Self::Speech => "speech",
        }
    }

    /// The engine's task; `None` for one that this version does not serve.
    pub const fn served(self) -> Option<Task> {
        match self {
            Self::Chat => Some(Task::Chat),
            Self::Embedding => Some(Task::Embedding),
            Self::Transcription | Self::Speech => None,
        }
    }
}

impl FromStr for ModelTask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|task| task.as_str() == text);
        found.ok_or_else(|| {
            format!("unknown task `{text}`: expected chat, embedding, transcription or speech")
        })
    }
}
