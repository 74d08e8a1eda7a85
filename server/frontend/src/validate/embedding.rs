//! `/v1/embeddings`.

use ferrum_api::{ApiError, ErrorKind, embeddings::EmbeddingRequest};
use ferrum_engine::EmbedRequest;

use super::tokens::tokenize_input;
use crate::app::LoadedModel;

/// An embedding request that the engine can take.
#[derive(Debug)]
pub(crate) struct ValidEmbedding {
    /// One a text.
    pub(crate) requests: Vec<EmbedRequest>,
    pub(crate) encoding: Encoding,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Base64,
    Float,
}

/// Checks the request and tokenizes its texts.
pub(crate) fn validate_embedding(
    model: &LoadedModel,
    request: EmbeddingRequest,
    id: &str,
    max_inputs: usize,
) -> Result<ValidEmbedding, ApiError> {
    let card = model.card();
    let encoding = match request.encoding_format.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(other) => {
            let message = format!("`encoding_format` is `{other}`: expected float or base64");
            return Err(ApiError::invalid("encoding_format", message));
        }
    };
    let dimensions = match request.dimensions {
        None => None,
        Some(count) if count >= 1 && count as usize <= card.embedding_dims => Some(count as usize),
        Some(count) => {
            let message = format!("`dimensions` is {count}: expected 1 to {}", card.embedding_dims);
            return Err(ApiError::invalid("dimensions", message));
        }
    };
    let limit = card.max_model_len;
    let inputs = tokenize_input(model, request.input, "input", max_inputs)?
        .into_iter()
        .enumerate();
    let requests = inputs
        .map(|(index, input)| {
            if input.ids.len() > limit {
                let message = format!(
                    "`{}` has {} tokens; this model reads at most {limit}",
                    input.field,
                    input.ids.len()
                );
                return Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(input.field));
            }
            Ok(EmbedRequest {
                id: format!("{id}-{index}"),
                ids: input.ids,
                dimensions,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(ValidEmbedding { requests, encoding })
}
