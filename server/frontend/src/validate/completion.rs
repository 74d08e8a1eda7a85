//! `/v1/completions`.

use ferrum_api::{ApiError, completions::CompletionRequest};
use ferrum_engine::GenerateRequest;

use super::{
    ValidGeneration, answers, delivery, length::max_tokens, sampling::validate_sampling, stops,
    tokens::tokenize_input,
};
use crate::app::LoadedModel;

/// Alternatives that can be asked for at each token.
const MAX_LOGPROBS: i64 = 20;
/// Tokens of an answer whose length is not given, as in OpenAI's API.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most choices of one request.
const MAX_CHOICES: usize = 256;

/// Checks the request and tokenizes its prompts.
pub(crate) fn validate_completion(
    model: &LoadedModel,
    request: CompletionRequest,
    id: &str,
) -> Result<ValidGeneration, ApiError> {
    request.check_served()?;
    let card = model.card();
    let n = answers(request.n)?;
    let echo = request.echo.unwrap_or(false);
    let logprobs = logprobs(request.logprobs, echo)?;
    let sampling = validate_sampling(&request.sampling(), logprobs, card)?;
    let asked = request.max_tokens.map(|tokens| ("max_tokens", tokens));
    let mut valid = ValidGeneration {
        requests: Vec::new(),
        stops: stops(request.stop.clone())?,
        echo: Vec::new(),
        delivery: delivery(request.stream, request.stream_options)?,
        prompt_tokens: 0,
    };
    for prompt in tokenize_input(model, request.prompt, "prompt", MAX_CHOICES / n)? {
        let mut max_tokens = max_tokens(asked, prompt.ids.len(), &prompt.field, card)?;
        if asked.is_none() {
            max_tokens = max_tokens.min(DEFAULT_MAX_TOKENS);
        }
        valid.prompt_tokens += prompt.ids.len();
        let text = match (echo, prompt.text) {
            (false, _) => String::new(),
            (true, Some(text)) => text,
            (true, None) => String::from_utf8_lossy(&model.vocabulary.bytes_of(&prompt.ids)).into_owned(),
        };
        for index in 0..n {
            valid.echo.push(text.clone());
            valid.requests.push(GenerateRequest {
                id: format!("{id}-{}", valid.requests.len()),
                prompt: prompt.ids.clone(),
                max_tokens,
                sampling: sampling.params_of(index),
                stop_token_ids: sampling.stop_token_ids.clone(),
            });
        }
    }
    Ok(valid)
}

fn logprobs(wanted: Option<i64>, echo: bool) -> Result<Option<u8>, ApiError> {
    match wanted {
        None => Ok(None),
        Some(_) if echo => {
            let message = "`logprobs` of the prompt (`echo: true`) are not supported yet";
            Err(ApiError::invalid("logprobs", message).with_code("unsupported_parameter"))
        }
        Some(count @ 0..=MAX_LOGPROBS) => Ok(Some(count as u8)),
        Some(count) => {
            let message = format!("`logprobs` is {count}: expected 0 to {MAX_LOGPROBS}");
            Err(ApiError::invalid("logprobs", message))
        }
    }
}
