//! What is built, compared with the files of `expected/`; `UPDATE=1 cargo test -p ferrum-operator` writes them anew.

use std::{fs, path::PathBuf};

use serde::Serialize;

use super::*;
use crate::test_support::validated;

fn check(name: &str, objects: &[&dyn erased::Yaml]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/build/expected/{name}.yaml"));
    let given = objects
        .iter()
        .map(|object| object.yaml())
        .collect::<Vec<_>>()
        .join("---\n");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &given).expect("writes");
    }
    let held = fs::read_to_string(&path).unwrap_or_default();
    let differs = given
        .lines()
        .zip(held.lines())
        .position(|(given, held)| given != held);
    let line = differs.unwrap_or_else(|| given.lines().count().min(held.lines().count()));
    assert!(
        given == held,
        "{} differs from line {} on:\n  held:  {}\n  given: {}",
        path.display(),
        line + 1,
        held.lines().nth(line).unwrap_or("(end)"),
        given.lines().nth(line).unwrap_or("(end)")
    );
}

mod erased {
    use super::*;

    pub(super) trait Yaml {
        fn yaml(&self) -> String;
    }

    impl<K: Serialize> Yaml for K {
        fn yaml(&self) -> String {
            serde_yaml::to_string(self).expect("YAML")
        }
    }
}

fn deployment(resources: &Resources<Prepared>) -> &Deployment {
    match &resources.engines {
        Engines::Run(deployment) => deployment,
        Engines::KeepWith { .. } => panic!("engines are kept"),
    }
}

#[test]
fn the_smallest_model_becomes_a_deployment() {
    let built = build(&validated("model: 'hf://org/name'"), 1, Weights::Ready);
    assert!(built.cache.is_none() && built.fetch.is_none() && built.budget.is_none());
    check("smallest", &[deployment(&built)]);
}

#[test]
fn every_field_of_a_model_reaches_its_objects() {
    let spec = "model: 'hf://org/name@main', task: chat, servedNames: [a, b], dtype: float32, replicas: 2, \
                engine: {maxModelLen: 4096, maxNumSeqs: 8, maxNumBatchedTokens: 256, kvCacheMemory: 1Gi, outputLayer: int8, prefixCaching: \
                false, batchInvariant: true}, cache: {size: 20Gi, storageClassName: fast}, hfTokenSecretRef: {name: hf, key: token}, \
                podTemplate: {nodeSelector: {disk: fast}, tolerations: [{key: gpu, operator: Exists}], runtimeClassName: \
                rc, priorityClassName: high, resources: {limits: {memory: 4Gi}}, env: [{name: A, value: b}], labels: {team: x}, annotations: {note: y}}, rollout: {maxSurge: 2, \
                drainTimeoutSeconds: 30}";
    let mut validated = validated(spec);
    validated.hub_endpoint = Some("http://hub.local".to_owned());
    let built = build(&validated, 2, Weights::Ready);
    let (cache, fetch, budget) = (
        built.cache.as_ref().expect("a cache"),
        built.fetch.as_ref().expect("a job"),
        built.budget.as_ref().expect("a budget"),
    );
    check("everything", &[cache, fetch, deployment(&built), budget]);
}

#[test]
fn a_model_that_may_have_two_replicas_keeps_all_but_one_of_them_when_nodes_are_drained() {
    let cases = [
        ("replicas: 1", false),
        ("replicas: 2", true),
        ("autoscaling: {minReplicas: 0, maxReplicas: 1}", false),
        ("autoscaling: {minReplicas: 0, maxReplicas: 2}", true),
    ];
    for (scaling, expected) in cases {
        let built = build(
            &validated(&format!("model: 'hf://org/name', {scaling}")),
            1,
            Weights::Ready,
        );
        assert_eq!(built.budget.is_some(), expected, "{scaling}");
    }
}

#[test]
fn engines_on_gpus_ask_for_as_many_as_share_a_replica() {
    let built = build(
        &validated("model: 'hf://org/name', device: cuda, tensorParallel: 2"),
        1,
        Weights::Ready,
    );
    let pod = deployment(&built)
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .expect("a pod");
    let container = &pod.containers[0];
    assert_eq!(container.image.as_deref(), Some("engine-cuda:1"));
    let limits = container
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref())
        .expect("limits");
    assert_eq!(limits["nvidia.com/gpu"].0, "2");
    assert!(
        container
            .args
            .as_ref()
            .expect("args")
            .contains(&"--tensor-parallel=2".to_owned())
    );
}

#[test]
fn weights_of_a_volume_or_a_node_are_mounted_for_reading_only() {
    for (model, argument) in [
        ("pvc://weights/qwen", "file:///mnt/model/qwen"),
        ("file:///srv/models/x.gguf", "file:///srv/models/x.gguf"),
    ] {
        let built = build(&validated(&format!("model: '{model}'")), 1, Weights::Ready);
        assert!(built.fetch.is_none(), "{model} needs no fetch");
        let pod = deployment(&built)
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref())
            .expect("a pod");
        let container = &pod.containers[0];
        assert_eq!(container.args.as_ref().expect("args")[1], argument);
        let mounts = container.volume_mounts.as_ref().expect("mounts");
        let mount = mounts
            .iter()
            .find(|mount| mount.name == "model")
            .expect("the model's");
        assert_eq!(mount.read_only, Some(true));
    }
}

#[test]
fn while_weights_are_awaited_only_the_number_of_engines_is_told() {
    let built = build(
        &validated("model: 'hf://org/name', cache: {size: 1Gi}"),
        3,
        Weights::Awaited,
    );
    assert!(matches!(built.engines, Engines::KeepWith { replicas: 3 }));
    assert!(built.cache.is_some() && built.fetch.is_some());
}

#[test]
fn a_fetch_is_done_again_for_another_source_and_not_for_another_image() {
    let name = |spec: &str, image: &str| {
        let mut validated = validated(spec);
        validated.image = image.to_owned();
        fetch_job_name(&validated).expect("a job")
    };
    let spec = "model: 'hf://org/name', cache: {size: 1Gi}";
    assert_eq!(name(spec, "a"), name(spec, "b"));
    assert_ne!(
        name(spec, "a"),
        name("model: 'hf://org/name@v2', cache: {size: 1Gi}", "a")
    );
}
