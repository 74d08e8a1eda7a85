//! What the cluster holds, kept by watches: reconciling reads from here and asks the API server for nothing.

use std::{fmt::Debug, sync::Arc};

use ferrum_crds::{FerrumModel, names};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use crate::{metrics::Metrics, triggers::Triggers};

/// The objects of one namespace, or of all of them.
pub(crate) struct Scope {
    /// Models to serve.
    pub(crate) models: Store<FerrumModel>,
    /// Deployments that carry our label.
    pub(crate) deployments: Store<Deployment>,
    /// Jobs that carry our label.
    pub(crate) jobs: Store<Job>,
    /// Claims that carry our label.
    pub(crate) claims: Store<PersistentVolumeClaim>,
    /// Budgets of disruptions that carry our label.
    pub(crate) budgets: Store<PodDisruptionBudget>,
    /// Pods that carry our label.
    pub(crate) pods: Store<Pod>,
    /// Models that have something to reconcile.
    pub(crate) triggers: Arc<Triggers>,
    /// Watches that have not listed yet.
    unsynced: watch::Receiver<usize>,
}

impl Scope {
    /// Starts the watches of `namespace`; they end with `tasks`.
    pub(crate) fn watch(
        client: &Client,
        namespace: Option<&str>,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let watch = Watch {
            client: client.clone(),
            namespace: namespace.map(str::to_owned),
            metrics: Arc::clone(metrics),
            triggers: Arc::default(),
            unsynced: watch::Sender::new(0),
        };
        Self {
            unsynced: watch.unsynced.subscribe(),
            models: watch.start(watcher::Config::default(), own_ref, forget_little, tasks),
            deployments: watch.start(labelled(), owner_ref, forget_template, tasks),
            jobs: watch.start(labelled(), owner_ref, forget_job_template, tasks),
            claims: watch.start(labelled(), owner_ref, forget_little, tasks),
            budgets: watch.start(labelled(), owner_ref, forget_budget, tasks),
            pods: watch.start(labelled(), owner_ref, forget_containers, tasks),
            triggers: watch.triggers,
        }
    }

    /// A scope without watches.
    #[cfg(test)]
    pub(crate) fn of_stores(
        models: Store<FerrumModel>,
        deployments: Store<Deployment>,
        budgets: Store<PodDisruptionBudget>,
        pods: Store<Pod>,
    ) -> Self {
        Self {
            models,
            deployments,
            jobs: store().0,
            claims: store().0,
            budgets,
            pods,
            triggers: Arc::default(),
            unsynced: watch::Sender::new(0).subscribe(),
        }
    }

    /// Waits until every watch has listed once.
    pub(crate) async fn wait_until_synced(&self) {
        let mut unsynced = self.unsynced.clone();
        // It fails when every watch has ended, which is when the process ends.
        let _ = unsynced.wait_for(|&unsynced| unsynced == 0).await;
    }

    /// Asks for a reconcile of every model.
    pub(crate) fn trigger_all(&self) {
        trigger_all(&self.models, &self.triggers);
    }

    /// Objects of `store` that belong to `model`.
    pub(crate) fn of_model<K>(store: &Store<K>, model: &FerrumModel) -> Vec<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone,
    {
        let (name, namespace) = (
            model.metadata.name.as_deref(),
            model.metadata.namespace.as_deref(),
        );
        store.state_filter(|object| {
            object.meta().namespace.as_deref() == namespace
                && object
                    .meta()
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get(names::LABEL_MODEL))
                    .map(String::as_str)
                    == name
        })
    }
}

struct Watch {
    client: Client,
    namespace: Option<String>,
    metrics: Arc<Metrics>,
    triggers: Arc<Triggers>,
    unsynced: watch::Sender<usize>,
}

impl Watch {
    fn start<K>(
        &self,
        config: watcher::Config,
        model_of: fn(&K) -> Option<ObjectRef<FerrumModel>>,
        forget: fn(&mut K),
        tasks: &mut JoinSet<()>,
    ) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let api: Api<DeserializeGuard<K>> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (reader, writer) = store::<K>();
        let metrics = Arc::clone(&self.metrics);
        self.unsynced.send_modify(|unsynced| *unsynced += 1);
        let mut cache = Cache {
            writer,
            known: reader.clone(),
            model_of,
            forget,
            triggers: Arc::clone(&self.triggers),
            unsynced: Some(self.unsynced.clone()),
        };
        tasks.spawn(async move {
            let events = watcher(api, config).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                let kind = K::kind(&());
                match event.map(unguarded) {
                    Ok(Ok(event)) => cache.take(event),
                    Ok(Err(invalid)) => {
                        let name = invalid.metadata.name.unwrap_or_default();
                        tracing::warn!(%kind, name, error = invalid.error, "an object of another version is left");
                    }
                    Err(error) => {
                        metrics.watch_failed(&kind);
                        tracing::warn!(%kind, %error, "watch failed; what is known stays");
                    }
                }
            }
        });
        reader
    }
}

