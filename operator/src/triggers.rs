//! Which models wait for a reconcile: a set, so that a thousand changes of one model are one entry.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ferrum_crds::FerrumModel;
use futures_util::{Stream, stream};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

/// A queue that holds each model at most once.
#[derive(Default)]
pub(crate) struct Triggers {
    waiting: Mutex<HashSet<ObjectRef<FerrumModel>>>,
    changed: Notify,
}

impl Triggers {
    /// Asks for a reconcile of `model`.
    pub(crate) fn push(&self, model: ObjectRef<FerrumModel>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(model);
        self.changed.notify_one();
    }

    /// What waits, as it comes; never ends. One reader at a time.
    pub(crate) fn stream(&self) -> impl Stream<Item = ObjectRef<FerrumModel>> + '_ {
        stream::unfold(Vec::new(), async move |mut batch: Vec<_>| {
            loop {
                if let Some(model) = batch.pop() {
                    return Some((model, batch));
                }
                let changed = self.changed.notified();
                batch = self.take();
                if batch.is_empty() {
                    changed.await;
                }
            }
        })
    }

    fn take(&self) -> Vec<ObjectRef<FerrumModel>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_model_that_changes_often_waits_once() {
        let triggers = Triggers::default();
        let (a, b) = (ObjectRef::new("a").within("n"), ObjectRef::new("b").within("n"));
        for _ in 0..100 {
            triggers.push(a.clone());
            triggers.push(b.clone());
        }
        let mut stream = std::pin::pin!(triggers.stream());
        let got = HashSet::from([stream.next().await.expect("a"), stream.next().await.expect("b")]);
        assert_eq!(got, HashSet::from([a.clone(), b]));
        assert!(timeout(Duration::from_millis(20), stream.next()).await.is_err());
        triggers.push(a.clone());
        assert_eq!(stream.next().await, Some(a));
    }
}
