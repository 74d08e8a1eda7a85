//! A conversation in the terminal.

use std::io::{self, Write as _};

use ferrum_api::{
    StreamOptions,
    chat::{ChatCompletionRequest, ChatMessage},
};

use super::{
    answer::{Stats, explain_end, stream_answer},
    command::{self, Input},
    lines::{Line, Lines},
    settings::Settings,
};
use crate::{client::ApiClient, exit};

/// Messages so far, and how the next is asked.
pub(crate) struct Conversation {
    /// OpenAI `model`.
    pub(crate) model: String,
    /// The system message.
    pub(crate) system: Option<String>,
    /// Sampling.
    pub(crate) settings: Settings,
    /// What was said, without the system message.
    pub(crate) messages: Vec<ChatMessage>,
}

impl Conversation {
    /// A request for the next answer.
    pub(crate) fn request(&self) -> ChatCompletionRequest {
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        let mut request = ChatCompletionRequest {
            model: self.model.clone(),
            messages: system.chain(self.messages.iter().cloned()).collect(),
            stream: Some(true),
            stream_options: Some(StreamOptions {
                include_usage: Some(true),
                ..StreamOptions::default()
            }),
            ..ChatCompletionRequest::default()
        };
        self.settings.apply(&mut request);
        request
    }
}

/// A conversation at the prompt.
pub(crate) struct Repl {
    /// Who answers.
    pub(crate) client: ApiClient,
    /// The conversation.
    pub(crate) conversation: Conversation,
    /// Whether figures follow each answer.
    pub(crate) show_stats: bool,
}

impl Repl {
    /// Talks until the person leaves.
    ///
    /// # Errors
    /// When the terminal is gone. An answer that fails is told, and the prompt comes again.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let lines = Lines::start(">>> ")?;
        let mut last = None;
        loop {
            let text = match lines.next().await? {
                Line::End => return Ok(()),
                Line::Interrupted => {
                    tell("Ctrl-D or /exit leaves.");
                    continue;
                }
                Line::Text(text) => text,
            };
            match Input::parse(&text) {
                Input::Exit => return Ok(()),
                Input::Help => tell(&command::help()),
                Input::Nothing => {}
                Input::Reset => {
                    self.conversation.messages.clear();
                    tell("The conversation is forgotten.");
                }
                Input::Set(None) => tell(&self.conversation.settings.lines().join("\n")),
                Input::Set(Some((name, value))) => {
                    if let Err(message) = self.conversation.settings.set(&name, &value) {
                        tell(&message);
                    }
                }
                Input::Stats => tell(
                    &last
                        .as_ref()
                        .map_or_else(|| "No answer yet.".to_owned(), Stats::line),
                ),
                Input::System(text) => self.conversation.system = Some(text).filter(|text| !text.is_empty()),
                Input::Text(text) => last = self.say(text).await?.or(last),
                Input::Unknown(message) => tell(&message),
            }
        }
    }

    /// Asks and prints; `None` when there was no answer.
    async fn say(&mut self, text: String) -> anyhow::Result<Option<Stats>> {
        self.conversation.messages.push(ChatMessage::new("user", text));
        let request = self.conversation.request();
        let mut out = io::stdout();
        let answer = match stream_answer(&self.client, &request, &mut out).await {
            Ok(answer) => answer,
            Err(error) => {
                // The question was not answered: it must not stand before the next one.
                self.conversation.messages.pop();
                writeln!(out)?;
                tell(&format!("error: {}", exit::describe(&error)));
                return Ok(None);
            }
        };
        if !answer.text.ends_with('\n') {
            writeln!(out)?;
        }
        explain_end(&answer);
        if self.show_stats {
            tell(&answer.stats.line());
        }
        if answer.text.is_empty() {
            // Stopped before a word came: as if the question had not been asked.
            self.conversation.messages.pop();
        } else {
            self.conversation
                .messages
                .push(ChatMessage::new("assistant", answer.text));
        }
        Ok(Some(answer.stats))
    }
}

fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
