//! What is wrong with an object, so that a person can mend it.

use std::fmt;

use serde_json::Value;

use crate::FieldPath;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub path: FieldPath,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its value is not allowed.
    Invalid {
        /// The value, as JSON.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// It must be there and is not.
    Missing {
        /// What is allowed.
        expected: String,
    },
    /// It clashes with something elsewhere.
    Taken {
        /// The value, as JSON.
        value: String,
        /// What has it, and where.
        by: String,
    },
    /// Its value is one of the API that this version does not serve.
    Unsupported {
        /// The value, as JSON.
        value: String,
        /// What this version serves.
        served: String,
    },
    /// No such field exists.
    Unknown {
        /// The closest field that exists, if one is close.
        closest: Option<String>,
        /// Every field that exists there.
        known: Vec<String>,
    },
}

impl Problem {
    /// `value` at `path` is not allowed; `expected` is.
    pub fn invalid(path: FieldPath, value: &Value, expected: impl Into<String>) -> Self {
        let reason = Reason::Invalid {
            value: render(value),
            expected: expected.into(),
        };
        Self { path, reason }
    }

    /// `value` at `path` is not served by this version; `served` is.
    pub(crate) fn unsupported(path: FieldPath, value: &Value, served: String) -> Self {
        let reason = Reason::Unsupported {
            value: render(value),
            served,
        };
        Self { path, reason }
    }

    pub(crate) fn missing(path: FieldPath, expected: impl Into<String>) -> Self {
        let reason = Reason::Missing {
            expected: expected.into(),
        };
        Self { path, reason }
    }

    pub(crate) fn taken(path: FieldPath, value: &str, by: String) -> Self {
        let value = render(&Value::from(value));
        Self {
            path,
            reason: Reason::Taken { value, by },
        }
    }

    /// `key` does not exist at `path`; `known` are the fields that do.
    pub(crate) fn unknown(path: FieldPath, key: &str, known: Vec<String>) -> Self {
        // 0.75 accepts a slip of one or two letters, a wrong case and a missing plural, and little else.
        let similarity = |name: &String| strsim::jaro_winkler(&key.to_lowercase(), &name.to_lowercase());
        let closest = known
            .iter()
            .map(|name| (similarity(name), name))
            .filter(|(similarity, _)| *similarity >= 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name.clone());
        Self {
            path: path.key(key),
            reason: Reason::Unknown { closest, known },
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.reason {
            Reason::Invalid { value, expected } => write!(f, "{value} is not allowed: expected {expected}"),
            Reason::Missing { expected } => write!(f, "missing: expected {expected}"),
            Reason::Taken { value, by } => write!(f, "{value} is taken by {by}"),
            Reason::Unsupported { value, served } => {
                write!(f, "{value} is not served by this version, which serves {served}")
            }
            Reason::Unknown {
                closest: Some(closest),
                ..
            } => write!(f, "unknown field: did you mean `{closest}`?"),
            Reason::Unknown { closest: None, known } => {
                write!(f, "unknown field: expected {}", known.join(", "))
            }
        }
    }
}

/// A value as JSON, short enough for a line.
fn render(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        scalar => scalar.to_string(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("…".chars()).collect()
}
