//! What a drain of nodes leaves of a model: all replicas but one.

use ferrum_crds::{Scaling, names};
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{metadata, selector};
use crate::validate::Validated;

/// Builds the budget of a model that has, or may have, more than one replica. A single replica needs none: a drain that
/// waited for it would never end.
pub(super) fn build_budget(validated: &Validated) -> Option<PodDisruptionBudget> {
    let most_replicas = match validated.model.scaling() {
        Scaling::Auto(autoscaling) => autoscaling.max_replicas,
        Scaling::Fixed(replicas) => replicas,
    };
    if most_replicas < 2 {
        return None;
    }
    Some(PodDisruptionBudget {
        metadata: metadata(
            validated,
            validated.model.name().to_owned(),
            names::COMPONENT_ENGINE,
        ),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            min_available: None,
            selector: Some(LabelSelector {
                match_labels: Some(selector(validated, names::COMPONENT_ENGINE)),
                ..LabelSelector::default()
            }),
            // Replicas that do not answer hold no drain up.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        }),
        status: None,
    })
}
