//! Where templates rely on Python's way to write values.

use std::fmt::Write;

use minijinja::{Error, ErrorKind, Output, State, Value, value::Kwargs, value::ValueKind};

/// Writes a value as Python's `str` does: `True`, `False`, `None`; anything else as it is.
pub(super) fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::None => "None",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: a space after `:` and `,`, no HTML escapes.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Other options of json.dumps (sort_keys, separators) are rare; they are taken and change nothing.
    let json = serde_json::to_value(value).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    })?;
    let mut text = String::new();
    write_json(&mut text, &json, indent, 1);
    Ok(Value::from_safe_string(text))
}

fn write_json(out: &mut String, json: &serde_json::Value, indent: Option<usize>, depth: usize) {
    let brackets = match json {
        serde_json::Value::Array(items) if !items.is_empty() => ('[', ']'),
        serde_json::Value::Object(map) if !map.is_empty() => ('{', '}'),
        scalar => return out.push_str(&scalar.to_string()),
    };
    out.push(brackets.0);
    match json {
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                separate(out, index, indent, depth);
                write_json(out, item, indent, depth + 1);
            }
        }
        serde_json::Value::Object(map) => {
            for (index, (key, item)) in map.iter().enumerate() {
                separate(out, index, indent, depth);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(out, item, indent, depth + 1);
            }
        }
        _ => {}
    }
    if let Some(indent) = indent {
        new_line(out, indent * (depth - 1));
    }
    out.push(brackets.1);
}

/// What stands before the `index`-th item.
fn separate(out: &mut String, index: usize, indent: Option<usize>, depth: usize) {
    match indent {
        None if index > 0 => out.push_str(", "),
        None => {}
        Some(indent) => {
            out.push_str(if index > 0 { "," } else { "" });
            new_line(out, indent * depth);
        }
    }
}

fn new_line(out: &mut String, spaces: usize) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{:spaces$}", "");
}
