//! The watches: what the API server tells goes to the store; when it tells nothing, the store stays.

use std::{fmt::Debug, future::Future, pin::pin, sync::Arc, time::Duration};

use ferrum_crds::{FerrumModel, names};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource,
    core::{ApiResource, DynamicObject},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Shared,
    objects::{Read, read_model, read_pod},
    store::{Shelf, Store},
};

/// The server ends a watch after so long, and it is resumed: a connection that died in silence is found by then.
const WATCH_TIMEOUT_SECONDS: u32 = 45;
/// First pause after an error; it doubles with each one in a row.
const BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause: an API server that is back is heard soon.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// Follows the FerrumModels of a namespace, or of all.
pub(super) fn models(
    client: Client,
    namespace: Option<String>,
    index: usize,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + Send {
    // Not the type itself: an object that a later version of it has written must not end the watch of all.
    let resource = ApiResource::erase::<FerrumModel>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let hear = move |store: &mut Store, event: Event<DynamicObject>| {
        hear(&mut store.models[index], event, read_model)
    };
    follow("ferrummodels", api, watcher::Config::default(), hear, shared)
}

/// Follows the engine pods of a namespace, or of all.
pub(super) fn pods(
    client: Client,
    namespace: Option<String>,
    index: usize,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + Send {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client, &namespace),
        None => Api::all(client),
    };
    let selector = format!(
        "{}=engine,{}={},{}",
        names::LABEL_COMPONENT,
        names::LABEL_MANAGED_BY,
        names::MANAGED_BY,
        names::LABEL_MODEL
    );
    let hear = move |store: &mut Store, event: Event<Pod>| hear(&mut store.pods[index], event, read_pod);
    follow(
        "pods",
        api,
        watcher::Config::default().labels(&selector),
        hear,
        shared,
    )
}

async fn follow<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    hear: impl Fn(&mut Store, Event<K>) -> bool,
    shared: Arc<Shared>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, config.timeout(WATCH_TIMEOUT_SECONDS)));
    let mut backoff = BACKOFF;
    let mut is_lost = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // `Init` is said before anything was heard.
                if !matches!(event, Event::Init) {
                    backoff = BACKOFF;
                    if std::mem::take(&mut is_lost) {
                        info!(kind, "the API server is heard again");
                    }
                }
                let is_changed = hear(&mut shared.store(), event);
                if is_changed {
                    shared.changed.notify_one();
                }
            }
            Err(error) => {
                shared.errors.inc();
                if !std::mem::replace(&mut is_lost, true) {
                    warn!(
                        kind,
                        error = chain(&error),
                        "cannot watch; what is known stays in force"
                    );
                }
                sleep(crate::telemetry::jittered(backoff)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

fn hear<K, T>(shelf: &mut Shelf<T>, event: Event<K>, read: fn(&K) -> Read<T>) -> bool {
    shelf.hear(match event {
        Event::Apply(object) => Event::Apply(read(&object)),
        Event::Delete(object) => Event::Delete(read(&object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(&object)),
        Event::InitDone => Event::InitDone,
    })
}

/// An error and what caused it, in one line.
fn chain(error: &watcher::Error) -> String {
    crate::telemetry::chain(error)
}
