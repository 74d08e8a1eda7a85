//! Brings what was built into the cluster: server-side apply, never over something that is not ours.

use std::{collections::HashMap, fmt::Debug};

use ferrum_crds::names::{self, ConditionReason as Reason};
use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::Job, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    build::{Applied, Engines, Prepared, Resources, short_hash},
    dereference::Observed,
    status::{
        fetch::{JobEnd, job_end},
        pods,
    },
    validate::Refusal,
};

/// A job that failed for good is made anew after so long.
const RETRY_FAILED_JOB_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// An object as it was left: while its generation stays, nobody has changed what we wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    hash: String,
    uid: Option<String>,
    generation: Option<i64>,
}

/// Why not everything is in the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// It will stay so until somebody does something.
    #[error("{}: {}", .0.reason, .0.message)]
    Refused(Refusal),
    /// It is worth another try.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// An object of that name is on its way out: of a deleted model of the same name, or deleted by somebody.
    #[error("{0} is still being deleted")]
    Leaving(String),
}

/// One model's objects in the cluster.
pub(crate) struct Applier<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a str,
    pub(crate) owner: &'a OwnerReference,
    pub(crate) observed: &'a Observed,
    pub(crate) seen: &'a mut HashMap<(&'static str, String), Seen>,
}

impl Applier<'_> {
    /// Applies everything, in the order in which it is needed.
    pub(crate) async fn apply(
        &mut self,
        resources: Resources<Prepared>,
    ) -> Result<Resources<Applied>, ApplyError> {
        // Without `..`: a field that is added does not compile until it is applied here.
        let Resources {
            cache,
            fetch,
            engines,
            budget,
            state: Prepared,
        } = resources;
        let mut refused = None;
        let mut engines_generation = None;
        if let Some(claim) = &cache {
            let live = self.observed.cache.clone();
            let applied = self
                .apply_one("PersistentVolumeClaim", claim, live.as_deref())
                .await;
            match applied {
                // A volume that cannot grow still holds what it holds.
                Err(ApplyError::Refused(refusal))
                    if live.is_some_and(|live| is_owned_by(&*live, self.owner)) =>
                {
                    refused = Some(refusal);
                }
                applied => drop(applied?),
            }
        }
        if let Some(job) = &fetch {
            self.apply_job(job).await?;
        }
        match &engines {
            Engines::Run(deployment) => {
                let live = self.observed.deployment.clone();
                engines_generation = self
                    .apply_one("Deployment", &**deployment, live.as_deref())
                    .await?;
            }
            Engines::KeepWith { replicas } => self.scale(*replicas).await?,
        }
        self.apply_budget(budget.as_ref()).await?;
        if let Some(refusal) = refused {
            return Err(ApplyError::Refused(refusal));
        }
        Ok(Resources {
            cache,
            fetch,
            engines,
            budget,
            state: Applied { engines_generation },
        })
    }

    /// A budget comes once there are two engines of which a drain may take one; what the cluster counts for it while they
    /// start, of many models at once, costs more than all the rest. One that the model no longer needs goes, if it is its
    /// own.
    async fn apply_budget(&mut self, budget: Option<&PodDisruptionBudget>) -> Result<(), ApplyError> {
        const KIND: &str = "PodDisruptionBudget";
        let live = self.observed.budget.clone();
        if let Some(budget) = budget {
            let engines = self.observed.engines.iter();
            let ready = engines.filter(|pod| pods::is_wanted(pod) && pods::is_ready(pod));
            if live.is_none() && ready.count() < 2 {
                return Ok(());
            }
            return self.apply_one(KIND, budget, live.as_deref()).await.map(drop);
        }
        if let Some(live) = live.filter(|live| is_owned_by(&**live, self.owner))
            && live.metadata.deletion_timestamp.is_none()
        {
            self.seen.remove(&(KIND, live.name_any()));
            delete(&Api::namespaced(self.client.clone(), self.namespace), &*live).await?;
        }
        Ok(())
    }

    /// Gives the generation that the object has with it.
    async fn apply_one<K>(
        &mut self,
        kind: &'static str,
        object: &K,
        live: Option<&K>,
    ) -> Result<Option<i64>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let name = object.name_any();
        let key = (kind, name.clone());
        let hash = short_hash(object);
        if let (Some(live), Some(seen)) = (live, self.seen.get(&key))
            && *seen == as_seen(hash.clone(), live)
        {
            return Ok(live.meta().generation);
        }
        let known = match live {
            Some(live) => Some(live.clone()),
            // Not ours, or too new for the cache.
            None => api.get_opt(&name).await?,
        };
        let mut patch = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
        patch["apiVersion"] = K::api_version(&()).into();
        patch["kind"] = K::kind(&()).into();
        // Of an object that is not there nothing may be taken over: whoever makes it meanwhile keeps it.
        let mut params = PatchParams::apply(names::FIELD_MANAGER);
        if let Some(known) = known {
            self.check_owner(kind, &api, &known).await?;
            // The API server refuses when it is another object of that name by now.
            patch["metadata"]["uid"] = known.uid().into();
            params = params.force();
        }
        let applied = api
            .patch(&name, &params, &Patch::Apply(&patch))
            .await
            .map_err(|error| refused(kind, &name, error))?;
        tracing::info!(kind, name, namespace = self.namespace, "applied");
        self.seen.insert(key, as_seen(hash, &applied));
        Ok(applied.meta().generation)
    }

    /// A job cannot be changed: one that ended well stays, one that cannot end well is made anew.
    async fn apply_job(&mut self, job: &Job) -> Result<(), ApplyError> {
        let name = job.name_any();
        let api: Api<Job> = Api::namespaced(self.client.clone(), self.namespace);
        let live = self
            .observed
            .jobs
            .iter()
            .find(|live| live.name_any() == name)
            .cloned();
        let Some(live) = live else {
            return self.apply_one("Job", job, None).await.map(drop);
        };
        self.check_owner("Job", &api, &live).await?;
        let hash = |job: &Job| job.annotations().get(names::ANNOTATION_LAUNCH_HASH).cloned();
        let is_over = match job_end(&live) {
            JobEnd::Complete => return self.delete_other_jobs(&name, &api).await,
            JobEnd::Failed => ended_before(&live, Timestamp::now() - RETRY_FAILED_JOB_AFTER),
            JobEnd::Running => hash(&live) != hash(job),
        };
        if is_over && live.metadata.deletion_timestamp.is_none() {
            delete(&api, &*live).await?;
        }
        Ok(())
    }

    /// Jobs of sources that the model had before.
    async fn delete_other_jobs(&self, name: &str, api: &Api<Job>) -> Result<(), ApplyError> {
        for job in &self.observed.jobs {
            let is_ours = is_owned_by(&**job, self.owner) && job.name_any() != name;
            if is_ours && job.metadata.deletion_timestamp.is_none() {
                delete(api, &**job).await?;
            }
        }
        Ok(())
    }

    /// Changes nothing but the number of engines, where there are any.
    async fn scale(&mut self, replicas: i32) -> Result<(), ApplyError> {
        let Some(live) = &self.observed.deployment else {
            return Ok(());
        };
        if !is_owned_by(&**live, self.owner)
            || live.spec.as_ref().and_then(|spec| spec.replicas) == Some(replicas)
        {
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.namespace);
        let patch = json!({"metadata": {"uid": live.uid()}, "spec": {"replicas": replicas}});
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = live.name_any();
        api.patch(&name, &params, &Patch::Merge(&patch))
            .await
            .map_err(|error| refused("Deployment", &name, error))?;
        self.seen.remove(&("Deployment", name));
        Ok(())
    }

    /// An object of a model of the same name that was deleted is helped to go; anything else that is not ours is left.
    async fn check_owner<K>(&self, kind: &'static str, api: &Api<K>, known: &K) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if is_owned_by(known, self.owner) {
            return match known.meta().deletion_timestamp {
                Some(_) => Err(ApplyError::Leaving(format!("{kind} {}", known.name_any()))),
                None => Ok(()),
            };
        }
        let is_of_namesake = known.owner_references().iter().any(|owner| {
            owner.kind == self.owner.kind
                && owner.api_version == self.owner.api_version
                && owner.name == self.owner.name
        });
        let name = known.name_any();
        if is_of_namesake {
            if known.meta().deletion_timestamp.is_none() {
                delete(api, known).await?;
            }
            return Err(ApplyError::Leaving(format!("{kind} {name}")));
        }
        let message = format!(
            "{kind} {name} exists in namespace {} and does not belong to this model; it is left alone. Rename the model \
             or delete that object",
            self.namespace
        );
        Err(ApplyError::Refused(Refusal::new(Reason::NameTaken, message)))
    }
}

