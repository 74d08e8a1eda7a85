//! Events: what a person would want to know, told beside the work and never in its way.

use ferrum_crds::{FerrumModel, FerrumModelStatus, names::ConditionType as Type};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Events that wait to be written; more are dropped, since the status says the same.
const MOST_WAITING: usize = 4096;

/// Writes events one after the other.
pub(crate) struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// Starts the writer, which ends with `tasks`.
    pub(crate) fn start(client: Client, identity: &str, tasks: &mut JoinSet<()>) -> Self {
        let reporter = Reporter {
            controller: "ferrum-operator".to_owned(),
            instance: Some(identity.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        let (sender, mut receiver) = mpsc::channel(MOST_WAITING);
        tasks.spawn(async move {
            while let Some((event, about)) = receiver.recv().await {
                // The recorder makes one event of many that are alike.
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::warn!(model = about.name, reason = event.reason, %error, "cannot write an event");
                }
            }
        });
        Self(sender)
    }

    /// Has `events` about `model` written soon.
    pub(crate) fn tell(&self, events: Vec<Event>, model: &FerrumModel) {
        for event in events {
            if self.0.try_send((event, model.object_ref(&()))).is_err() {
                tracing::warn!("too many events wait; one is dropped");
            }
        }
    }
}

/// An event for each condition whose status or reason changed, where that is news.
pub(crate) fn news(before: &FerrumModelStatus, after: &FerrumModelStatus) -> Vec<Event> {
    let old = |kind: &str| before.conditions.iter().find(|condition| condition.type_ == kind);
    let changed = after.conditions.iter().filter(|condition| {
        old(&condition.type_)
            .is_none_or(|old| old.reason != condition.reason || old.status != condition.status)
    });
    let mut events: Vec<_> = changed
        .filter_map(|condition| event(condition, old(&condition.type_)))
        .collect();
    if let Some(scaled) = scaled(before, after) {
        events.push(scaled);
    }
    events
}

fn event(condition: &Condition, before: Option<&Condition>) -> Option<Event> {
    let kind: Type = condition.type_.parse().ok()?;
    let is_true = condition.status == "True";
    let was_true = before.is_some_and(|before| before.status == "True");
    let (type_, is_news) = match kind {
        Type::Degraded if is_true => (EventType::Warning, true),
        Type::Degraded => (EventType::Normal, was_true),
        Type::Ready => (EventType::Normal, is_true || was_true),
        Type::Loaded => (EventType::Normal, is_true && !was_true),
        Type::WeightsCached => (EventType::Normal, is_true && condition.reason == "WeightsCached"),
        Type::Progressing => (EventType::Normal, is_true),
        // A problem is told once, by Degraded.
        Type::Accepted | Type::Scheduled => (EventType::Normal, false),
    };
    is_news.then(|| Event {
        action: condition.type_.clone(),
        note: Some(condition.message.chars().take(1000).collect()),
        reason: condition.reason.clone(),
        secondary: None,
        type_,
    })
}

fn scaled(before: &FerrumModelStatus, after: &FerrumModelStatus) -> Option<Event> {
    let (before, after) = (before.autoscaling.as_ref()?, after.autoscaling.as_ref()?);
    if before.desired_replicas == after.desired_replicas {
        return None;
    }
    Some(Event {
        action: "Autoscaling".to_owned(),
        note: after.reason.clone(),
        reason: "Scaled".to_owned(),
        secondary: None,
        type_: EventType::Normal,
    })
}

#[cfg(test)]
mod tests {
    use ferrum_crds::names::ConditionReason as Reason;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn status(kind: Type, is_true: bool, reason: Reason) -> FerrumModelStatus {
        let condition = Condition {
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            message: "m".to_owned(),
            observed_generation: None,
            reason: reason.as_str().to_owned(),
            status: if is_true { "True" } else { "False" }.to_owned(),
            type_: kind.as_str().to_owned(),
        };
        FerrumModelStatus {
            conditions: vec![condition],
            ..FerrumModelStatus::default()
        }
    }

    #[test]
    fn news_is_told_once_and_a_fault_as_a_warning() {
        let (none, fine) = (
            FerrumModelStatus::default(),
            status(Type::Degraded, false, Reason::AsExpected),
        );
        let broken = status(Type::Degraded, true, Reason::Gated);
        assert_eq!(
            news(&none, &fine).len(),
            0,
            "that nothing is wrong is no news at first"
        );
        let told = news(&fine, &broken);
        assert_eq!(
            (told[0].type_, told[0].reason.as_str()),
            (EventType::Warning, "Gated")
        );
        assert_eq!(news(&broken, &broken).len(), 0);
        assert_eq!(news(&broken, &fine)[0].type_, EventType::Normal);
    }

    #[test]
    fn the_loss_of_the_last_replica_is_news_and_its_absence_at_first_is_not() {
        let (starting, ready) = (
            status(Type::Ready, false, Reason::Starting),
            status(Type::Ready, true, Reason::AllReplicasReady),
        );
        assert_eq!(news(&FerrumModelStatus::default(), &starting).len(), 0);
        assert_eq!(news(&starting, &ready).len(), 1);
        assert_eq!(news(&ready, &starting).len(), 1);
    }
}
