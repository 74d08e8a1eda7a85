//! `/v1/chat/completions`.

use ferrum_api::{
    ApiError, ErrorKind,
    chat::{ChatCompletionRequest, ChatMessage, Content, ContentPart},
};
use ferrum_engine::GenerateRequest;
use minijinja::Value;
use serde_json::Map;

use super::{
    ValidGeneration, answers, delivery,
    length::max_tokens,
    sampling::validate_sampling,
    stops,
    tokens::{SpecialTokens, encode},
};
use crate::{app::LoadedModel, template::Conversation};

/// Alternatives that can be asked for at each token.
const MAX_TOP_LOGPROBS: i64 = 20;
/// What the template is given by us.
const RESERVED_VARIABLES: [&str; 6] = [
    "messages",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "tools",
    "documents",
];

/// Checks the request and renders and tokenizes its prompt.
pub(crate) fn validate_chat(
    model: &LoadedModel,
    request: ChatCompletionRequest,
    id: &str,
) -> Result<ValidGeneration, ApiError> {
    request.check_served()?;
    let card = model.card();
    let n = answers(request.n)?;
    let logprobs = logprobs(request.logprobs, request.top_logprobs)?;
    let sampling = validate_sampling(&request.sampling(), logprobs, card)?;
    let asked = asked_tokens(&request)?;
    let delivery = delivery(request.stream, request.stream_options)?;
    let stops = stops(request.stop.clone())?;
    let prompt = encode(
        model,
        &render(model, &request)?,
        SpecialTokens::InText,
        "messages",
    )?;
    if prompt.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` make an empty prompt"));
    }
    let max_tokens = max_tokens(asked, prompt.len(), "messages", card)?;
    let prompt_tokens = prompt.len();
    let requests = (0..n)
        .map(|index| GenerateRequest {
            id: format!("{id}-{index}"),
            prompt: prompt.clone(),
            max_tokens,
            sampling: sampling.params_of(index),
            stop_token_ids: sampling.stop_token_ids.clone(),
        })
        .collect();
    Ok(ValidGeneration {
        requests,
        stops,
        echo: vec![String::new(); n],
        delivery,
        prompt_tokens,
    })
}

/// The length asked for under either of its names.
fn asked_tokens(request: &ChatCompletionRequest) -> Result<Option<(&'static str, i64)>, ApiError> {
    match (request.max_completion_tokens, request.max_tokens) {
        (Some(new), Some(old)) if new != old => {
            let message =
                format!("`max_tokens` is {old} and `max_completion_tokens` is {new}: give one, or the same");
            Err(ApiError::invalid("max_tokens", message))
        }
        (Some(new), _) => Ok(Some(("max_completion_tokens", new))),
        (None, Some(old)) => Ok(Some(("max_tokens", old))),
        (None, None) => Ok(None),
    }
}

fn logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<u8>, ApiError> {
    match (wanted.unwrap_or(false), top) {
        (true, top) => match top.unwrap_or(0) {
            top @ 0..=MAX_TOP_LOGPROBS => Ok(Some(top as u8)),
            top => {
                let message = format!("`top_logprobs` is {top}: expected 0 to {MAX_TOP_LOGPROBS}");
                Err(ApiError::invalid("top_logprobs", message))
            }
        },
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            "top_logprobs",
            "`top_logprobs` needs `logprobs: true`",
        )),
    }
}

/// The text of the prompt.
fn render(model: &LoadedModel, request: &ChatCompletionRequest) -> Result<String, ApiError> {
    let template = match &model.template {
        None => {
            let message = "this model has no chat template: use /v1/completions";
            return Err(ApiError::invalid("model", message).with_code("no_chat_template"));
        }
        Some(Err(error)) => {
            let message = format!("the chat template of this model does not compile: {error}");
            return Err(ApiError::new(ErrorKind::Internal, message).with_code("invalid_chat_template"));
        }
        Some(Ok(template)) => template,
    };
    let messages = messages(&request.messages)?;
    let continue_final = request.continue_final_message.unwrap_or(false);
    if continue_final && request.add_generation_prompt == Some(true) {
        let message = "`continue_final_message` and `add_generation_prompt` exclude each other";
        return Err(ApiError::invalid("continue_final_message", message));
    }
    let no_variables = Map::new();
    let variables = request.chat_template_kwargs.as_ref().unwrap_or(&no_variables);
    if let Some(name) = RESERVED_VARIABLES
        .iter()
        .find(|&&name| variables.contains_key(name))
    {
        let field = format!("chat_template_kwargs.{name}");
        return Err(ApiError::invalid(
            field,
            format!("`chat_template_kwargs` cannot set `{name}`"),
        ));
    }
    let conversation = Conversation {
        messages: &messages,
        add_generation_prompt: !continue_final && request.add_generation_prompt.unwrap_or(true),
        variables,
    };
    let prompt = template
        .render(&conversation)
        .map_err(|message| ApiError::invalid("messages", message).with_code("chat_template_error"))?;
    match continue_final {
        true => cut_after_final_message(prompt, &request.messages),
        false => Ok(prompt),
    }
}

/// Messages as the template sees them.
fn messages(messages: &[ChatMessage]) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "`messages` is empty: expected at least one message",
        ));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            let path = format!("messages[{index}]");
            message.check_served(&path)?;
            let content = text_of(message, &path)?;
            let role = match message.role.as_str() {
                "" => {
                    let message = format!("`{path}.role` is empty: expected system, user or assistant");
                    return Err(ApiError::invalid(format!("{path}.role"), message));
                }
                // The newer name; templates know the older one.
                "developer" => "system",
                role => role,
            };
            let mut map = vec![("role", Value::from(role)), ("content", Value::from(content))];
            map.extend(message.name.as_deref().map(|name| ("name", Value::from(name))));
            Ok(Value::from_pairs(map))
        })
        .collect()
}

/// The text of a message; parts are joined by line breaks.
fn text_of(message: &ChatMessage, path: &str) -> Result<String, ApiError> {
    match &message.content {
        Some(Content::Text(text)) => Ok(text.clone()),
        Some(Content::Parts(parts)) => {
            let parts = parts.iter().enumerate();
            let texts: Vec<_> = parts
                .map(|(index, part)| part_text(part, &format!("{path}.content[{index}]")))
                .collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        None => {
            let message = format!("`{path}.content` is missing: expected a string or a list of text parts");
            Err(ApiError::invalid(format!("{path}.content"), message).with_code("missing_required_parameter"))
        }
    }
}

fn part_text<'a>(part: &'a ContentPart, path: &str) -> Result<&'a str, ApiError> {
    if part.part_type != "text" {
        let message = format!(
            "`{path}.type` is `{}`: this model takes text only",
            part.part_type
        );
        return Err(ApiError::invalid(format!("{path}.type"), message).with_code("unsupported_content"));
    }
    part.text.as_deref().ok_or_else(|| {
        let message = format!("`{path}.text` is missing");
        ApiError::invalid(format!("{path}.text"), message).with_code("missing_required_parameter")
    })
}

/// The prompt up to the end of the last message's text, so that the model goes on with it.
fn cut_after_final_message(mut prompt: String, messages: &[ChatMessage]) -> Result<String, ApiError> {
    let text = match messages.last() {
        Some(last) => text_of(last, "messages")?,
        None => String::new(),
    };
    // Templates trim; what was trimmed is gone from the prompt.
    let text = text.trim();
    let start = prompt.rfind(text).ok_or_else(|| {
        let message =
            "`continue_final_message`: the chat template does not keep the text of the last message";
        ApiError::invalid("continue_final_message", message)
    })?;
    prompt.truncate(start + text.len());
    Ok(prompt)
}