/// The objects of one watch, and whom a change of them concerns.
struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    known: Store<K>,
    model_of: fn(&K) -> Option<ObjectRef<FerrumModel>>,
    forget: fn(&mut K),
    triggers: Arc<Triggers>,
    /// Until the first list is complete.
    unsynced: Option<watch::Sender<usize>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    fn take(&mut self, mut event: Event<K>) {
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut event {
            object.meta_mut().managed_fields = None;
            (self.forget)(object);
        }
        match &event {
            Event::Apply(object) | Event::Delete(object) => {
                let model = (self.model_of)(object);
                self.writer.apply_watcher_event(&event);
                model.into_iter().for_each(|model| self.triggers.push(model));
            }
            // A list replaces everything: what has vanished meanwhile has no event of its own.
            Event::InitDone => {
                self.trigger_known();
                self.writer.apply_watcher_event(&event);
                self.trigger_known();
                if let Some(unsynced) = self.unsynced.take() {
                    unsynced.send_modify(|unsynced| *unsynced -= 1);
                }
            }
            Event::Init | Event::InitApply(_) => self.writer.apply_watcher_event(&event),
        }
    }

    fn trigger_known(&self) {
        let models = self
            .known
            .state()
            .into_iter()
            .filter_map(|object| (self.model_of)(&object));
        models.for_each(|model| self.triggers.push(model));
    }
}

/// One object that cannot be read must not end the watch of all others.
fn unguarded<K>(event: Event<DeserializeGuard<K>>) -> Result<Event<K>, Box<InvalidObject>> {
    Ok(match event {
        Event::Apply(object) => Event::Apply(object.0.map_err(Box::new)?),
        Event::Delete(object) => Event::Delete(object.0.map_err(Box::new)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.0.map_err(Box::new)?),
        Event::InitDone => Event::InitDone,
    })
}

fn trigger_all(models: &Store<FerrumModel>, triggers: &Triggers) {
    for model in models.state() {
        triggers.push(ObjectRef::from_obj(&*model));
    }
}

fn labelled() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY))
}

fn own_ref(model: &FerrumModel) -> Option<ObjectRef<FerrumModel>> {
    Some(ObjectRef::from_obj(model))
}

fn owner_ref<K: Resource>(object: &K) -> Option<ObjectRef<FerrumModel>> {
    let name = object.meta().labels.as_ref()?.get(names::LABEL_MODEL)?;
    Some(ObjectRef::new(name).within(object.meta().namespace.as_deref()?))
}

fn forget_little<K: Resource>(object: &mut K) {
    object
        .annotations_mut()
        .remove("kubectl.kubernetes.io/last-applied-configuration");
}

/// The specification is ours; its generation tells whether it is still as we left it.
fn forget_template(deployment: &mut Deployment) {
    if let Some(spec) = &mut deployment.spec {
        spec.template = Default::default();
    }
}

fn forget_job_template(job: &mut Job) {
    if let Some(spec) = &mut job.spec {
        spec.template = Default::default();
    }
}

/// Its status counts what the pods tell themselves.
fn forget_budget(budget: &mut PodDisruptionBudget) {
    budget.status = None;
}

/// A thousand pods are kept: only what tells their state.
fn forget_containers(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        *spec = k8s_openapi::api::core::v1::PodSpec {
            node_name: spec.node_name.take(),
            ..Default::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::test_support::object;

    fn pod_of(model: &str) -> Pod {
        object(&format!(
            "{{metadata: {{name: {model}-1, namespace: n, managedFields: [{{}}], labels: {{ferrum.dev/model: {model}}}}}, \
             spec: {{nodeName: node, containers: [{{name: engine, image: i}}]}}}}"
        ))
    }

    async fn triggered(triggers: &Triggers) -> HashSet<String> {
        let (mut names, stream) = (HashSet::new(), triggers.stream());
        pin_mut!(stream);
        while let Ok(Some(model)) = timeout(Duration::from_millis(20), stream.next()).await {
            names.insert(model.name);
        }
        names
    }

    #[tokio::test]
    async fn a_new_list_concerns_the_models_of_what_is_in_it_and_of_what_has_vanished() {
        let (known, writer) = store::<Pod>();
        let unsynced = watch::Sender::new(1);
        let mut cache = Cache {
            writer,
            known: known.clone(),
            model_of: owner_ref,
            forget: forget_containers,
            triggers: Arc::default(),
            unsynced: Some(unsynced.clone()),
        };
        for event in [Event::Init, Event::InitApply(pod_of("a")), Event::InitDone] {
            cache.take(event);
        }
        assert_eq!(*unsynced.borrow(), 0);
        assert_eq!(triggered(&cache.triggers).await, HashSet::from(["a".to_owned()]));
        let kept = known.state()[0].spec.clone().expect("a spec");
        assert_eq!(
            (kept.node_name.as_deref(), kept.containers.len()),
            (Some("node"), 0)
        );
        for event in [Event::Init, Event::InitApply(pod_of("b")), Event::InitDone] {
            cache.take(event);
        }
        let both = HashSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(triggered(&cache.triggers).await, both);
        cache.take(Event::Delete(pod_of("b")));
        assert_eq!(triggered(&cache.triggers).await, HashSet::from(["b".to_owned()]));
        assert!(known.is_empty());
    }
}
