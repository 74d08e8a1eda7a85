//! Checks an object against the CRD's own schema, as the API server does, and finds every problem at once.

use serde_json::{Map, Value};

use crate::{FieldPath, Problem, Reason};

/// Every keyword of a schema that [`find_problems`] obeys or that carries no constraint; a test holds the CRD to them.
#[cfg(test)]
pub(crate) const KEYWORDS: &[&str] = &[
    "additionalProperties",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

/// Every way in which `value` differs from `schema`.
pub(crate) fn find_problems(value: &Value, schema: &Value, path: &FieldPath) -> Vec<Problem> {
    let mut problems = Vec::new();
    check(value, schema, path, &mut problems);
    problems
}

fn check(value: &Value, schema: &Value, path: &FieldPath, problems: &mut Vec<Problem>) {
    let fits = match kind(schema) {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        "integer" => is_in_range(value, schema),
        "object" => value.is_object(),
        "size" => value.is_u64() || value.is_string(),
        _ => is_allowed_text(value, schema),
    };
    if !fits {
        return problems.push(Problem::invalid(path.clone(), value, describe(schema)));
    }
    match value {
        Value::Array(items) => check_list(items, schema, path, problems),
        Value::Object(fields) => check_fields(fields, schema, path, problems),
        _ => {}
    }
}

/// What `schema` allows, to be read after "expected".
fn describe(schema: &Value) -> String {
    match kind(schema) {
        "array" => "a list".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => format!(
            "a whole number from {} to {}",
            bound(schema, "minimum"),
            bound(schema, "maximum")
        ),
        "object" => "a mapping".to_owned(),
        "size" => "a size such as 512Mi or 8Gi".to_owned(),
        _ => match words(schema) {
            Some(words) => either(&words),
            None => format!(
                "a text of {} to {} characters",
                bound(schema, "minLength"),
                bound(schema, "maxLength")
            ),
        },
    }
}

fn check_list(items: &[Value], schema: &Value, path: &FieldPath, problems: &mut Vec<Problem>) {
    let bounds = bound(schema, "minItems")..=bound(schema, "maxItems");
    if !bounds.contains(&(items.len() as i64)) {
        let value = format!("{} entries", items.len());
        let expected = format!("{} to {} entries", bounds.start(), bounds.end());
        let reason = Reason::Invalid { value, expected };
        problems.push(Problem {
            path: path.clone(),
            reason,
        });
    }
    for (index, item) in items.iter().enumerate() {
        check(item, &schema["items"], &path.index(index), problems);
        let is_twin = |other: &&Value| match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => *other == item,
            Some("map") => keys(schema).all(|key| other[key] == item[key]),
            _ => false,
        };
        if items[..index].iter().find(is_twin).is_some() {
            match keys(schema).next() {
                None => problems.push(Problem::invalid(path.index(index), item, "each entry once")),
                Some(key) => {
                    let path = path.index(index).key(key);
                    problems.push(Problem::invalid(path, &item[key], "each entry once"));
                }
            }
        }
    }
}

/// Fields that identify an entry of a list that is a map.
fn keys(schema: &Value) -> impl Iterator<Item = &str> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    keys.into_iter().flatten().filter_map(Value::as_str)
}

fn check_fields(fields: &Map<String, Value>, schema: &Value, path: &FieldPath, problems: &mut Vec<Problem>) {
    let Some(properties) = schema["properties"].as_object() else {
        return check_entries(fields, schema, path, problems);
    };
    for (key, value) in fields {
        match properties.get(key) {
            Some(schema) => check(value, schema, &path.key(key), problems),
            None => problems.push(Problem::unknown(
                path.clone(),
                key,
                properties.keys().cloned().collect(),
            )),
        }
    }
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    for key in required.filter(|key| !fields.contains_key(*key)) {
        problems.push(Problem::missing(path.key(key), describe(&properties[key])));
    }
}

/// A mapping whose keys are free.
fn check_entries(fields: &Map<String, Value>, schema: &Value, path: &FieldPath, problems: &mut Vec<Problem>) {
    let most = bound(schema, "maxProperties");
    if fields.len() as i64 > most {
        let value = format!("{} entries", fields.len());
        let expected = format!("at most {most} entries");
        let reason = Reason::Invalid { value, expected };
        problems.push(Problem {
            path: path.clone(),
            reason,
        });
    }
    let values = &schema["additionalProperties"];
    if values.is_object() {
        for (key, value) in fields {
            check(value, values, &path.key(key), problems);
        }
    }
}

fn kind(schema: &Value) -> &str {
    if schema["x-kubernetes-int-or-string"] == true {
        return "size";
    }
    schema["type"].as_str().unwrap_or("string")
}

fn is_in_range(value: &Value, schema: &Value) -> bool {
    value
        .as_i64()
        .is_some_and(|number| (bound(schema, "minimum")..=bound(schema, "maximum")).contains(&number))
}

fn is_allowed_text(value: &Value, schema: &Value) -> bool {
    let Some(text) = value.as_str() else {
        return false;
    };
    if let Some(words) = words(schema) {
        return words.contains(&text);
    }
    (bound(schema, "minLength")..=bound(schema, "maxLength")).contains(&(text.chars().count() as i64))
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}

fn words(schema: &Value) -> Option<Vec<&str>> {
    Some(
        schema["enum"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .collect(),
    )
}

/// A bound of the schema; without one, the widest. Schemas write whole numbers as floats.
fn bound(schema: &Value, keyword: &str) -> i64 {
    let default = if keyword.starts_with("min") { 0 } else { i64::MAX };
    schema[keyword].as_f64().map_or(default, |bound| bound as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::spec_schema;

    fn assert_known_keywords(schema: &Value) {
        for (keyword, value) in schema.as_object().expect("a schema is a mapping") {
            assert!(KEYWORDS.contains(&keyword.as_str()), "{keyword} in {schema}");
            match keyword.as_str() {
                "properties" => value
                    .as_object()
                    .expect("mapping")
                    .values()
                    .for_each(assert_known_keywords),
                "additionalProperties" | "items" => assert_known_keywords(value),
                _ => {}
            }
        }
        if kind(schema) == "integer" {
            let has_bounds = schema["minimum"].is_number() && schema["maximum"].is_number();
            assert!(has_bounds, "a number without bounds: {schema}");
        }
    }

    #[test]
    fn the_schema_of_the_resource_has_no_keyword_that_we_would_ignore() {
        assert_known_keywords(spec_schema());
    }
}
