//! Fields that are known but not served: accepted with a value that changes nothing, else refused by name.

use serde_json::Value;

use crate::ApiError;

/// A field that is known but not served.
pub(crate) struct Unserved<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a Option<Value>,
    /// JSON values that change nothing, as text.
    pub(crate) no_ops: &'a [&'a str],
}

impl<'a> Unserved<'a> {
    pub(crate) fn new(name: &'a str, value: &'a Option<Value>, no_ops: &'a [&'a str]) -> Self {
        Self { name, value, no_ops }
    }
}

/// Refuses the first field whose value would have an effect.
///
/// # Errors
/// 400 with the field's name (below `prefix`) and what may be given instead.
pub(crate) fn refuse_unserved(prefix: &str, fields: &[Unserved<'_>]) -> Result<(), ApiError> {
    for Unserved { name, value, no_ops } in fields {
        let Some(value) = value else { continue };
        if no_ops.contains(&value.to_string().as_str()) {
            continue;
        }
        let allowed = match no_ops {
            [] => "leave it out".to_owned(),
            _ => format!("leave it out, or give {}", no_ops.join(" or ")),
        };
        let message = format!("`{prefix}{name}` is not supported yet: {allowed}");
        return Err(ApiError::invalid(format!("{prefix}{name}"), message).with_code("unsupported_parameter"));
    }
    Ok(())
}
