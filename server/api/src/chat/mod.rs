//! `/v1/chat/completions`.

mod message;
mod request;
mod response;

pub use message::{ChatMessage, Content, ContentPart};
pub use request::ChatCompletionRequest;
pub use response::{
    ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatDelta, ChatResponseMessage,
};
