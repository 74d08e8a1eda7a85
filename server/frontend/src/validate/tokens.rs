//! Texts and lists of ids to token ids.

use ferrum_api::{ApiError, ErrorKind, Input};

use crate::app::LoadedModel;

/// Whether the tokenizer's own frame (begin of sequence, `[CLS]` and `[SEP]`) is put around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecialTokens {
    /// The text brings them, as a rendered chat template does.
    InText,
    /// As the tokenizer does.
    Add,
}

/// Token ids of `text`; `field` is where it came from.
pub(crate) fn encode(
    model: &LoadedModel,
    text: &str,
    special: SpecialTokens,
    field: &str,
) -> Result<Vec<u32>, ApiError> {
    let encoding = model
        .tokenizer
        .encode_fast(text, special == SpecialTokens::Add)
        .map_err(|error| {
            ApiError::new(
                ErrorKind::InvalidRequest,
                format!("`{field}` cannot be tokenized: {error}"),
            )
            .with_param(field)
        })?;
    Ok(encoding.get_ids().to_vec())
}

/// One prompt or text of an [`Input`].
#[derive(Debug)]
pub(crate) struct TokenizedInput {
    /// At least one.
    pub(crate) ids: Vec<u32>,
    /// Where it came from: `prompt`, or `prompt[3]`.
    pub(crate) field: String,
    /// As it was given; `None` for ids.
    pub(crate) text: Option<String>,
}

/// Every prompt or text of `input`, at most `max_inputs`; none is empty.
pub(crate) fn tokenize_input(
    model: &LoadedModel,
    input: Input,
    name: &str,
    max_inputs: usize,
) -> Result<Vec<TokenizedInput>, ApiError> {
    let item = |index: usize| format!("{name}[{index}]");
    let inputs = match input {
        Input::Ids(ids) => vec![checked_ids(model, ids, name.to_owned())?],
        Input::Text(text) => vec![tokenized(model, text, name.to_owned())?],
        Input::IdLists(lists) => {
            check_count(lists.len(), name, max_inputs)?;
            let lists = lists.into_iter().enumerate();
            lists
                .map(|(index, ids)| checked_ids(model, ids, item(index)))
                .collect::<Result<_, _>>()?
        }
        Input::Texts(texts) => {
            check_count(texts.len(), name, max_inputs)?;
            let texts = texts.into_iter().enumerate();
            texts
                .map(|(index, text)| tokenized(model, text, item(index)))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(inputs)
}

fn check_count(count: usize, name: &str, max_inputs: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(ApiError::invalid(
            name,
            format!("`{name}` is empty: expected at least one"),
        )),
        count if count > max_inputs => {
            let message = format!("`{name}` has {count} entries: expected at most {max_inputs}");
            Err(ApiError::invalid(name, message))
        }
        _ => Ok(()),
    }
}

fn tokenized(model: &LoadedModel, text: String, field: String) -> Result<TokenizedInput, ApiError> {
    let ids = encode(model, &text, SpecialTokens::Add, &field)?;
    if text.is_empty() || ids.is_empty() {
        return Err(ApiError::invalid(
            field.clone(),
            format!("`{field}` is empty: expected text"),
        ));
    }
    Ok(TokenizedInput {
        ids,
        field,
        text: Some(text),
    })
}

fn checked_ids(model: &LoadedModel, ids: Vec<u32>, field: String) -> Result<TokenizedInput, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid(
            field.clone(),
            format!("`{field}` is empty: expected token ids"),
        ));
    }
    let vocab_size = model.card().vocab_size;
    if let Some((index, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= vocab_size) {
        let path = format!("{field}[{index}]");
        let message = format!("`{path}` is {id}: expected a token id, 0 to {}", vocab_size - 1);
        return Err(ApiError::invalid(path, message));
    }
    Ok(TokenizedInput {
        ids,
        field,
        text: None,
    })
}
