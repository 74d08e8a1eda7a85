//! Waiting on conditions, never on time.

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Resource,
    runtime::wait::{self, Condition},
};
use serde::{Serialize, de::DeserializeOwned};

/// Between two looks at something that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches an object until the condition holds; `None` stands for an object that is not there.
///
/// # Errors
/// When it does not hold within `timeout`, with the object as it then is; when the API server refuses the watch.
pub async fn await_condition<K>(
    api: &Api<K>,
    name: &str,
    timeout: Duration,
    condition: impl Condition<K>,
) -> Result<Option<K>>
where
    K: Clone + Debug + Send + DeserializeOwned + Serialize + Resource + 'static,
{
    match tokio::time::timeout(timeout, wait::await_condition(api.clone(), name, condition)).await {
        Ok(object) => object.with_context(|| format!("watching {name}")),
        Err(_) => {
            let now = api.get_opt(name).await?;
            let shown = match now {
                Some(mut object) => {
                    object.meta_mut().managed_fields = None;
                    serde_json::to_string_pretty(&object)?
                }
                None => "it does not exist".to_owned(),
            };
            bail!("{name}: the condition did not hold within {timeout:?}; now: {shown}")
        }
    }
}

/// Calls `look` until it finds something. What it says meanwhile, `Err(reason)`, is shown when time is up.
///
/// # Errors
/// When nothing is found within `timeout`.
pub async fn eventually<T, F>(what: &str, timeout: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + timeout;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let reason = match tokio::time::timeout(remaining.max(LOOK_EVERY), look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(reason)) => format!("{reason:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            bail!("not within {timeout:?}: {what}; last: {reason}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