fn as_seen<K: Resource>(hash: String, object: &K) -> Seen {
    let meta = object.meta();
    Seen {
        hash,
        uid: meta.uid.clone(),
        generation: meta.generation,
    }
}

fn is_owned_by<K: Resource>(object: &K, owner: &OwnerReference) -> bool {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|known| known.uid == owner.uid)
}

/// Exactly this object and what it owns, later.
async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let params = DeleteParams::background().preconditions(Preconditions {
        uid: object.uid(),
        resource_version: None,
    });
    match api.delete(&object.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn ended_before(job: &Job, moment: Timestamp) -> bool {
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ended = conditions
        .filter_map(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
        .max();
    ended.is_some_and(|ended| ended < moment)
}

/// A refusal of the API server that another try does not change, in words.
fn refused(kind: &str, name: &str, error: kube::Error) -> ApplyError {
    let kube::Error::Api(status) = &error else {
        return ApplyError::Api(error);
    };
    // A conflict is somebody who was faster; the next try sees what they did.
    let is_final = status.is_forbidden() || status.is_invalid() || status.code == 400;
    if !is_final {
        return ApplyError::Api(error);
    }
    let reason = match &status.message {
        message if message.contains("exceeded quota") => Reason::QuotaExceeded,
        _ => Reason::ObjectRefused,
    };
    ApplyError::Refused(Refusal::new(
        reason,
        format!("{kind} {name} is refused: {}", status.message),
    ))
}
