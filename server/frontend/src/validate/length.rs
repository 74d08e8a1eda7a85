//! How much room a prompt leaves for its answer.

use ferrum_api::{ApiError, ErrorKind};
use ferrum_engine::ModelCard;

/// The most tokens to generate after `prompt_tokens`: what was asked for in `field`, else all that remains.
pub(crate) fn max_tokens(
    asked: Option<(&'static str, i64)>,
    prompt_tokens: usize,
    field: &str,
    card: &ModelCard,
) -> Result<usize, ApiError> {
    let limit = card.max_model_len;
    if prompt_tokens >= limit {
        let message = format!(
            "the prompt (`{field}`) has {prompt_tokens} tokens; the context of this model is {limit} tokens for prompt and \
             answer together: shorten the prompt by at least {}",
            prompt_tokens - limit + 1
        );
        return Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(field));
    }
    let Some((name, asked)) = asked else {
        // A pool smaller than one context bounds an answer, too.
        let pool = match card.num_blocks * card.block_size {
            0 => limit,
            tokens => tokens.min(limit),
        };
        return Ok(pool.saturating_sub(prompt_tokens).max(1));
    };
    if asked < 1 {
        return Err(ApiError::invalid(
            name,
            format!("`{name}` is {asked}: expected 1 or more"),
        ));
    }
    let asked = asked as usize;
    if asked > limit - prompt_tokens {
        let message = format!(
            "the prompt has {prompt_tokens} tokens and `{name}` asks for {asked} more, together {}; the context of \
             this model is {limit} tokens: shorten the prompt, or ask for at most {}",
            prompt_tokens.saturating_add(asked),
            limit - prompt_tokens
        );
        return Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(name));
    }
    Ok(asked)
}
