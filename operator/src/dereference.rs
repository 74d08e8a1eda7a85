//! What a model refers to: read from the caches, or asked for by name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ferrum_crds::{FerrumModel, ModelSource};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, Pod, Secret},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, ResourceExt as _, runtime::reflector::ObjectRef};

use crate::{
    caches::Scope,
    context::Context,
    engines::EngineFacts,
    names_taken::{NamesTaken, names_taken},
};

/// A reference that is broken is looked at again so often.
pub(crate) const BROKEN_RECHECK: Duration = Duration::from_secs(5);
/// A reference that was good is asked for again at most so often.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// Everything about one model that a reconcile looks at.
pub(crate) struct Dereferenced {
    /// The object.
    pub(crate) model: Arc<FerrumModel>,
    /// The Secret of `hfTokenSecretRef`; found when none is referred to.
    pub(crate) hf_token: Referenced,
    /// The claim of a `pvc://` model; found when it is none.
    pub(crate) claim: Referenced,
    /// Names that an older model has.
    pub(crate) names_taken: Option<NamesTaken>,
    /// What exists of it.
    pub(crate) observed: Observed,
}

/// What became of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Referenced {
    /// It is there.
    Found,
    /// There is no such object.
    Missing,
    /// The object is there and has only these keys.
    WithoutKey(Vec<String>),
}

/// The objects of a model as the caches have them.
#[derive(Clone, Default)]
pub(crate) struct Observed {
    /// Its Deployment.
    pub(crate) deployment: Option<Arc<Deployment>>,
    /// Jobs that fetch or fetched its weights.
    pub(crate) jobs: Vec<Arc<Job>>,
    /// Its cache.
    pub(crate) cache: Option<Arc<PersistentVolumeClaim>>,
    /// How many of its engines a drain may take.
    pub(crate) budget: Option<Arc<PodDisruptionBudget>>,
    /// Its engine pods, the oldest first.
    pub(crate) engines: Vec<Arc<Pod>>,
    /// Pods that fetch its weights, the newest last.
    pub(crate) fetchers: Vec<Arc<Pod>>,
    /// What engines and fetches told, by name of the pod.
    pub(crate) facts: BTreeMap<String, EngineFacts>,
}

/// References that were asked for lately.
#[derive(Default)]
pub(crate) struct Lookups(Mutex<Known>);

/// Kind, namespace and name.
type LookupId = (&'static str, String, String);
type Known = HashMap<LookupId, (Instant, Referenced)>;

/// Reads everything that one reconcile needs.
///
/// # Errors
/// An API server that cannot be asked; a permission that is missing.
pub(crate) async fn dereference(
    model: Arc<FerrumModel>,
    scope: &Scope,
    context: &Context,
) -> Result<Dereferenced, kube::Error> {
    let namespace = model.namespace().unwrap_or_default();
    let hf_token = match &model.spec.hf_token_secret_ref {
        Some(reference) => {
            let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
            let (name, key) = (&reference.name, &reference.key);
            let id = ("Secret", namespace.clone(), format!("{name}/{key}"));
            context
                .lookups
                .get(id, async || Ok(find_key(secrets.get_opt(name).await?, key)))
                .await?
        }
        None => Referenced::Found,
    };
    let claim = match ModelSource::parse(&model.spec.model) {
        Ok(ModelSource::Claim { claim, .. }) => {
            find_claim(&context.client, &namespace, claim, &context.lookups).await?
        }
        _ => Referenced::Found,
    };
    Ok(Dereferenced {
        hf_token,
        claim,
        names_taken: names_taken(&model, &context.models()),
        observed: observe(&model, scope, context),
        model,
    })
}

fn find_key(secret: Option<Secret>, key: &str) -> Referenced {
    let Some(secret) = secret else {
        return Referenced::Missing;
    };
    let keys: Vec<_> = secret.data.unwrap_or_default().into_keys().collect();
    if keys.iter().any(|known| known == key) {
        return Referenced::Found;
    }
    Referenced::WithoutKey(keys)
}

async fn find_claim(
    client: &Client,
    namespace: &str,
    claim: String,
    lookups: &Lookups,
) -> Result<Referenced, kube::Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let id = ("PersistentVolumeClaim", namespace.to_owned(), claim.clone());
    let look = async || {
        Ok(match claims.get_metadata_opt(&claim).await? {
            Some(_) => Referenced::Found,
            None => Referenced::Missing,
        })
    };
    lookups.get(id, look).await
}

fn observe(model: &FerrumModel, scope: &Scope, context: &Context) -> Observed {
    use ferrum_crds::names;
    let (name, namespace) = (model.name_any(), model.namespace().unwrap_or_default());
    let is_component = |pod: &Pod, component: &str| {
        pod.labels().get(names::LABEL_COMPONENT).map(String::as_str) == Some(component)
    };
    let mut pods = Scope::of_model(&scope.pods, model);
    pods.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
    let (engines, rest): (Vec<_>, Vec<_>) = pods
        .into_iter()
        .partition(|pod| is_component(pod, names::COMPONENT_ENGINE));
    let fetchers: Vec<_> = rest
        .into_iter()
        .filter(|pod| is_component(pod, names::COMPONENT_FETCH))
        .collect();
    let facts = engines
        .iter()
        .chain(&fetchers)
        .filter_map(|pod| Some((pod.name_any(), context.engines.facts(pod)?)));
    let cache_name = names::cache_claim_name(&name);
    Observed {
        deployment: scope.deployments.get(&ObjectRef::new(&name).within(&namespace)),
        jobs: Scope::of_model(&scope.jobs, model),
        cache: scope.claims.get(&ObjectRef::new(&cache_name).within(&namespace)),
        budget: scope.budgets.get(&ObjectRef::new(&name).within(&namespace)),
        facts: facts.collect(),
        engines,
        fetchers,
    }
}

impl Lookups {
    async fn get(
        &self,
        id: LookupId,
        look: impl AsyncFnOnce() -> Result<Referenced, kube::Error>,
    ) -> Result<Referenced, kube::Error> {
        if let Some((at, known)) = self.lock().get(&id)
            && at.elapsed() < good_for(known)
        {
            return Ok(known.clone());
        }
        let found = look().await?;
        let mut known = self.lock();
        known.retain(|_, (at, known)| at.elapsed() < good_for(known));
        known.insert(id, (Instant::now(), found.clone()));
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A broken reference is asked for in every reconcile that its recheck causes.
fn good_for(referenced: &Referenced) -> Duration {
    match referenced {
        Referenced::Found => GOOD_FOR,
        Referenced::Missing | Referenced::WithoutKey(_) => BROKEN_RECHECK / 2,
    }
}
