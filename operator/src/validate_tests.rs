//! What is refused, and with which word.

use ferrum_crds::names::ConditionReason as Reason;

use crate::{
    config::OperatorConfig,
    dereference::{Dereferenced, Referenced},
    names_taken::NamesTaken,
    test_support::{config, found},
    validate::{Refusal, validate},
};

fn reason(found: &Dereferenced, config: &OperatorConfig) -> Reason {
    validate(found, config).expect_err("refused").reason
}

#[test]
fn a_reference_that_leads_nowhere_is_refused_by_name() {
    let mut broken = found("model: 'hf://org/name', hfTokenSecretRef: {name: hf, key: token}");
    broken.hf_token = Referenced::Missing;
    let refusal = validate(&broken, &config()).expect_err("refused");
    assert_eq!(refusal.reason, Reason::SecretNotFound);
    assert!(
        refusal.message.contains("kubectl create secret generic hf"),
        "{}",
        refusal.message
    );
    broken.hf_token = Referenced::WithoutKey(vec!["other".to_owned()]);
    let refusal = validate(&broken, &config()).expect_err("refused");
    assert_eq!(refusal.reason, Reason::SecretKeyMissing);
    assert!(refusal.message.ends_with("it has other"), "{}", refusal.message);
    let mut broken = found("model: 'pvc://weights/x'");
    broken.claim = Referenced::Missing;
    assert_eq!(reason(&broken, &config()), Reason::ClaimNotFound);
}

#[test]
fn what_the_operator_was_not_given_is_refused() {
    let strict = OperatorConfig {
        allow_node_files: false,
        engine_image_cuda: None,
        ..config()
    };
    assert_eq!(
        reason(&found("model: 'file:///srv/x'"), &strict),
        Reason::NodeFilesForbidden
    );
    assert_eq!(
        reason(&found("model: 'hf://org/name', device: cuda"), &strict),
        Reason::NoEngineImage
    );
}

#[test]
fn a_spec_that_passed_an_older_definition_is_refused_in_words() {
    let refusal =
        validate(&found("model: 'hf://org/name', tensorParallel: 3"), &config()).expect_err("refused");
    assert_eq!(refusal.reason, Reason::InvalidSpec);
    assert!(
        refusal.message.contains("spec.tensorParallel"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_task_of_a_later_version_is_refused_with_what_this_one_serves() {
    let refusal =
        validate(&found("model: 'hf://org/name', task: transcription"), &config()).expect_err("refused");
    assert_eq!(refusal.reason, Reason::TaskNotSupported);
    assert!(
        refusal.message.contains("serves chat and embedding"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_model_is_served_under_the_names_that_are_left() {
    let refusal = Refusal::new(Reason::ServedNameTaken, "a is served by x/y");
    let mut younger = found("model: 'hf://org/name', servedNames: [a, b]");
    younger.names_taken = Some(NamesTaken {
        refusal: refusal.clone(),
        is_all: false,
    });
    assert_eq!(
        validate(&younger, &config()).expect("served").warning,
        Some(refusal.clone())
    );
    younger.names_taken = Some(NamesTaken {
        refusal: refusal.clone(),
        is_all: true,
    });
    assert_eq!(validate(&younger, &config()).expect_err("refused"), refusal);
}
