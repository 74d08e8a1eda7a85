//! What the cluster holds, kept by watches: reconciling reads from here and asks the API server for nothing.

use std::{fmt::Debug, sync::Arc};

use ferrum_crds::{FerrumModel, names};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store},
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
            pods: watch.start(labelled(), owner_ref, forget_containers, tasks),
            triggers: watch.triggers,
        }
    }

    /// A scope without watches.
    #[cfg(test)]
    pub(crate) fn of_stores(models: Store<FerrumModel>, deployments: Store<Deployment>) -> Self {
        Self {
            models,
            deployments,
            jobs: store().0,
            claims: store().0,
            pods: store().0,
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
        let (reader, mut writer) = store::<K>();
        let (triggers, metrics, known) = (
            Arc::clone(&self.triggers),
            Arc::clone(&self.metrics),
            reader.clone(),
        );
        let unsynced = self.unsynced.clone();
        unsynced.send_modify(|unsynced| *unsynced += 1);
        tasks.spawn(async move {
            let mut is_synced = false;
            let events = watcher(api, config).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                let kind = K::kind(&());
                let event = event.map(unguarded);
                let mut event = match event {
                    Ok(Ok(event)) => event,
                    Ok(Err(invalid)) => {
                        let name = invalid.metadata.name.unwrap_or_default();
                        tracing::warn!(%kind, name, error = invalid.error, "an object of another version is left alone");
                        continue;
                    }
                    Err(error) => {
                        metrics.watch_failed(&kind);
                        tracing::warn!(%kind, %error, "watch failed; what is known stays");
                        continue;
                    }
                };
                if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut event {
                    object.meta_mut().managed_fields = None;
                    forget(object);
                }
                writer.apply_watcher_event(&event);
                match &event {
                    Event::Apply(object) | Event::Delete(object) => {
                        model_of(object)
                            .into_iter()
                            .for_each(|model| triggers.push(model));
                    }
                    // A list replaces everything, and what has vanished meanwhile has no event.
                    Event::InitDone => {
                        if !std::mem::replace(&mut is_synced, true) {
                            unsynced.send_modify(|unsynced| *unsynced -= 1);
                        }
                        for object in known.state() {
                            model_of(&object)
                                .into_iter()
                                .for_each(|model| triggers.push(model));
                        }
                    }
                    Event::Init | Event::InitApply(_) => {}
                }
            }
        });
        reader
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

/// A thousand pods are kept: only what tells their state.
fn forget_containers(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        *spec = k8s_openapi::api::core::v1::PodSpec {
            node_name: spec.node_name.take(),
            ..Default::default()
        };
    }
}
