use serde_json::json;

use super::*;

fn model(value: Value) -> Read<ModelFacts> {
    read_model(&serde_json::from_value(value).expect("an object"))
}

fn pod(value: Value) -> Read<PodFacts> {
    read_pod(&serde_json::from_value(value).expect("a pod"))
}

fn facts(spec: Value, status: Value) -> ModelFacts {
    let read = model(json!({
        "apiVersion": "ferrum.dev/v1alpha1", "kind": "FerrumModel",
        "metadata": {"name": "m", "namespace": "a", "generation": 2, "creationTimestamp": "2026-01-01T00:00:10Z"},
        "spec": spec, "status": status,
    }));
    read.1.expect("a model")
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "SomeReason", "message": message})
}

fn running_pod() -> Value {
    json!({
        "metadata": {
            "name": "m-1", "namespace": "a", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:10Z",
            "labels": {"ferrum.dev/model": "m"},
        },
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 9000}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7"},
    })
}

#[test]
fn a_model_without_served_names_answers_to_its_own() {
    assert_eq!(facts(json!({"model": "hf://a/b"}), json!({})).served_names, ["m"]);
    let given = facts(json!({"servedNames": ["x", "y"], "task": "embedding"}), json!({}));
    assert_eq!(
        (given.served_names, given.task),
        (vec!["x".to_owned(), "y".to_owned()], Task::Embedding)
    );
}

#[test]
fn fields_of_a_later_version_do_no_harm() {
    let later = facts(
        json!({"task": "video", "servedNames": "x", "new": {}}),
        json!({"conditions": [3]}),
    );
    assert_eq!((later.task, later.message), (Task::Chat, None));
}

#[test]
fn a_degraded_or_refused_model_says_why() {
    for (kind, status) in [("Degraded", "True"), ("Accepted", "False")] {
        let conditions = json!({"conditions": [condition(kind, status, "the token is wrong")]});
        let message = facts(json!({}), conditions).message;
        assert_eq!(message.as_deref(), Some("the token is wrong"), "{kind}");
    }
    let fine = json!({"conditions": [condition("Degraded", "False", ""), condition("Accepted", "True", "")]});
    assert_eq!(facts(json!({}), fine).message, None);
}

#[test]
fn a_model_that_waits_for_a_node_is_not_refused_but_says_so_as_its_phase() {
    let message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu";
    let told = |reason: &str| {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
        let no_cache =
            json!({"type": "WeightsCached", "status": "False", "reason": "NoCache", "message": "none"});
        let conditions = [
            condition("Degraded", "True"),
            no_cache,
            condition("Scheduled", "False"),
        ];
        let status = json!({"conditions": conditions});
        let facts = facts(json!({}), status);
        (facts.message, facts.phase)
    };
    let phase = Some(format!("schedule: {message}"));
    for reason in [
        "InsufficientGpu",
        "InsufficientResources",
        "NoMatchingNode",
        "ClaimPending",
    ] {
        assert_eq!(told(reason), (None, phase.clone()), "{reason}");
    }
    for reason in ["PriorityClassNotFound", "QuotaExceeded", "OfALaterVersion"] {
        assert_eq!(
            told(reason),
            (Some(message.to_owned()), phase.clone()),
            "{reason}"
        );
    }
}

#[test]
fn what_was_said_of_an_older_spec_does_not_count() {
    let old = json!({"observedGeneration": 1, "conditions": [condition("Degraded", "True", "wrong")]});
    assert_eq!(facts(json!({}), old).message, None);
    let current = json!({"observedGeneration": 2, "conditions": [condition("Degraded", "True", "wrong")]});
    assert!(facts(json!({}), current).message.is_some());
}

#[test]
fn the_phase_is_the_first_step_that_is_not_done() {
    let conditions = json!({"conditions": [
        condition("Progressing", "True", "waits for a pod"),
        condition("Scheduled", "False", "0/2 nodes have nvidia.com/gpu"),
        condition("WeightsCached", "False", "43 % of 8.1 GB"),
    ]});
    assert_eq!(
        facts(json!({}), conditions).phase.as_deref(),
        Some("weights: 43 % of 8.1 GB")
    );
    let conditions = json!({"conditions": [
        condition("Progressing", "True", "waits for a pod"), condition("WeightsCached", "True", ""),
    ]});
    assert_eq!(
        facts(json!({}), conditions).phase.as_deref(),
        Some("waits for a pod")
    );
    let stopped = facts(json!({"replicas": 0}), json!({}));
    assert_eq!(stopped.phase.as_deref(), Some("stopped: spec.replicas is 0"));
}

#[test]
fn a_model_that_is_being_deleted_is_gone() {
    let (key, facts) = model(json!({
        "apiVersion": "ferrum.dev/v1alpha1", "kind": "FerrumModel", "spec": {},
        "metadata": {"name": "m", "namespace": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
    }));
    assert_eq!((key.name.as_str(), facts), ("m", None));
}

#[test]
fn a_pod_is_a_replica_from_its_address_to_its_end() {
    let facts = pod(running_pod()).1.expect("a replica");
    assert_eq!(
        (facts.address.to_string().as_str(), facts.port, facts.is_draining),
        ("10.0.0.7", 9000, false)
    );
    let mut without_address = running_pod();
    without_address["status"]["podIP"] = Value::Null;
    assert_eq!(pod(without_address).1, None);
    for phase in ["Failed", "Succeeded"] {
        let mut over = running_pod();
        over["status"]["phase"] = phase.into();
        assert_eq!(pod(over).1, None, "{phase}");
    }
}

#[test]
fn a_pod_drains_from_its_deletion_timestamp_on() {
    let mut leaving = running_pod();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z".into();
    assert!(pod(leaving).1.expect("still there").is_draining);
}

#[test]
fn a_pod_that_the_operator_marked_drains_until_the_mark_is_gone() {
    let mut marked = running_pod();
    marked["metadata"]["annotations"] = json!({names::ANNOTATION_DRAINING: "true"});
    assert!(pod(marked).1.expect("still there").is_draining);
}

#[test]
fn a_pod_without_a_named_port_has_the_usual_one() {
    let mut bare = running_pod();
    bare["spec"]["containers"][0]["ports"] = json!([{"containerPort": 1}]);
    assert_eq!(pod(bare).1.expect("a replica").port, names::ENGINE_PORT);
}
