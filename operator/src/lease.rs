//! Leader election by a Lease: of several operators one writes.
//!
//! A holder renews every [`RENEW_EVERY`]; one that could not for [`RENEW_WITHIN`] stops writing, before another one may
//! take over at [`DURATION`] after the last renewal that it saw (by its own clock: clocks of two machines differ).

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{sleep, timeout};

/// How long a lease is good for after its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long has lost it.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Pause between two looks at somebody else's lease.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A try to hold one lease.
pub(crate) struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The last state seen of the lease, and when it was first seen.
    seen: Option<(Option<String>, Instant)>,
    /// The lease as it was written last, while it is ours: a renewal need not read it first.
    held: Option<Lease>,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("{}", in_short(.0))]
    Api(#[from] kube::Error),
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
    #[error("held by {0}")]
    Held(String),
}

impl Elector {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            held: None,
        }
    }

    /// Waits until the lease is ours.
    pub(crate) async fn acquire(&mut self) {
        let mut told = String::new();
        loop {
            match self.try_hold().await {
                Ok(()) => return,
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        tracing::info!(lease = self.name, reason = text, "not the leader");
                        told = text;
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps the lease; returns when it is lost.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(RENEW_EVERY.min(RENEW_WITHIN.saturating_sub(renewed.elapsed()) / 2)).await;
            let left = RENEW_WITHIN.saturating_sub(renewed.elapsed());
            match timeout(left, self.try_hold()).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(LeaseError::Held(holder))) => {
                    tracing::warn!(lease = self.name, holder, "another operator took the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() + Duration::from_millis(100) >= RENEW_WITHIN {
                tracing::warn!(
                    lease = self.name,
                    "lost the lease: it could not be renewed in time"
                );
                return;
            }
        }
    }

    /// Gives a lease that is held back, so that the next operator need not wait for its end.
    pub(crate) async fn release(&mut self) {
        self.held = None;
        let released = timeout(REQUEST_TIMEOUT, async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .map(drop)
        });
        if let Ok(Err(error)) = released.await {
            tracing::warn!(lease = self.name, %error, "cannot release the lease");
        }
    }

    /// One look, unless the lease is ours already, and one write if it is ours to take.
    async fn try_hold(&mut self) -> Result<(), LeaseError> {
        let write = PostParams::default();
        let written = match self.held.take() {
            Some(lease) => self.write(lease, &write).await?,
            None => match answered(self.api.get_opt(&self.name)).await? {
                Some(lease) => {
                    self.refuse_if_held(&lease)?;
                    self.write(lease, &write).await?
                }
                None => {
                    let metadata = ObjectMeta {
                        name: Some(self.name.clone()),
                        ..Default::default()
                    };
                    let lease = Lease {
                        metadata,
                        spec: Some(self.spec(None, Timestamp::now())),
                    };
                    answered(self.api.create(&write, &lease)).await?
                }
            },
        };
        self.held = Some(written);
        Ok(())
    }

    /// The resource version that was read makes this fail if somebody else was faster.
    async fn write(&self, mut lease: Lease, write: &PostParams) -> Result<Lease, LeaseError> {
        lease.spec = Some(self.spec(lease.spec.take(), Timestamp::now()));
        answered(self.api.replace(&self.name, write, &lease)).await
    }

    fn refuse_if_held(&mut self, lease: &Lease) -> Result<(), LeaseError> {
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let since = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let Some(spec) = &lease.spec else {
            return Ok(());
        };
        match &spec.holder_identity {
            Some(holder) if !holder.is_empty() && *holder != self.identity => {
                let good_for = spec.lease_duration_seconds.map_or(DURATION, |seconds| {
                    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
                });
                if since < good_for {
                    return Err(LeaseError::Held(holder.clone()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn spec(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let is_ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            acquire_time: before.acquire_time.filter(|_| is_ours).or(Some(MicroTime(now))),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(if is_ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            renew_time: Some(MicroTime(now)),
            ..before
        }
    }
}

async fn answered<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaseError> {
    Ok(timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|_| LeaseError::Silent)??)
}

/// The API server's sentence without the object around it.
fn in_short(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;

    use super::*;

    fn elector() -> Elector {
        let nobody = tower::service_fn(async |_: http::Request<Body>| {
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        });
        Elector::new(Client::new(nobody, "n"), "n", "lease", "us")
    }

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(15),
                lease_transitions: Some(4),
                ..Default::default()
            }),
        }
    }

    #[tokio::test]
    async fn a_lease_of_someone_else_is_taken_once_it_has_not_been_renewed_for_its_length() {
        let mut elector = elector();
        assert!(elector.refuse_if_held(&lease(Some("them"), "1")).is_err());
        let long_ago = Instant::now()
            .checked_sub(DURATION)
            .expect("the machine is up for longer");
        elector.seen = Some((Some("1".to_owned()), long_ago));
        assert!(elector.refuse_if_held(&lease(Some("them"), "1")).is_ok());
        assert!(
            elector.refuse_if_held(&lease(Some("them"), "2")).is_err(),
            "it was renewed"
        );
    }

    #[tokio::test]
    async fn a_lease_that_is_free_or_ours_is_taken_at_once() {
        let mut elector = elector();
        for holder in [None, Some(""), Some("us")] {
            assert!(elector.refuse_if_held(&lease(holder, "1")).is_ok(), "{holder:?}");
        }
    }

    #[tokio::test]
    async fn a_change_of_holder_is_counted_and_a_renewal_is_not() {
        let elector = elector();
        let taken = elector.spec(lease(Some("them"), "1").spec, Timestamp::now());
        assert_eq!(
            (taken.holder_identity.as_deref(), taken.lease_transitions),
            (Some("us"), Some(5))
        );
        let renewed = elector.spec(Some(taken.clone()), Timestamp::now());
        assert_eq!(
            (renewed.lease_transitions, renewed.acquire_time),
            (Some(5), taken.acquire_time)
        );
    }
}
