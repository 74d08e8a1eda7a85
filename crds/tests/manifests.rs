//! Manifest files that are refused, with the exact message, and files that are accepted.

use ferrum_crds::{
    ModelSource, ValidatedModel,
    manifest::{self, Refusals, Source},
};
use ferrum_engine::{Dtype, OutputLayer, Task};

mod broken;

fn parse(text: &str) -> Result<Vec<ValidatedModel>, Refusals> {
    manifest::parse(&[Source {
        name: "m.yaml".to_owned(),
        text: text.to_owned(),
    }])
}

#[test]
fn every_broken_manifest_is_refused_with_place_value_and_what_is_allowed() {
    let cases = broken::cases();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (text, expected) in &cases {
        let told = match parse(text) {
            Ok(models) => format!("accepted: {models:?}"),
            Err(refusals) => refusals.to_string(),
        };
        if told != *expected {
            wrong.push(format!(
                "--- manifest\n{text}\n--- expected\n{expected}\n--- told\n{told}\n"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_manifest_with_every_field_becomes_a_launch_configuration() {
    let models = parse(
        "apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata: {name: qwen, namespace: ai, labels: {team: search}}
spec:
  model: hf://Qwen/Qwen3-0.6B@main
  task: chat
  servedNames: [qwen3, gpt-4o]
  device: cpu
  dtype: bfloat16
  quantization: none
  tensorParallel: 1
  replicas: 2
  engine: {maxModelLen: 4096, maxNumSeqs: 600, kvCacheMemory: 1.5Gi, outputLayer: int8, prefixCaching: false, batchInvariant: true}
",
    )
    .expect("accepted");
    let [model] = &models[..] else {
        panic!("{models:?}")
    };
    let hub = ModelSource::Hub {
        repository: "Qwen/Qwen3-0.6B".to_owned(),
        revision: Some("main".to_owned()),
    };
    assert_eq!(
        (model.name(), model.replicas(), model.task()),
        ("qwen", 2, Some(Task::Chat))
    );
    assert_eq!(model.source(), &hub);
    let launch = model.launch_config();
    assert_eq!(launch.model, "hf://Qwen/Qwen3-0.6B@main");
    assert_eq!(launch.served_names, ["qwen3", "gpt-4o"]);
    assert_eq!(launch.dtype, Dtype::Bf16);
    assert_eq!(
        (launch.max_model_len, launch.kv_cache_memory),
        (Some(4096), Some(3 << 29))
    );
    // A step must hold a token of every sequence, so the default grows with maxNumSeqs.
    assert_eq!((launch.max_num_seqs, launch.max_num_batched_tokens), (600, 600));
    assert!(!launch.prefix_caching && launch.batch_invariant);
    assert_eq!(launch.output_layer, OutputLayer::Int8);
    assert_eq!(launch.validate(), Ok(()));
}

#[test]
fn what_is_left_out_has_its_default() {
    let models = parse(
        "apiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata: {name: m}\nspec: {model: hf://o/n}\n",
    )
    .expect("accepted");
    assert_eq!(
        (models[0].served_names(), models[0].replicas()),
        (&["m".to_owned()][..], 1)
    );
    let mut expected = ferrum_engine::LaunchConfig::new("hf://o/n");
    expected.served_names = vec!["m".to_owned()];
    assert_eq!(models[0].launch_config(), expected);
}

#[test]
fn several_documents_json_anchors_and_comments_are_accepted() {
    let text = "# first
---
---
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata: {name: a}
spec:
  model: &weights hf://o/n
  servedNames: [*weights]
---
# nothing here
---
{\"apiVersion\": \"ferrum.dev/v1alpha1\", \"kind\": \"FerrumModel\",
 \"metadata\": {\"name\": \"b\"}, \"spec\": {\"model\": \"file:///w\", \"replicas\": 0}}
";
    let models = parse(text).expect("accepted");
    assert_eq!(
        models.iter().map(ValidatedModel::name).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(models[0].served_names(), ["hf://o/n"]);
    assert_eq!(models[1].replicas(), 0);
}

#[test]
fn aliases_that_would_grow_without_bound_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{},", level - 1).repeat(9);
        text += &format!("a{level}: &a{level} [{alias}]\n");
    }
    let refused = parse(&text).expect_err("refused").to_string();
    assert!(
        refused.ends_with("too large: expected at most 100000 values"),
        "{refused}"
    );
    let refused = parse(&"[".repeat(100_000)).expect_err("refused").to_string();
    assert!(
        refused.contains("nested too deeply") || refused.contains("not valid YAML"),
        "{refused}"
    );
}

#[test]
fn an_object_read_back_from_a_cluster_is_accepted() {
    let text = r#"{
        "apiVersion": "ferrum.dev/v1alpha1", "kind": "FerrumModel",
        "metadata": {"name": "m", "namespace": "d", "uid": "u", "generation": 2, "resourceVersion": "12",
                     "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"a.b/c": "d"}},
        "spec": {"model": "hf://o/n", "engine": {"kvCacheMemory": 1073741824}},
        "status": {"observedGeneration": 2}
    }"#;
    let models = parse(text).expect("accepted");
    assert_eq!(models[0].launch_config().kv_cache_memory, Some(1 << 30));
}

#[test]
fn models_of_two_files_may_not_share_a_name() {
    let document = |name: &str, served: &str| {
        format!(
            "apiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata:\n  name: {name}\n\
             spec:\n  model: hf://o/n\n  servedNames: [{served}]\n"
        )
    };
    let sources = [
        Source {
            name: "a.yaml".to_owned(),
            text: document("one", "x"),
        },
        Source {
            name: "b.yaml".to_owned(),
            text: document("two", "z, x"),
        },
        Source {
            name: "c.yaml".to_owned(),
            text: document("one", "w"),
        },
    ];
    let refused = manifest::parse(&sources).expect_err("refused").to_string();
    assert_eq!(
        refused,
        "b.yaml:7:20: spec.servedNames[1]: \"x\" is taken by model one, a.yaml:7:16\n\
         c.yaml:4:9: metadata.name: \"one\" is taken by a.yaml:4:9"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let refused = manifest::read(&["/nowhere/m.yaml".into()])
        .expect_err("refused")
        .to_string();
    assert_eq!(
        refused,
        "/nowhere/m.yaml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn what_an_api_server_refuses_is_refused_in_a_file_too() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/broken");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("e2e/broken exists") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        if text.lines().any(|line| line.starts_with("# expect: apply ")) {
            let models = parse(&text);
            assert!(models.is_err(), "{}: accepted: {models:?}", path.display());
            count += 1;
        }
    }
    assert!(count >= 40, "{count} manifests");
}

#[test]
fn every_example_is_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("examples/ exists") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            manifest::read(&[path]).unwrap_or_else(|refusals| panic!("{refusals}"));
            count += 1;
        }
    }
    assert!(count >= 2, "{count} examples");
}
