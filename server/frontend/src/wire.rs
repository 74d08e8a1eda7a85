//! The two shapes in which answers are sent: chat and completion, whole and in chunks.

use bytes::Bytes;
use ferrum_api::{
    ChatLogprobs, CompletionLogprobs, Usage,
    chat::{
        ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatDelta, ChatResponseMessage,
    },
    completions::{Completion, CompletionChoice},
};
use ferrum_engine::FinishReason;
use serde::Serialize;

use crate::{app::unix_seconds, sequence::Delta};

/// What every chunk and answer of one request says.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Header {
    /// A new answer of `model`, named with `prefix`.
    pub(crate) fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: unix_seconds(),
            model: model.to_owned(),
        }
    }
}

/// One answer, complete.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) delta: Delta,
    /// Text before it (`echo`).
    pub(crate) echo: String,
}

/// A shape of answers.
pub(crate) trait Wire: Send + 'static {
    /// Whether log probabilities were asked for.
    fn new(header: Header, logprobs: bool) -> Self;

    /// What an answer begins with, as an SSE event.
    fn begin(&mut self, index: u32, echo: &str) -> Option<Bytes>;

    /// A piece of an answer; the last one also as the event that ends it.
    fn piece(&mut self, delta: Delta) -> Vec<Bytes>;

    /// The chunk without choices that carries the usage.
    fn usage(&self, usage: Usage) -> Bytes;

    /// All answers as one body.
    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> Vec<u8>;
}

/// `/v1/chat/completions`.
pub(crate) struct ChatWire {
    header: Header,
    logprobs: bool,
}

impl ChatWire {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> Bytes {
        let Header { id, created, model } = self.header.clone();
        let object = "chat.completion.chunk".to_owned();
        event(&ChatCompletionChunk {
            id,
            object,
            created,
            model,
            choices,
            usage,
        })
    }

    fn logprobs(&self, delta: &mut Delta) -> Option<ChatLogprobs> {
        let content = std::mem::take(&mut delta.logprobs);
        (self.logprobs && !content.is_empty()).then_some(ChatLogprobs { content })
    }
}

impl Wire for ChatWire {
    fn new(header: Header, logprobs: bool) -> Self {
        Self { header, logprobs }
    }

    fn begin(&mut self, index: u32, _echo: &str) -> Option<Bytes> {
        let delta = ChatDelta {
            role: Some("assistant".to_owned()),
            content: Some(String::new()),
        };
        Some(self.chunk(
            vec![ChatChunkChoice {
                index,
                delta,
                ..ChatChunkChoice::default()
            }],
            None,
        ))
    }

    fn piece(&mut self, mut delta: Delta) -> Vec<Bytes> {
        let mut events = Vec::with_capacity(2);
        let index = delta.index;
        let logprobs = self.logprobs(&mut delta);
        if !delta.text.is_empty() || logprobs.is_some() {
            let choice = ChatChunkChoice {
                index,
                delta: ChatDelta {
                    role: None,
                    content: Some(delta.text),
                },
                logprobs,
                finish_reason: None,
            };
            events.push(self.chunk(vec![choice], None));
        }
        if let Some((reason, _)) = delta.end {
            let finish_reason = Some(reason.to_string());
            let choice = ChatChunkChoice {
                index,
                finish_reason,
                ..ChatChunkChoice::default()
            };
            events.push(self.chunk(vec![choice], None));
        }
        events
    }

    fn usage(&self, usage: Usage) -> Bytes {
        self.chunk(Vec::new(), Some(usage))
    }

    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> Vec<u8> {
        let choices = answers.into_iter().map(|Answer { mut delta, .. }| ChatChoice {
            index: delta.index,
            logprobs: self.logprobs(&mut delta),
            finish_reason: finish_reason(&delta),
            message: ChatResponseMessage {
                role: "assistant".to_owned(),
                content: delta.text,
                refusal: None,
            },
        });
        let choices = choices.collect();
        let Header { id, created, model } = self.header.clone();
        json(&ChatCompletion {
            id,
            object: "chat.completion".to_owned(),
            created,
            model,
            choices,
            usage,
        })
    }
}

/// `/v1/completions`.
pub(crate) struct CompletionWire {
    header: Header,
    logprobs: bool,
    /// Characters of each answer sent so far.
    offsets: Vec<usize>,
}

impl CompletionWire {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        let Header { id, created, model } = self.header.clone();
        Completion {
            id,
            object: "text_completion".to_owned(),
            created,
            model,
            choices,
            usage,
        }
    }

    fn offset(&mut self, index: u32) -> &mut usize {
        let index = index as usize;
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        &mut self.offsets[index]
    }

    fn choice(&mut self, delta: Delta) -> CompletionChoice {
        let finish_reason = delta.end.map(|(reason, _)| reason.to_string());
        let offset = *self.offset(delta.index);
        *self.offset(delta.index) += delta.text.chars().count();
        let logprobs = (self.logprobs && !delta.logprobs.is_empty()).then(|| {
            let mut logprobs = CompletionLogprobs::default();
            let mut place = offset;
            for token in delta.logprobs {
                let top = token
                    .top_logprobs
                    .into_iter()
                    .map(|top| (top.token, top.logprob.into()));
                logprobs.top_logprobs.push(top.collect());
                logprobs.token_logprobs.push(token.logprob);
                logprobs.text_offset.push(place);
                place += token.token.chars().count();
                logprobs.tokens.push(token.token);
            }
            logprobs
        });
        CompletionChoice {
            index: delta.index,
            text: delta.text,
            logprobs,
            finish_reason,
        }
    }
}

impl Wire for CompletionWire {
    fn new(header: Header, logprobs: bool) -> Self {
        Self {
            header,
            logprobs,
            offsets: Vec::new(),
        }
    }

    fn begin(&mut self, index: u32, echo: &str) -> Option<Bytes> {
        *self.offset(index) += echo.chars().count();
        let choice = CompletionChoice {
            index,
            text: echo.to_owned(),
            ..CompletionChoice::default()
        };
        (!echo.is_empty()).then(|| event(&self.completion(vec![choice], None)))
    }

    fn piece(&mut self, delta: Delta) -> Vec<Bytes> {
        let choice = self.choice(delta);
        vec![event(&self.completion(vec![choice], None))]
    }

    fn usage(&self, usage: Usage) -> Bytes {
        event(&self.completion(Vec::new(), Some(usage)))
    }

    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> Vec<u8> {
        let choices = answers.into_iter().map(|Answer { delta, echo }| {
            *self.offset(delta.index) += echo.chars().count();
            let mut choice = self.choice(delta);
            choice.text.insert_str(0, &echo);
            choice
        });
        let choices = choices.collect();
        json(&self.completion(choices, Some(usage)))
    }
}

/// One event of a stream.
pub(crate) fn event(data: &impl Serialize) -> Bytes {
    let mut bytes = b"data: ".to_vec();
    bytes.extend(json(data));
    bytes.extend(b"\n\n");
    bytes.into()
}

pub(crate) fn json(data: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(data).expect("wire types have string keys and no failing serializer")
}

fn finish_reason(delta: &Delta) -> String {
    delta
        .end
        .map_or(FinishReason::Stop, |(reason, _)| reason)
        .to_string()
}
