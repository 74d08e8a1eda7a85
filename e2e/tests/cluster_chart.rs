//! The chart's text: what its templates give, and what its schema refuses.
#![cfg(feature = "cluster")] // helm comes with the cluster's programs

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/ferrum")
}

/// Standard output, or what helm says is wrong.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("helm").args(arguments).current_dir(chart()).output();
    let output = output.expect("helm is in PATH: run this with `make e2e`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

fn template(arguments: &[&str]) -> Result<String, String> {
    let fixed = [
        "template",
        "ferrum",
        ".",
        "--namespace=ferrum-system",
        "--kube-version=1.34.0",
    ];
    helm(&[&fixed, arguments].concat())
}

#[test]
fn the_linter_finds_nothing() {
    helm(&["lint", "--strict", "."]).expect("clean");
}

#[test]
fn the_templates_give_what_tests_holds_for_each_set_of_values() {
    let mut compared = 0;
    for entry in fs::read_dir(chart().join("tests")).expect("the folder") {
        let values = entry.expect("an entry").path();
        let Some(name) = values.to_str().and_then(|path| path.strip_suffix(".values.yaml")) else {
            continue;
        };
        let expected = PathBuf::from(format!("{name}.expected.yaml"));
        let given = template(&["--values", &values.to_string_lossy()]).expect("renders");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &given).expect("writes");
        }
        let held = fs::read_to_string(&expected).unwrap_or_default();
        let differs = given
            .lines()
            .zip(held.lines())
            .position(|(given, held)| given != held);
        assert!(
            given == held,
            "{} differs from line {} on; `UPDATE=1 make e2e TEST=cluster_chart` writes it anew",
            expected.display(),
            differs.map_or(given.lines().count().min(held.lines().count()), |line| line) + 1
        );
        compared += 1;
    }
    assert!(compared >= 3, "{compared} sets of values");
}

#[test]
fn the_definition_is_the_generated_one_and_stays_when_the_chart_goes() {
    let rendered = template(&["--show-only=templates/crd.yaml"]).expect("renders");
    let rendered: serde_json::Value = serde_yaml::from_str(&rendered).expect("YAML");
    let generated = serde_json::to_value(ferrum_crds::crd()).expect("JSON");
    assert_eq!(rendered["spec"], generated["spec"]);
    assert_eq!(
        rendered["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
    let without = template(&["--set=crds.install=false"]).expect("renders");
    assert!(!without.contains("CustomResourceDefinition"));
}

#[test]
fn values_that_cannot_work_are_refused_by_name() {
    for (setting, named) in [
        ("router.replicas=0", "/router/replicas"),
        ("router.replicas=two", "/router/replicas"),
        ("router.service.type=Public", "/router/service/type"),
        ("operator.hubEndpoint=hub.example.com", "/operator/hubEndpoint"),
        ("images.pullPolicy=Sometimes", "/images/pullPolicy"),
        ("namespaces={Team_A}", "/namespaces/0"),
        ("rooter.replicas=2", "rooter"),
    ] {
        let refusal = template(&["--set", setting]).expect_err(setting);
        assert!(refusal.contains(named), "{setting}: {refusal}");
    }
}

#[test]
fn every_pod_obeys_restricted_pod_security() {
    let mut pods = 0;
    for document in serde_yaml::Deserializer::from_str(&template(&[]).expect("renders")) {
        let object: serde_json::Value = serde::Deserialize::deserialize(document).expect("YAML");
        let pod = match object["kind"].as_str() {
            Some("Deployment") => &object["spec"]["template"]["spec"],
            Some("Pod") => &object["spec"],
            _ => continue,
        };
        let name = &object["metadata"]["name"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        for container in pod["containers"].as_array().expect("containers") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
        }
        pods += 1;
    }
    assert_eq!(pods, 3, "operator, router and the test");
}
