//! Every problem of an object: its shape first, then the rules.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::{FieldPath, ModelTask, Problem, crd::spec_schema, names, rules, shape};

/// Every problem of an object as it was written.
pub(crate) fn find_problems(object: &Value) -> Vec<Problem> {
    let mut problems = shape::find_problems(object, object_schema(), &FieldPath::root());
    // A field whose shape is wrong has been named already; rules would only repeat it in other words.
    let mut broken_rules = rules::find_problems(object);
    broken_rules.retain(|rule| !problems.iter().any(|shape| shape.path == rule.path));
    problems.extend(broken_rules);
    problems.extend(unserved_task(object));
    problems
}

/// A task of the API that this version has no engine for: no rule of the API server, which may be newer or older.
fn unserved_task(object: &Value) -> Option<Problem> {
    let word = &object["spec"]["task"];
    let task: ModelTask = word.as_str()?.parse().ok()?;
    if task.served().is_some() {
        return None;
    }
    let served: Vec<_> = ModelTask::ALL
        .into_iter()
        .filter(|task| task.served().is_some())
        .map(ModelTask::as_str)
        .collect();
    let path = FieldPath::of("spec.task");
    Some(Problem::unsupported(path, word, served.join(" and ")))
}

/// Schema of the whole object: the API server checks the envelope itself, outside of the CRD's schema.
fn object_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        json!({
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string", "enum": [names::API_VERSION]},
                "kind": {"type": "string", "enum": [names::KIND]},
                "metadata": metadata_schema(),
                "spec": spec_schema(),
                "status": {"type": "object"},
            },
            "required": ["apiVersion", "kind", "metadata", "spec"],
        })
    });
    &SCHEMA
}

/// What people write, and what a cluster adds to an object that is read back from it.
fn metadata_schema() -> Value {
    let map = json!({"type": "object"});
    let list = json!({"type": "array"});
    let text = json!({"type": "string", "minLength": 1, "maxLength": 253});
    let number = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
    json!({
        "type": "object",
        "properties": {
            "annotations": map,
            "creationTimestamp": text,
            "deletionGracePeriodSeconds": number,
            "deletionTimestamp": text,
            "finalizers": list,
            "generateName": text,
            "generation": number,
            "labels": map,
            "managedFields": list,
            "name": text,
            "namespace": text,
            "ownerReferences": list,
            "resourceVersion": text,
            "selfLink": text,
            "uid": text,
        },
        "required": ["name"],
    })
}
