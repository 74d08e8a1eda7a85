//! Schemas of Kubernetes' own types as [`super::PodTemplate`] takes them: each with bounds, as an API server wants them
//! for what a rule looks at, and without what is deprecated.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 63},
        "maxProperties": 64,
    })
}

pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 4096},
        "maxProperties": 64,
    })
}

pub(super) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    let toleration = object(
        "A taint that the pods accept.",
        &[],
        json!({
            "effect": words("Effect of the taint; without it, every effect.", &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
            "key": text("Key of the taint; without it, every key, with operator Exists.", 253),
            "operator": words("How value compares; without it, Equal.", &["Equal", "Exists"]),
            "tolerationSeconds": number("How long a taint NoExecute is accepted; without it, for ever.", 0, i64::from(i32::MAX)),
            "value": optional_text("Value of the taint.", 63),
        }),
    );
    json_schema!({"type": "array", "items": toleration, "maxItems": 32})
}

pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: &str| {
        json!({
            "description": description,
            "type": "object",
            "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 32},
            "maxProperties": 16,
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "limits": amounts("Most of each resource, such as memory: 8Gi."),
            "requests": amounts("What a node must have free of each resource."),
        },
    })
}

pub(super) fn env(_: &mut SchemaGenerator) -> Schema {
    let key_of = |what: &str| {
        object(
            &format!("A key of a {what} in the model's namespace."),
            &["key", "name"],
            json!({
                "key": text("The key.", 253),
                "name": text(&format!("Name of the {what}."), 253),
                "optional": {"description": "Whether it may be missing.", "type": "boolean"},
            }),
        )
    };
    let source = object(
        "Where the value comes from; exactly one.",
        &[],
        json!({
            "configMapKeyRef": key_of("ConfigMap"),
            "fieldRef": object(
                "A field of the pod.",
                &["fieldPath"],
                json!({
                    "apiVersion": text("Version of the pod's schema; without it, v1.", 32),
                    "fieldPath": text("The field, such as metadata.name.", 253),
                }),
            ),
            "resourceFieldRef": object(
                "A request or limit of the engine's container.",
                &["resource"],
                json!({
                    "containerName": text("Name of the container; without it, the engine's.", 63),
                    "divisor": {"description": "Unit of the value.", "x-kubernetes-int-or-string": true, "maxLength": 32},
                    "resource": text("The resource, such as limits.memory.", 253),
                }),
            ),
            "secretKeyRef": key_of("Secret"),
        }),
    );
    let variable = object(
        "A variable.",
        &["name"],
        json!({
            "name": text("Name of the variable.", 128),
            "value": optional_text("Value of the variable.", 4096),
            "valueFrom": source,
        }),
    );
    json_schema!({
        "type": "array",
        "items": variable,
        "maxItems": 64,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

pub(super) fn affinity(_: &mut SchemaGenerator) -> Schema {
    let properties = json!({
        "nodeAffinity": node_affinity(),
        "podAffinity": pod_affinity("Pods that should run near."),
        "podAntiAffinity": pod_affinity("Pods that should not run near."),
    });
    json_schema!({"type": "object", "properties": properties})
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity() -> Value {
    let expressions = |description: &str| {
        list(
            description,
            requirement(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]),
        )
    };
    let term = object(
        "A set of nodes: those that match everything in it.",
        &[],
        json!({
            "matchExpressions": expressions("Conditions on labels."),
            "matchFields": expressions("Conditions on fields."),
        }),
    );
    let required = object(
        "Nodes that the pods need.",
        &["nodeSelectorTerms"],
        json!({"nodeSelectorTerms": list("Sets of nodes, of which one must match.", term.clone())}),
    );
    let preferred = object(
        "A preference.",
        &["preference", "weight"],
        json!({"preference": term, "weight": weight()}),
    );
    object(
        "Nodes that the pods prefer or need.",
        &[],
        json!({REQUIRED: required, PREFERRED: list("Nodes that the pods prefer.", preferred)}),
    )
}

fn pod_affinity(description: &str) -> Value {
    let names = |description: &str| list(description, text("A name.", 253));
    let term = object(
        "A set of pods, and what near means.",
        &["topologyKey"],
        json!({
            "labelSelector": label_selector("Labels of the pods."),
            "matchLabelKeys": names("Labels in which the pods must be equal."),
            "mismatchLabelKeys": names("Labels in which the pods must differ."),
            "namespaceSelector": label_selector("Labels of the pods' namespaces."),
            "namespaces": names("Namespaces of the pods; without it, the model's own."),
            "topologyKey": text("Label of nodes; those with the same value are near.", 253),
        }),
    );
    let preferred = object(
        "A preference.",
        &["podAffinityTerm", "weight"],
        json!({"podAffinityTerm": term.clone(), "weight": weight()}),
    );
    object(
        description,
        &[],
        json!({REQUIRED: list("What the pods need.", term), PREFERRED: list("What the pods prefer.", preferred)}),
    )
}

fn label_selector(description: &str) -> Value {
    let labels = json!({
        "description": "Labels and their values.",
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 63},
        "maxProperties": 64,
    });
    object(
        description,
        &[],
        json!({
            "matchExpressions": list("Conditions on labels.", requirement(&["In", "NotIn", "Exists", "DoesNotExist"])),
            "matchLabels": labels,
        }),
    )
}

fn requirement(operators: &[&str]) -> Value {
    object(
        "A condition.",
        &["key", "operator"],
        json!({
            "key": text("The label or field.", 317),
            "operator": words("How it compares.", operators),
            "values": list("Values to compare with.", optional_text("A value.", 63)),
        }),
    )
}

fn weight() -> Value {
    number("How much it counts beside other preferences.", 1, 100)
}

fn object(description: &str, required: &[&str], properties: Value) -> Value {
    let mut schema = json!({"description": description, "type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn list(description: &str, items: Value) -> Value {
    json!({"description": description, "type": "array", "items": items, "maxItems": 64})
}

fn text(description: &str, longest: usize) -> Value {
    json!({"description": description, "type": "string", "minLength": 1, "maxLength": longest})
}

fn optional_text(description: &str, longest: usize) -> Value {
    json!({"description": description, "type": "string", "maxLength": longest})
}

fn words(description: &str, words: &[&str]) -> Value {
    json!({"description": description, "type": "string", "enum": words})
}

fn number(description: &str, least: i64, most: i64) -> Value {
    json!({"description": description, "type": "integer", "format": "int64", "minimum": least, "maximum": most})
}
