//! The committed definition, names and CEL rules agree with the code.

use ferrum_crds::{FerrumModel, ValidatedModel, crd, crd_yaml, names, reference_page};
use kube::Resource;
use serde_json::Value;

mod edges;

#[test]
fn the_committed_definition_and_reference_are_what_the_code_generates() {
    for (path, generated) in [
        ("generated/ferrummodels.yaml", crd_yaml()),
        ("../docs/reference/ferrummodel.md", reference_page()),
    ] {
        let committed =
            std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path);
        assert!(
            committed == generated,
            "crds/{path} is old: run `cargo run -p ferrum-crds --bin crdgen`"
        );
    }
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
    let (schema, validator) = (kube_cel::compile_schema(&schema()), kube_cel::Validator::new());
    let (mut accepted, mut refused) = (0, 0);
    for object in edges::objects() {
        let cel = validator.validate_compiled(&schema, &object, None);
        let ours = ValidatedModel::from_value(&object);
        assert_eq!(
            cel.is_ok(),
            ours.is_ok(),
            "{object}\nAPI server: {cel:?}\nours: {ours:?}"
        );
        match ours {
            Ok(_) => {
                // A watch ends at an object that it cannot read.
                let read = serde_json::from_value::<FerrumModel>(object.clone());
                assert!(read.is_ok(), "{object}: {read:?}");
                accepted += 1;
            }
            Err(problems) => {
                refused += 1;
                let cel = cel.expect_err("just compared");
                let all = cel
                    .as_slice()
                    .iter()
                    .all(|error| error.message.contains("expected "));
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
        accepted > 100 && refused > 120,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn an_object_keeps_its_task_and_its_volume() {
    let (schema, validator) = (kube_cel::compile_schema(&schema()), kube_cel::Validator::new());
    for (old, new, told) in edges::changes() {
        let result = validator.validate_compiled(&schema, &new, Some(&old));
        match told {
            None => assert!(result.is_ok(), "{old} -> {new}: {result:?}"),
            Some(told) => {
                let errors = result.expect_err(told);
                let [error] = errors.as_slice() else {
                    panic!("{old} -> {new}: {errors:?}")
                };
                assert!(error.message.starts_with(told), "{old} -> {new}: {error:?}");
            }
        }
    }
}

#[test]
fn a_pod_template_reaches_the_pods_as_it_was_written() {
    let object = edges::everything();
    let model = ValidatedModel::from_value(&object).expect("accepted");
    let mut template = serde_json::to_value(model.pod_template()).expect("JSON");
    // Kubernetes' own form of a number of CPUs.
    assert_eq!(template["resources"]["limits"]["cpu"], "4");
    template["resources"]["limits"]["cpu"] = 4.into();
    assert_eq!(template, object["spec"]["podTemplate"]);
}

fn schema() -> Value {
    let definition = serde_json::to_value(crd()).expect("JSON");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}
