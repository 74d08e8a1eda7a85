//! Objects whose shape is right, around the edge of every rule.

use ferrum_crds::names;
use serde_json::{Value, json};

mod pod;

pub(crate) use pod::everything;

/// Each breaks a rule at most once.
pub(crate) fn objects() -> Vec<Value> {
    [model(), engine(), scaling(), storage(), pod::objects()].concat()
}

/// An object before and after, and how the refusal begins.
pub(crate) fn changes() -> Vec<(Value, Value, Option<&'static str>)> {
    let cache = |cache: Value| with(&["cache"], cache);
    let task = |task: &str| with(&["task"], task.into());
    vec![
        (task("chat"), task("chat"), None),
        (minimal(), task("chat"), None),
        (task("chat"), task("embedding"), Some("cannot be changed")),
        (with(&["replicas"], 1.into()), with(&["replicas"], 5.into()), None),
        (minimal(), cache(json!({"size": "1Gi"})), None),
        (cache(json!({"size": "1Gi"})), minimal(), None),
        (cache(json!({"size": "1Gi"})), cache(json!({"size": "2Gi"})), None),
        (
            cache(json!({"size": "1Gi"})),
            cache(json!({"size": "1024Mi"})),
            None,
        ),
        (
            cache(json!({"size": "2Gi"})),
            cache(json!({"size": "1Gi"})),
            Some("cannot shrink"),
        ),
        (
            cache(json!({"size": 2_u64 << 30})),
            cache(json!({"size": "1Gi"})),
            Some("cannot shrink"),
        ),
        (
            cache(json!({"size": "1Gi", "storageClassName": "fast"})),
            cache(json!({"size": "1Gi", "storageClassName": "slow"})),
            Some("cannot be changed"),
        ),
        (
            cache(json!({"size": "1Gi", "storageClassName": "fast"})),
            cache(json!({"size": "1Gi"})),
            Some("cannot be changed"),
        ),
        (
            cache(json!({"size": "1Gi"})),
            cache(json!({"size": "1Gi", "accessMode": "ReadWriteOnce"})),
            None,
        ),
        (
            cache(json!({"size": "1Gi"})),
            cache(json!({"size": "1Gi", "accessMode": "ReadWriteMany"})),
            Some("cannot be changed"),
        ),
    ]
}

fn model() -> Vec<Value> {
    let mut objects = Vec::new();
    for name in [
        "a",
        "a-b",
        "0a",
        "-a",
        "a-",
        "A",
        "a.b",
        "a_b",
        &"x".repeat(63),
        &"x".repeat(64),
    ] {
        let mut object = minimal();
        object["metadata"]["name"] = name.into();
        objects.push(object);
    }
    let models = [
        "hf://org/name",
        "hf://org/name@main",
        "hf://o/n@refs/pr/1",
        "hf://o/n.v1-x_y",
        "hf://_o/n_",
        "hf://o",
        "hf://o/n/m",
        "hf://-o/n",
        "hf://o/n-",
        "hf://o/n@",
        "hf://o/n@-x",
        "hf://o/n@a@b",
        "hf:///n",
        "org/name",
        "https://x/y",
        "file:///a",
        "file:///a/b.gguf",
        "file://",
        "file:///",
        "file://a",
        "file://./a",
        "file:///a/../b",
        "file:///..",
        "file:///a/..",
        "file:///a..b",
        "smollm2:135m",
        "hf://ö/n",
        "http://x/y.gguf",
        "https://x/y.gguf",
        "https://x.example:8443/a/b~c%20/y.Q4_0.gguf",
        "https:///y.gguf",
        "https://x/.gguf",
        "https://x/y.gguf?download=true",
        "https://user:pass@x/y.gguf",
        "https://x/y.ggufs",
        "s3://bucket/x",
        "pvc://claim",
        "pvc://claim/",
        "pvc://claim/a/b.gguf",
        "pvc://my.claim-1/a b",
        "pvc://Claim/a",
        "pvc://-claim/a",
        "pvc:///a",
        "pvc://claim//a",
        "pvc://claim/../a",
        "pvc://claim/a/..",
        "pvc://claim/..a",
        "PVC://claim/a",
    ];
    objects.extend(models.map(|model| with(&["model"], model.into())));
    for names in [
        json!(["a"]),
        json!(["org/a:1.b_c-d"]),
        json!(["a", "-b"]),
        json!(["a b"]),
        json!(["ä"]),
        json!([".a"]),
    ] {
        objects.push(with(&["servedNames"], names));
    }
    let files = [
        "hf://o/n",
        "hf://o/n.gguf",
        "https://x/y.gguf",
        "file:///a/b.gguf",
        "file:///a/b",
        "pvc://c/b.gguf",
    ];
    for file in files {
        for quantization in ["auto", "gguf", "gptq-int4", "none"] {
            let mut object = with(&["model"], file.into());
            object["spec"]["quantization"] = quantization.into();
            objects.push(object);
        }
    }
    objects
}

