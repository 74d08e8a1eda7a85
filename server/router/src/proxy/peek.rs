//! The few fields of a request that concern the router, read without building the document.

use std::{borrow::Cow, fmt};

use ferrum_api::{ApiError, ErrorKind};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::policy::Demand;

/// Bytes of a request body that make about one token.
const BYTES_PER_TOKEN: u64 = 4;

/// What the router reads of a body. A field of a wrong type is left to the engine, whose answer names it best.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Peek<'a> {
    #[serde(borrow)]
    model: Lenient<'a>,
    #[serde(borrow)]
    stream: Lenient<'a>,
    #[serde(borrow)]
    max_tokens: Lenient<'a>,
    #[serde(borrow)]
    max_completion_tokens: Lenient<'a>,
    #[serde(borrow)]
    n: Lenient<'a>,
}

/// A value of any type.
#[derive(Debug, Default)]
enum Lenient<'a> {
    #[default]
    Absent,
    Number(u64),
    Other,
    Text(Cow<'a, str>),
    True,
}

impl<'a> Peek<'a> {
    /// Reads the fields; every byte of the body is checked to be JSON.
    ///
    /// # Errors
    /// 400 that names the place, and the field where there is one.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let start = body.trim_ascii_start().first();
        if start.is_some_and(|&byte| byte != b'{') {
            let message = "the body is not a JSON object"; // serde would take an array for the fields in order
            return Err(ApiError::new(ErrorKind::InvalidRequest, message));
        }
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))
    }

    /// The OpenAI `model`.
    ///
    /// # Errors
    /// 400 when it is missing or no string.
    pub(crate) fn model(&self) -> Result<&str, ApiError> {
        match &self.model {
            Lenient::Text(name) => Ok(name),
            Lenient::Absent => Err(ApiError::invalid(
                "model",
                "`model` is missing: expected a model's name",
            )),
            _ => Err(ApiError::invalid(
                "model",
                "`model` has a wrong type: expected a string",
            )),
        }
    }

    /// Whether the client wants a stream.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.stream, Lenient::True)
    }

    /// What it will cost, as far as one can tell without a tokenizer. `mean_completion` is 0 for a task that makes no
    /// tokens; otherwise `max_tokens` bounds it, as most completions end before.
    pub(crate) fn demand(&self, body_bytes: usize, mean_completion: u64) -> Demand {
        let limit = [&self.max_completion_tokens, &self.max_tokens]
            .into_iter()
            .find_map(Lenient::number)
            .unwrap_or(u64::MAX);
        let choices = self.n.number().unwrap_or(1).clamp(1, 128);
        Demand {
            prompt: body_bytes as u64 / BYTES_PER_TOKEN,
            completion: mean_completion.min(limit).saturating_mul(choices),
        }
    }
}

/// The error of the parser, with the path to the field that it broke at.
fn malformed(body: &[u8], error: &serde_json::Error) -> ApiError {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let path = match serde_path_to_error::deserialize::<_, Peek<'_>>(&mut parser) {
        Err(found) if found.path().iter().len() > 0 => Some(found.path().to_string()),
        _ => None,
    };
    let message = format!("the body is not a valid JSON object: {error}");
    match path {
        Some(path) => ApiError::invalid(path.clone(), format!("{message} (in `{path}`)")),
        None => ApiError::new(ErrorKind::InvalidRequest, message),
    }
}

impl Lenient<'_> {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Lenient<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Lenient<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(if value { Lenient::True } else { Lenient::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Lenient::Number(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Lenient::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Lenient::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Lenient::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Lenient::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Lenient::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Lenient::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(body: &str) -> Peek<'_> {
        Peek::parse(body.as_bytes()).expect("parses")
    }

    #[test]
    fn the_fields_are_read_wherever_they_stand() {
        let peek = peek(
            r#"{"messages":[{"content":"x"}],"n":2,"stream":true,"max_tokens":7,"model":"org/\u006da"}"#,
        );
        assert_eq!(peek.model().expect("model"), "org/ma");
        assert!(peek.is_stream());
        let demand = peek.demand(400, 50);
        assert_eq!((demand.prompt, demand.completion), (100, 14));
    }

    #[test]
    fn fields_of_wrong_types_are_left_to_the_engine() {
        let peek =
            peek(r#"{"model":"m","stream":"yes","max_tokens":{"a":[1]},"n":-3,"max_completion_tokens":1.5}"#);
        assert!(!peek.is_stream());
        assert_eq!(peek.demand(0, 50).completion, 50);
    }

    #[test]
    fn a_model_that_is_missing_or_no_string_is_named() {
        for body in ["{}", r#"{"model":null}"#, r#"{"model":3}"#, r#"{"model":["m"]}"#] {
            let error = peek(body).model().expect_err(body).param;
            assert_eq!(error.as_deref(), Some("model"), "{body}");
        }
    }

    #[test]
    fn json_that_breaks_off_is_refused_with_its_place_and_field() {
        let error = Peek::parse(br#"{"model":"m","temperature":NaN}"#).expect_err("NaN");
        assert_eq!(error.param.as_deref(), Some("temperature"));
        assert!(error.message.contains("line 1 column"), "{}", error.message);
        for body in ["", "[]", "3", r#"{"model":"m""#, "{\"model\":\"m\"} x", "\u{1}"] {
            assert_eq!(Peek::parse(body.as_bytes()).expect_err(body).kind.status(), 400);
        }
    }
}
