//! What a manifest that is written for a cluster means on one machine.

use std::path::PathBuf;

use ferrum_crds::{
    FieldPath, ModelSource, PodTemplate, Problem, Scaling, ValidatedModel,
    manifest::{self, Refusals, Source},
};

/// Reads manifests that this machine can serve.
///
/// # Errors
/// Every problem of every file, with its place.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<ValidatedModel>, Refusals> {
    manifest::read_with(files, problems)
}

/// Parses manifests that this machine can serve.
///
/// # Errors
/// Every problem of every file, with its place.
pub(crate) fn parse(sources: &[Source]) -> Result<Vec<ValidatedModel>, Refusals> {
    manifest::parse_with(sources, problems)
}

/// Which settings of a model mean nothing here, and what is done instead; `None` where all of them mean something.
pub(crate) fn note(model: &ValidatedModel) -> Option<String> {
    let mut ignored = Vec::new();
    if matches!(model.scaling(), Scaling::Auto(_)) {
        let replicas = match model.replicas() {
            1 => "1 replica runs".to_owned(),
            many => format!("{many} replicas run"),
        };
        ignored.push(format!("autoscaling ({replicas})"));
    }
    if model.cache().is_some() {
        ignored.push("cache (weights go into the folder of HF_HOME)".to_owned());
    }
    if model.hf_token().is_some() {
        ignored.push("hfTokenSecretRef (HF_TOKEN is read)".to_owned());
    }
    if *model.pod_template() != PodTemplate::default() {
        ignored.push("podTemplate (engines are processes with this environment)".to_owned());
    }
    let told = format!("{}: only in a cluster: {}", model.name(), ignored.join(", "));
    (!ignored.is_empty()).then_some(told)
}

fn problems(model: &ValidatedModel) -> Vec<Problem> {
    let expected = match model.source() {
        ModelSource::Claim { .. } => {
            "hf://org/name, https://host/path.gguf or file:///absolute/path with ferrum up, as volumes exist in a cluster \
             only"
        }
        ModelSource::File { .. } | ModelSource::Hub { .. } | ModelSource::Web { .. } => return Vec::new(),
    };
    let value = model.source().to_string().into();
    vec![Problem::invalid(FieldPath::of("spec.model"), &value, expected)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_spec(spec: &str) -> Result<ValidatedModel, String> {
        let source = Source {
            name: "m.yaml".to_owned(),
            text: format!(
                "apiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata: {{name: m}}\nspec: {{{spec}}}\n"
            ),
        };
        match parse(&[source]) {
            Ok(mut models) => Ok(models.remove(0)),
            Err(refusals) => Err(refusals.to_string()),
        }
    }

    #[test]
    fn a_manifest_for_a_cluster_runs_and_says_what_means_nothing_here() {
        let model = parse_spec(
            "model: hf://o/n, autoscaling: {minReplicas: 0, maxReplicas: 4}, cache: {size: 1Gi}, \
             hfTokenSecretRef: {name: hf, key: token}, podTemplate: {labels: {team: a}}, rollout: {maxSurge: 2}",
        )
        .expect("accepted");
        assert_eq!(model.replicas(), 1);
        assert_eq!(
            note(&model).as_deref(),
            Some(
                "m: only in a cluster: autoscaling (1 replica runs), cache (weights go into the folder of HF_HOME), \
                 hfTokenSecretRef (HF_TOKEN is read), podTemplate (engines are processes with this environment)"
            )
        );
        let model =
            parse_spec("model: hf://o/n, autoscaling: {minReplicas: 2, maxReplicas: 4}").expect("accepted");
        assert_eq!(
            note(&model).as_deref(),
            Some("m: only in a cluster: autoscaling (2 replicas run)")
        );
        assert_eq!(
            note(&parse_spec("model: hf://o/n, replicas: 3").expect("accepted")),
            None
        );
    }

    #[test]
    fn a_source_that_only_a_cluster_has_is_refused_with_its_place() {
        assert_eq!(
            parse_spec("model: pvc://weights/qwen"),
            Err(
                "m.yaml:4:15: spec.model: \"pvc://weights/qwen\" is not allowed: expected hf://org/name, \
                 https://host/path.gguf or file:///absolute/path with ferrum up, as volumes exist in a cluster only"
                    .to_owned()
            )
        );
        parse_spec("model: 'https://example.com/x.gguf'").expect("a file of any web server");
    }
}
