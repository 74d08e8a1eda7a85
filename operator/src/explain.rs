//! Why something does not get on, where only the cluster's events say so: a claim that is not bound, a job without a
//! pod, a volume that cannot be mounted. They are asked for only while something is stuck.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::Event,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, Client, Resource, api::ListParams};

use crate::{dereference::Observed, status::pods};

/// What is younger may still get on by itself.
const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(3);
/// The events of one object are asked for at most so often.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Events that are looked at.
const MOST_EVENTS: u32 = 50;

/// Objects that are stuck, and what their events said.
#[derive(Default)]
pub(crate) struct Hints(HashMap<String, (Instant, Option<String>)>);

impl Hints {
    /// What the events say of each stuck object, by uid.
    pub(crate) async fn ask(
        &mut self,
        client: &Client,
        namespace: &str,
        observed: &Observed,
    ) -> Result<BTreeMap<String, String>, kube::Error> {
        let stuck = stuck(observed, Timestamp::now());
        self.0.retain(|uid, _| stuck.contains(uid));
        for uid in &stuck {
            if self
                .0
                .get(uid)
                .is_some_and(|(asked, _)| asked.elapsed() < ASK_EVERY)
            {
                continue;
            }
            let said = last_warning(client, namespace, uid).await?;
            self.0.insert(uid.clone(), (Instant::now(), said));
        }
        let known = self
            .0
            .iter()
            .filter_map(|(uid, (_, said))| Some((uid.clone(), said.clone()?)));
        Ok(known.collect())
    }

    /// Whether something should be looked at again.
    pub(crate) fn is_any_stuck(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Uids of what does not get on.
fn stuck(observed: &Observed, now: Timestamp) -> Vec<String> {
    let Observed {
        deployment: _,
        jobs,
        cache,
        budget: _,
        engines,
        fetchers,
        facts: _,
    } = observed;
    let is_old = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        meta.creation_timestamp
            .as_ref()
            .is_some_and(|created| now.duration_since(created.0) > STUCK_AFTER)
    };
    let mut stuck = Vec::new();
    let unbound = cache
        .iter()
        .filter(|claim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending"));
    stuck.extend(
        unbound
            .filter(|claim| is_old(claim.meta()))
            .filter_map(|claim| claim.metadata.uid.clone()),
    );
    let podless = jobs.iter().filter(|job| {
        let uid = job.metadata.uid.as_deref();
        let is_owner = |pod: &k8s_openapi::api::core::v1::Pod| {
            let owners = pod.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let status = job.status.as_ref();
        let is_open =
            status.is_none_or(|status| status.completion_time.is_none() && status.conditions.is_none());
        is_open && !fetchers.iter().any(|pod| is_owner(pod))
    });
    stuck.extend(
        podless
            .filter(|job| is_old(job.meta()))
            .filter_map(|job| job.metadata.uid.clone()),
    );
    let creating = engines.iter().chain(fetchers).filter(|pod| {
        let scheduled = pods::since(pod, "PodScheduled").filter(|_| pods::is_scheduled(pod));
        let is_waiting = pods::container(pod).is_some_and(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("ContainerCreating")
        });
        is_waiting
            && pods::is_wanted(pod)
            && scheduled.is_some_and(|since| now.duration_since(since) > STUCK_AFTER)
    });
    stuck.extend(creating.filter_map(|pod| pod.metadata.uid.clone()));
    stuck
}

/// The newest warning about an object; of a claim, what the volume controller waits for too.
async fn last_warning(client: &Client, namespace: &str, uid: &str) -> Result<Option<String>, kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let about = ListParams::default()
        .fields(&format!("involvedObject.uid={uid}"))
        .limit(MOST_EVENTS);
    let events = match events.list(&about).await {
        Ok(events) => events.items,
        // Without the permission there is no hint; everything else works.
        Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(None),
        Err(error) => return Err(error),
    };
    let newest = events.into_iter().filter(says_why).max_by_key(when);
    Ok(newest.map(|event| {
        format!(
            "{}: {}",
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default()
        )
    }))
}

fn says_why(event: &Event) -> bool {
    // The volume controller tells that no volume and no class fits as a normal event.
    event.type_.as_deref() == Some("Warning") || event.reason.as_deref() == Some("FailedBinding")
}

fn when(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0));
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series
        .or(last)
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
}