fn engine() -> Vec<Value> {
    let mut objects = Vec::new();
    for devices in [1, 2, 3, 5, 6, 7, 8, 64] {
        objects.push(with(&["tensorParallel"], devices.into()));
    }
    for (seqs, tokens) in [
        (None, 31),
        (None, 32),
        (Some(1), 1),
        (Some(8), 7),
        (Some(8), 8),
        (Some(1024), 512),
    ] {
        let mut object = with(&["engine", "maxNumBatchedTokens"], tokens.into());
        if let Some(seqs) = seqs {
            object["spec"]["engine"]["maxNumSeqs"] = seqs.into();
        }
        objects.push(object);
    }
    let sizes = [
        "1Mi", "1023Ki", "1024Ki", "16Ti", "17Ti", "0.5Mi", "1.5Gi", "8G", "1e9", "1000m", "-1Gi", "Gi",
        "1.", "", "1 Gi", "1gi", "5Pi",
    ];
    objects.extend(sizes.map(|size| with(&["engine", "kvCacheMemory"], size.into())));
    for bytes in [0_u64, 1 << 20, (1 << 20) - 1, 16 << 40, (16 << 40) + 1] {
        objects.push(with(&["engine", "kvCacheMemory"], bytes.into()));
    }
    for task in ["chat", "embedding"] {
        for (field, value) in [
            ("kvCacheMemory", json!("1Gi")),
            ("batchInvariant", true.into()),
            ("batchInvariant", false.into()),
            ("outputLayer", "int8".into()),
            ("outputLayer", "auto".into()),
            ("prefixCaching", true.into()),
            ("prefixCaching", false.into()),
            ("maxNumSeqs", 4.into()),
        ] {
            let mut object = with(&["engine", field], value);
            object["spec"]["task"] = task.into();
            objects.push(object);
        }
    }
    for device in ["cpu", "cuda"] {
        for devices in [1, 2, 3] {
            let mut object = with(&["device"], device.into());
            object["spec"]["tensorParallel"] = devices.into();
            objects.push(object);
        }
    }
    objects
}

fn scaling() -> Vec<Value> {
    let mut objects: Vec<_> = [
        json!({"maxReplicas": 1}),
        json!({"minReplicas": 0, "maxReplicas": 8}),
        json!({"minReplicas": 8, "maxReplicas": 8}),
        json!({"minReplicas": 9, "maxReplicas": 8}),
        json!({"maxReplicas": 2, "target": {"utilizationPercent": 50, "waitingTokens": 1}}),
    ]
    .map(|autoscaling| with(&["autoscaling"], autoscaling))
    .into();
    let mut both = with(&["autoscaling", "maxReplicas"], 2.into());
    both["spec"]["replicas"] = 2.into();
    objects.push(both);
    objects.push(with(
        &["rollout"],
        json!({"maxSurge": 2, "drainTimeoutSeconds": 30}),
    ));
    objects
}

fn storage() -> Vec<Value> {
    let mut objects = Vec::new();
    for model in ["hf://o/n", "https://x/y.gguf", "pvc://c/p", "file:///p"] {
        let mut cached = with(&["cache", "size"], "1Gi".into());
        cached["spec"]["model"] = model.into();
        let mut with_token = with(&["hfTokenSecretRef"], json!({"name": "hf", "key": "token"}));
        with_token["spec"]["model"] = model.into();
        objects.extend([cached, with_token]);
    }
    for size in [
        "1Mi", "1023Ki", "16Ti", "17Ti", "1.5Gi", "0", "-1Gi", "20GB", "", "1.", "lots",
    ] {
        objects.push(with(&["cache", "size"], size.into()));
    }
    for bytes in [json!(0), json!(1 << 30), json!(-5)] {
        objects.push(with(&["cache", "size"], bytes));
    }
    for name in ["fast", "fast-1.b", "Fast", "-fast", "fast.", "a_b", "ä"] {
        let cache = json!({"size": "1Gi", "storageClassName": name});
        objects.push(with(&["cache"], cache));
        objects.push(with(&["hfTokenSecretRef"], json!({"name": name, "key": "token"})));
    }
    for key in ["token", "HF_TOKEN", ".a-b", "a b", "a/b", "ä"] {
        objects.push(with(&["hfTokenSecretRef"], json!({"name": "hf", "key": key})));
    }
    objects
}

pub(crate) fn with(path: &[&str], value: Value) -> Value {
    let mut object = minimal();
    let mut field = &mut object["spec"];
    for key in path {
        field = &mut field[*key];
    }
    *field = value;
    object
}

pub(crate) fn minimal() -> Value {
    json!({
        "apiVersion": names::API_VERSION,
        "kind": names::KIND,
        "metadata": {"name": "m"},
        "spec": {"model": "hf://org/name"},
    })
}
