use ferrum_crds::manifest::{self, Source};

use super::*;

/// A model with `settings` in its spec.
fn model(name: &str, settings: &str) -> ValidatedModel {
    let text = format!(
        "{{apiVersion: ferrum.dev/v1alpha1, kind: FerrumModel, metadata: {{name: {name}}}, \
         spec: {{model: hf://o/n, {settings}}}}}"
    );
    let source = Source {
        name: "test".to_owned(),
        text,
    };
    manifest::parse(&[source]).expect("valid").remove(0)
}

fn running(id: &str, model: &ValidatedModel, state: State) -> Running {
    Running {
        id: id.to_owned(),
        model: model.name().to_owned(),
        launch: model.launch_config(),
        state,
    }
}

fn told(actions: &[Action]) -> Vec<String> {
    let tell = |action: &Action| match action {
        Action::Drain { id, reason } => format!("drain {id}: {reason}"),
        Action::Start { id, reason, .. } => format!("start {id}: {reason}"),
    };
    actions.iter().map(tell).collect()
}

#[test]
fn the_first_plan_starts_every_replica() {
    let desired = [
        model("a", "replicas: 2"),
        model("b", ""),
        model("c", "replicas: 0"),
    ];
    assert_eq!(
        told(&plan(&desired, &[])),
        [
            "start a-0: 2 wanted, 0 there",
            "start a-1: 2 wanted, 0 there",
            "start b-0: 1 wanted, 0 there"
        ]
    );
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let desired = model("a", "replicas: 3");
    let running = [
        running("a-0", &desired, State::Ready),
        running("a-1", &desired, State::Starting),
        running("a-7", &desired, State::Failed),
    ];
    assert_eq!(plan(&[desired], &running), []);
}

#[test]
fn a_model_that_left_the_manifests_is_drained() {
    let gone = model("a", "");
    let running = [
        running("a-0", &gone, State::Ready),
        running("a-1", &gone, State::Draining),
    ];
    assert_eq!(
        told(&plan(&[], &running)),
        ["drain a-0: its model is not in the manifests any more"]
    );
}

#[test]
fn fewer_replicas_drain_those_that_serve_least() {
    let desired = model("a", "replicas: 1");
    let running = [
        running("a-0", &desired, State::Failed),
        running("a-1", &desired, State::Starting),
        running("a-2", &desired, State::Ready),
    ];
    assert_eq!(
        told(&plan(&[desired], &running)),
        ["drain a-1: 1 wanted", "drain a-0: 1 wanted"]
    );
}

#[test]
fn a_changed_model_starts_its_replacement_before_the_old_replica_goes() {
    let (old, new) = (
        model("a", "engine: {maxNumSeqs: 32}"),
        model("a", "engine: {maxNumSeqs: 16}"),
    );
    let old_ready = running("a-0", &old, State::Ready);
    let desired = [new.clone()];
    assert_eq!(
        told(&plan(&desired, std::slice::from_ref(&old_ready))),
        ["start a-1: replaces a-0: max-num-seqs 32 -> 16"]
    );
    let starting = running("a-1", &new, State::Starting);
    assert_eq!(plan(&desired, &[old_ready.clone(), starting]), []);
    let ready = running("a-1", &new, State::Ready);
    assert_eq!(
        told(&plan(&desired, &[old_ready, ready])),
        ["drain a-0: max-num-seqs 32 -> 16"]
    );
}

#[test]
fn a_replacement_that_cannot_load_leaves_the_old_replica_in_place() {
    let (old, new) = (model("a", "dtype: float32"), model("a", "dtype: float16"));
    let running = [
        running("a-0", &old, State::Ready),
        running("a-1", &new, State::Failed),
    ];
    assert_eq!(plan(&[new], &running), []);
}

#[test]
fn an_old_replica_that_does_not_answer_is_replaced_at_once() {
    let (old, new) = (model("a", "dtype: float32"), model("a", "dtype: float16"));
    let running = [running("a-0", &old, State::Failed)];
    assert_eq!(
        told(&plan(&[new], &running)),
        [
            "drain a-0: dtype float32 -> float16",
            "start a-1: 1 wanted, 0 there"
        ]
    );
}

#[test]
fn changes_are_told_by_flag() {
    let old = model("a", "servedNames: [x]").launch_config();
    let new = model(
        "a",
        "servedNames: [x, z], engine: {prefixCaching: false, maxModelLen: 64}",
    )
    .launch_config();
    assert_eq!(
        describe_change(&old, &new),
        "served-name x -> x,z, max-model-len unset -> 64, no-prefix-caching unset -> set"
    );
}

/// A small deterministic generator; the histories below need variety, not quality.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn any_history_ends_as_desired_and_never_serves_with_fewer_than_it_could() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut running: Vec<Running> = Vec::new();
        for _ in 0..5 {
            let replicas = random.below(4);
            let desired = [model(
                "a",
                &format!(
                    "replicas: {replicas}, engine: {{maxNumSeqs: {}}}",
                    1 + random.below(3)
                ),
            )];
            let served_before = ready_count(&running);
            roll_out(&desired, &mut running, &mut random, served_before.min(replicas));
        }
    }
}

/// Carries plans out in random order until nothing is left to do; `floor` replicas must answer all along.
fn roll_out(desired: &[ValidatedModel], running: &mut Vec<Running>, random: &mut Random, floor: usize) {
    let wanted = desired[0].replicas();
    for _ in 0..200 {
        let actions = plan(desired, running);
        for action in &actions {
            match action {
                Action::Drain { id, .. } => {
                    let replica = running
                        .iter_mut()
                        .find(|replica| replica.id == *id)
                        .expect("exists");
                    assert_ne!(replica.state, State::Draining, "drained twice");
                    replica.state = State::Draining;
                }
                Action::Start {
                    id, model, launch, ..
                } => {
                    assert!(running.iter().all(|replica| replica.id != *id), "{id} exists");
                    let (id, model, launch) = (id.clone(), model.clone(), launch.clone());
                    running.push(Running {
                        id,
                        model,
                        launch,
                        state: State::Starting,
                    });
                }
            }
        }
        assert!(ready_count(running) >= floor, "{running:?}");
        let moving: Vec<_> = (0..running.len())
            .filter(|index| matches!(running[*index].state, State::Starting | State::Draining))
            .collect();
        if moving.is_empty() && actions.is_empty() {
            break;
        }
        if !moving.is_empty() {
            let index = moving[random.below(moving.len())];
            match running[index].state {
                State::Draining => drop(running.remove(index)),
                _ => running[index].state = State::Ready,
            }
        }
    }
    let launch = desired[0].launch_config();
    let is_right = |replica: &Running| replica.state == State::Ready && replica.launch == launch;
    assert!(
        running.len() == wanted && running.iter().all(is_right),
        "{running:?}"
    );
}

fn ready_count(running: &[Running]) -> usize {
    running
        .iter()
        .filter(|replica| replica.state == State::Ready)
        .count()
}
