//! OpenAI's error shape, and the one map from a kind of error to its HTTP status.

use serde::{Deserialize, Serialize};

/// What went wrong, as a client can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401: no key, or a wrong one.
    Authentication,
    /// 413: the body is over the limit.
    BodyTooLarge,
    /// 400: prompt and answer do not fit the model's context.
    ContextLengthExceeded,
    /// 500: our fault.
    Internal,
    /// 400: a field has a wrong type or value, or is missing; unknown JSON.
    InvalidRequest,
    /// 405: the route exists, the method does not.
    MethodNotAllowed,
    /// 404: no model of this name.
    ModelNotFound,
    /// 404: no such route.
    NotFound,
    /// 429: too much is waiting already.
    Overloaded,
    /// 503: no replica can take it now (loading, draining, failed).
    Unavailable,
    /// 502: the replica broke off.
    UpstreamFailed,
}

impl ErrorKind {
    /// HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ContextLengthExceeded => 400,
            Self::Authentication => 401,
            Self::ModelNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::Overloaded => 429,
            Self::Internal => 500,
            Self::UpstreamFailed => 502,
            Self::Unavailable => 503,
        }
    }

    /// OpenAI's `type`.
    pub const fn error_type(self) -> &'static str {
        match self {
            Self::InvalidRequest
            | Self::ContextLengthExceeded
            | Self::ModelNotFound
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::BodyTooLarge => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Overloaded => "rate_limit_error",
            Self::Internal | Self::UpstreamFailed => "server_error",
            Self::Unavailable => "service_unavailable_error",
        }
    }

    /// Default `code`, where the kind is precise enough to have one.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Authentication => Some("invalid_api_key"),
            Self::BodyTooLarge => Some("request_too_large"),
            Self::ContextLengthExceeded => Some("context_length_exceeded"),
            Self::ModelNotFound => Some("model_not_found"),
            Self::Overloaded => Some("overloaded"),
            Self::UpstreamFailed => Some("upstream_failed"),
            Self::Internal
            | Self::InvalidRequest
            | Self::MethodNotAllowed
            | Self::NotFound
            | Self::Unavailable => None,
        }
    }
}

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Status and type.
    pub kind: ErrorKind,
    /// For a person: names the field, the value and what is allowed.
    pub message: String,
    /// The field, as a path into the request (`messages[2].role`).
    pub param: Option<String>,
    /// For a program; [`ErrorKind::code`] unless set.
    pub code: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
}

impl ApiError {
    /// An error of `kind` with its default code.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let code = kind.code().map(str::to_owned);
        Self {
            kind,
            message: message.into(),
            param: None,
            code,
            retry_after_seconds: None,
        }
    }

    /// A field that is wrong.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(ErrorKind::InvalidRequest, message)
        }
    }

    /// With the field that caused it.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// With a more precise code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// With a `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The body that goes over the wire (also as the last `data:` of a stream that failed).
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                error_type: self.kind.error_type().to_owned(),
                param: self.param.clone(),
                code: self.code.clone(),
            },
        }
    }
}

/// `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// OpenAI's error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For a person.
    pub message: String,
    /// Class of error.
    #[serde(rename = "type")]
    pub error_type: String,
    /// The field.
    pub param: Option<String>,
    /// For a program.
    pub code: Option<String>,
}
