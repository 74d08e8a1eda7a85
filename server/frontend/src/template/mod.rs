//! The model's chat template: messages to the text of a prompt.

mod python;
#[cfg(test)]
mod tests;
mod time;

use ferrum_engine::ModelCard;
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde,
};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Map;

/// Instructions that one rendering may take. A template takes some hundred for a message, so that this is reached
/// only by a template that does not end.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// What a rendering is made of.
pub(crate) struct Conversation<'a> {
    /// Messages as the template sees them: maps with `role`, `content` and what else they have.
    pub(crate) messages: &'a [Value],
    /// Begin the assistant's turn at the end.
    pub(crate) add_generation_prompt: bool,
    /// More variables.
    pub(crate) variables: &'a Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles the template of `card`; `None` where the model has none.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub(crate) fn compile(card: &ModelCard) -> Option<Result<Self, String>> {
        let source = card.chat_template.clone()?;
        Some(environment(source).map_err(describe).map(|environment| Self {
            environment,
            bos_token: card.bos_token.clone(),
            eos_token: card.eos_token.clone(),
        }))
    }

    /// The text of the prompt.
    ///
    /// # Errors
    /// The template's own message where it refuses the conversation, else what went wrong in it.
    pub(crate) fn render(&self, conversation: &Conversation<'_>) -> Result<String, String> {
        let fixed = context! {
            messages => conversation.messages,
            add_generation_prompt => conversation.add_generation_prompt,
            bos_token => self.bos_token.as_deref().unwrap_or_default(),
            eos_token => self.eos_token.as_deref().unwrap_or_default(),
            tools => (),
            documents => (),
        };
        let variables = Value::from(Serde(conversation.variables));
        let template = self.environment.get_template(NAME).map_err(describe)?;
        template
            .render(context! { ..fixed, ..variables })
            .map_err(describe)
    }
}

/// The settings under which templates of the hub are written: those of transformers.
fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(python::format);
    environment.add_filter("tojson", python::to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: String| {
        time::strftime(&format, time::now())
    });
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// Marks the errors that a template raises itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

/// A message for the person who wrote the request.
fn describe(error: Error) -> String {
    let raised = std::error::Error::source(&error).is_some_and(|source| source.is::<Raised>());
    match error.detail() {
        // The template's own words.
        Some(message) if raised => message.to_owned(),
        _ if error.kind() == ErrorKind::OutOfFuel => "the chat template takes too long".to_owned(),
        _ => format!("the chat template failed: {error}"),
    }
}
