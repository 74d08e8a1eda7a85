//! Whether an older model has a served name of this one.

use std::sync::Arc;

use ferrum_crds::{Claim, FerrumModel, claims, names::ConditionReason};

use crate::validate::Refusal;

/// Names that an older model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamesTaken {
    /// Who has which.
    pub(crate) refusal: Refusal,
    /// Whether no name is left.
    pub(crate) is_all: bool,
}

/// Looks for names of `model` that are another's among `models`, which it is a part of.
pub(crate) fn names_taken(model: &FerrumModel, models: &[Arc<FerrumModel>]) -> Option<NamesTaken> {
    let wanting: Vec<_> = models.iter().map(|model| Wanting::of(model)).collect();
    let claiming: Vec<_> = wanting.iter().map(Wanting::claim).collect();
    let owners = claims(&claiming);
    let own = Wanting::of(model);
    let lost: Vec<_> = own
        .served_names
        .iter()
        .filter_map(|name| {
            let owner = &claiming[*owners.get(name.as_str())?];
            let is_own = owner.namespace == own.namespace && owner.name == own.name;
            (!is_own).then(|| {
                format!(
                    "{name} is served by {}/{}, which is older",
                    owner.namespace, owner.name
                )
            })
        })
        .collect();
    if lost.is_empty() {
        return None;
    }
    let message = format!(
        "spec.servedNames: {}; choose another name or delete the older model",
        lost.join(", ")
    );
    Some(NamesTaken {
        refusal: Refusal::new(ConditionReason::ServedNameTaken, message),
        is_all: lost.len() == own.served_names.len(),
    })
}

struct Wanting<'a> {
    namespace: &'a str,
    name: &'a str,
    created_seconds: i64,
    served_names: Vec<String>,
}

impl<'a> Wanting<'a> {
    fn of(model: &'a FerrumModel) -> Self {
        let name = model.metadata.name.as_deref().unwrap_or_default();
        Self {
            namespace: model.metadata.namespace.as_deref().unwrap_or_default(),
            name,
            created_seconds: model
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(i64::MAX, |time| time.0.as_second()),
            served_names: model
                .spec
                .served_names
                .clone()
                .unwrap_or_else(|| vec![name.to_owned()]),
        }
    }

    fn claim(&self) -> Claim<'_> {
        Claim {
            namespace: self.namespace,
            name: self.name,
            created_seconds: self.created_seconds,
            served_names: &self.served_names,
        }
    }
}
