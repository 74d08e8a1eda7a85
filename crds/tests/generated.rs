//! The committed definition, names and CEL rules agree with the code.

use ferrum_crds::{FerrumModel, ValidatedModel, crd, crd_yaml, names};
use kube::Resource;
use serde_json::{Value, json};

#[test]
fn the_committed_definition_is_what_the_code_generates() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/generated/ferrummodels.yaml");
    let committed = std::fs::read_to_string(path).expect("committed");
    assert!(
        committed == crd_yaml(),
        "crds/generated is old: run `cargo run -p ferrum-crds --bin crdgen`"
    );
}

#[test]
fn the_derived_resource_has_the_shared_names() {
    assert_eq!(FerrumModel::group(&()), names::GROUP);
    assert_eq!(FerrumModel::version(&()), names::VERSION);
    assert_eq!(FerrumModel::api_version(&()), names::API_VERSION);
    assert_eq!(FerrumModel::kind(&()), names::KIND);
}

#[test]
fn every_field_of_the_definition_is_described() {
    fn check(schema: &Value, path: &str) {
        assert!(schema["description"].is_string(), "{path} has no description");
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            check(property, &format!("{path}.{key}"));
        }
    }
    for part in ["spec", "status"] {
        check(&schema()["properties"][part], part);
    }
}

#[test]
fn the_rules_of_the_api_server_and_ours_refuse_the_same_objects() {
    let (schema, validator) = (schema(), kube_cel::Validator::new());
    let (mut accepted, mut refused) = (0, 0);
    for object in objects() {
        let cel = validator.validate(&schema, &object, None);
        let ours = ValidatedModel::from_value(&object);
        assert_eq!(
            cel.is_ok(),
            ours.is_ok(),
            "{object}\nAPI server: {cel:?}\nours: {ours:?}"
        );
        match ours {
            Ok(_) => accepted += 1,
            Err(problems) => {
                refused += 1;
                let cel = cel.expect_err("just compared");
                let all = cel
                    .as_slice()
                    .iter()
                    .all(|error| error.message.starts_with("expected "));
                assert!(all, "a rule could not be evaluated: {cel:?}");
                assert_eq!(
                    cel.len(),
                    problems.len(),
                    "{object}\nAPI server: {cel:?}\nours: {problems:?}"
                );
            }
        }
    }
    assert!(
        accepted > 20 && refused > 40,
        "{accepted} accepted, {refused} refused"
    );
}

fn schema() -> Value {
    let definition = serde_json::to_value(crd()).expect("JSON");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Objects whose shape is right, around the edge of every rule.
fn objects() -> Vec<Value> {
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
            ("prefixCaching", true.into()),
            ("prefixCaching", false.into()),
            ("maxNumSeqs", 4.into()),
        ] {
            let mut object = with(&["engine", field], value);
            object["spec"]["task"] = task.into();
            objects.push(object);
        }
    }
    objects
}

fn with(path: &[&str], value: Value) -> Value {
    let mut object = minimal();
    let mut field = &mut object["spec"];
    for key in path {
        field = &mut field[*key];
    }
    *field = value;
    object
}

fn minimal() -> Value {
    json!({
        "apiVersion": names::API_VERSION,
        "kind": names::KIND,
        "metadata": {"name": "m"},
        "spec": {"model": "hf://org/name"},
    })
}
