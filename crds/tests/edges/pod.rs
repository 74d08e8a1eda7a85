//! Edges of the rules on pods.

use serde_json::{Value, json};

use super::with;

pub(super) fn objects() -> Vec<Value> {
    [
        mappings(),
        tolerations(),
        classes(),
        resources(),
        env(),
        vec![everything()],
    ]
    .concat()
}

fn template(field: &str, value: Value) -> Value {
    with(&["podTemplate", field], value)
}

fn mappings() -> Vec<Value> {
    let mut objects = Vec::new();
    for key in [
        "a",
        "team.x_y-1",
        "example.com/team",
        "-a",
        "a-",
        "",
        "a b",
        "Example.com/team",
        "example.com/",
        "/team",
        "a/b/c",
        "ä",
    ] {
        for field in ["labels", "annotations", "nodeSelector"] {
            objects.push(template(field, json!({key: "v"})));
        }
    }
    for value in ["", "a", "a.b_c-1", "-a", "a-", "a b", "ä"] {
        for field in ["labels", "annotations", "nodeSelector"] {
            objects.push(template(field, json!({"example.com/k": value})));
        }
    }
    for key in [
        "ferrum.dev/model",
        "ferrum.dev/x",
        "ferrum.dev",
        "sub.ferrum.dev/x",
        "app.kubernetes.io/name",
        "app.kubernetes.io/component",
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/part-of",
        "controller.kubernetes.io/pod-deletion-cost",
    ] {
        for field in ["labels", "annotations", "nodeSelector"] {
            objects.push(template(field, json!({key: "1"})));
        }
    }
    objects
}

fn tolerations() -> Vec<Value> {
    [
        json!({}),
        json!({"operator": "Exists"}),
        json!({"operator": "Equal"}),
        json!({"key": "gpu"}),
        json!({"key": "gpu", "value": "yes"}),
        json!({"key": "gpu", "operator": "Exists", "value": ""}),
        json!({"key": "gpu", "operator": "Exists", "value": "yes"}),
        json!({"key": "gpu", "tolerationSeconds": 5}),
        json!({"key": "gpu", "tolerationSeconds": 5, "effect": "NoSchedule"}),
        json!({"key": "gpu", "tolerationSeconds": 5, "effect": "NoExecute"}),
    ]
    .map(|toleration| template("tolerations", json!([toleration])))
    .into()
}

fn classes() -> Vec<Value> {
    let mut objects = Vec::new();
    for name in ["nvidia", "high-1.x", "High", "a_b", "-a", "a."] {
        objects.push(template("runtimeClassName", name.into()));
        objects.push(template("priorityClassName", name.into()));
    }
    objects
}

fn resources() -> Vec<Value> {
    let mut objects = Vec::new();
    let amounts = [
        json!("2"),
        json!(2),
        json!("500m"),
        json!("1.5Gi"),
        json!("1Ei"),
        json!("-1"),
        json!(-1),
        json!("1K"),
        json!("8GB"),
        json!(""),
        json!("1."),
        json!(".5"),
        json!("1e3"),
        json!("0.0000000001"),
    ];
    for amount in amounts {
        for side in ["limits", "requests"] {
            objects.push(template("resources", json!({side: {"memory": amount}})));
        }
    }
    for side in ["limits", "requests"] {
        objects.push(template("resources", json!({side: {"nvidia.com/gpu": 1}})));
        objects.push(template("resources", json!({side: {"example.com/gpu": 1}})));
    }
    for (request, limit) in [
        (json!("1Gi"), json!("1Gi")),
        (json!("1G"), json!("1Gi")),
        (json!("1Gi"), json!("1G")),
        (json!(2), json!("1999m")),
        (json!(2), json!("2000m")),
        (json!("0.3"), json!("300m")),
    ] {
        objects.push(template(
            "resources",
            json!({"limits": {"cpu": limit, "memory": "1Gi"}, "requests": {"cpu": request, "pods": 1}}),
        ));
    }
    objects
}

fn env() -> Vec<Value> {
    let key = json!({"name": "n", "key": "k"});
    [
        json!({"name": "A"}),
        json!({"name": "FERRUM_SIM", "value": "true"}),
        json!({"name": "a.b-c_1", "value": ""}),
        json!({"name": "1A"}),
        json!({"name": "A B"}),
        json!({"name": "A=B"}),
        json!({"name": "HF_TOKEN"}),
        json!({"name": "HF_HOME"}),
        json!({"name": "HF_HUB_CACHE"}),
        json!({"name": "HF_ENDPOINT", "value": "http://hub"}),
        json!({"name": "A", "valueFrom": {"secretKeyRef": key}}),
        json!({"name": "A", "valueFrom": {"configMapKeyRef": key}}),
        json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}),
        json!({"name": "A", "valueFrom": {}}),
        json!({"name": "A", "valueFrom": {"secretKeyRef": key, "configMapKeyRef": key}}),
        json!({"name": "A", "value": "x", "valueFrom": {"secretKeyRef": key}}),
        json!({"name": "A", "value": "", "valueFrom": {"secretKeyRef": key}}),
    ]
    .map(|variable| template("env", json!([variable])))
    .into()
}

/// Every field of every type of Kubernetes that a template takes.
pub(crate) fn everything() -> Value {
    let expression = json!({"key": "zone", "operator": "In", "values": ["a", "b"]});
    let pods = json!({
        "labelSelector": {"matchLabels": {"app": "x"}, "matchExpressions": [expression]},
        "matchLabelKeys": ["a"],
        "mismatchLabelKeys": ["b"],
        "namespaceSelector": {"matchLabels": {"team": "x"}},
        "namespaces": ["default"],
        "topologyKey": "kubernetes.io/hostname",
    });
    let pod_affinity = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [pods],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": pods}],
    });
    let nodes = json!({"matchExpressions": [expression], "matchFields": [expression]});
    with(
        &["podTemplate"],
        json!({
            "nodeSelector": {"disk": "fast"},
            "tolerations": [
                {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [nodes]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": nodes}],
                },
                "podAffinity": pod_affinity,
                "podAntiAffinity": pod_affinity,
            },
            "runtimeClassName": "nvidia",
            "priorityClassName": "high",
            "resources": {"limits": {"cpu": 4, "memory": "8Gi"}, "requests": {"cpu": "500m", "memory": "8Gi"}},
            "env": [
                {"name": "A", "value": "x"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k", "optional": true}}},
                {"name": "C", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                {"name": "D", "valueFrom": {"resourceFieldRef":
                    {"containerName": "engine", "divisor": "1Mi", "resource": "limits.memory"}}},
            ],
            "labels": {"team": "search"},
            "annotations": {"example.com/owner": "search team, floor 2"},
        }),
    )
}
