//! From a request to an answer: choose, try, choose again, or wait for a replica that can.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_api::{ApiError, ErrorKind};
use http::Response;
use tokio::time::timeout;

use super::{
    attempt::{Attempt, Outgoing, Terms, attempt},
    headers::X_REQUEST_ID,
    peek::Peek,
    reply::ReplyBody,
};
use crate::{
    Context,
    fleet::{InFlight, Model, NoChoice, RefusalKind, Replica, Table, Ticket, WaitQueue},
    keys::Access,
    policy::Demand,
};

/// A request that every ready replica has failed waits so long for another replica, or for news that the one that
/// failed it is gone and comes back.
const OTHER_REPLICA_TIMEOUT: Duration = Duration::from_secs(2);
/// Waiting requests look for themselves so often: a full replica may be asked again after a while.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// `Retry-After` where a queue is full.
const RETRY_FULL_SECONDS: u32 = 1;
/// `Retry-After` where a model is not ready.
const RETRY_NOT_READY_SECONDS: u32 = 5;

/// One request and what became of it so far.
pub(crate) struct Dispatch {
    context: Arc<Context>,
    outgoing: Outgoing,
    served_name: String,
    demand: Demand,
    /// Its number in the order of arrival, and the queue that the number is of.
    place: (Arc<WaitQueue>, u64),
    arrived: Instant,
    /// From here on it waits for room: the wait for a first replica does not count.
    ready_since: Instant,
    /// Replicas that failed it, as they were then.
    failed: Vec<(Arc<Replica>, u64)>,
    /// Replicas that refused it since it last waited.
    refused: Vec<Arc<Replica>>,
    last_failure: Option<(Instant, String)>,
    ticket: Option<Ticket>,
}

impl Dispatch {
    /// # Errors
    /// 400 for a body without a model, 404 for one that is unknown to the key.
    pub(crate) fn new(
        context: &Arc<Context>,
        outgoing: Outgoing,
        peek: &Peek<'_>,
        access: &Access,
    ) -> Result<(Self, Arc<Model>), ApiError> {
        let served_name = peek.model()?.to_owned();
        let model = find(&context.fleet.table(), &served_name, access)?;
        let mean_completion = match outgoing.uri.path() {
            "/v1/embeddings" => 0,
            _ => model.shared.mean_completion(),
        };
        let arrived = Instant::now();
        let dispatch = Self {
            context: context.clone(),
            demand: peek.demand(outgoing.body.len(), mean_completion),
            outgoing,
            served_name,
            place: (model.shared.queue.clone(), model.shared.queue.number()),
            arrived,
            ready_since: arrived,
            failed: Vec::new(),
            refused: Vec::new(),
            last_failure: None,
            ticket: None,
        };
        Ok((dispatch, model))
    }

    /// What it waits for, asked again and again while it runs.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting {
            context: self.context.clone(),
            served_name: self.served_name.clone(),
        }
    }

    /// # Errors
    /// 429 when too much waits, 502 when replicas fail it, 503 when none becomes ready in time.
    pub(crate) async fn run(mut self) -> Result<Response<ReplyBody>, ApiError> {
        loop {
            let (in_flight, model) = self.choose_or_wait().await?;
            let replica = in_flight.replica().clone();
            let incarnation = replica.with_health(|health| health.incarnation());
            let outcome = attempt(&self.outgoing, in_flight, self.terms(&model)).await;
            let (reason, label) = match outcome {
                Attempt::Answer(response) => return Ok(response),
                Attempt::Doubtful(response) => {
                    self.note_failure(&replica, incarnation, "it failed".to_owned());
                    if self.failed.len() > 1 || !self.has_another() {
                        return Ok(response);
                    }
                    ("it answered with an error of its own".to_owned(), "server_error")
                }
                Attempt::Failed(reason) => {
                    self.note_failure(&replica, incarnation, reason.clone());
                    (reason, "broken_off")
                }
                Attempt::Refused(kind) => {
                    self.refused.push(replica.clone());
                    match kind {
                        RefusalKind::Full => ("it is full".to_owned(), "full"),
                        RefusalKind::NotReady => ("it is not ready".to_owned(), "not_ready"),
                    }
                }
            };
            tracing::debug!(replica = replica.id, reason, "trying another replica");
            self.context.metrics.retries.with_label_values(&[label]).inc();
            if self.failed.len() >= self.context.config.max_attempts {
                return Err(self.upstream_failed());
            }
        }
    }

    /// Chooses now if it can, else waits for its turn.
    async fn choose_or_wait(&mut self) -> Result<(InFlight, Arc<Model>), ApiError> {
        let mut waited_since: Option<Instant> = None;
        loop {
            let model = known(&self.context.fleet.table(), &self.served_name)?;
            let queue = &model.shared.queue;
            if !Arc::ptr_eq(queue, &self.place.0) {
                // The model went and came back.
                self.ticket = None;
                self.place = (queue.clone(), queue.number());
            }
            let why = match self.choose(&model) {
                Ok(in_flight) => {
                    self.ticket = None;
                    if let Some(since) = waited_since {
                        self.context.metrics.saw_wait(since.elapsed());
                    }
                    return Ok((in_flight, model));
                }
                Err(why) => why,
            };
            self.refused.clear();
            let remaining = self.remaining_wait(&model, why)?;
            let ticket = match self.ticket.take() {
                Some(ticket) => ticket,
                None => queue
                    .join(self.place.1, self.demand.tokens())
                    .ok_or_else(|| self.queue_full(&model, why))?,
            };
            ticket.stand_aside(why == NoChoice::AllTried || !model.may_answer_to(&self.served_name));
            waited_since.get_or_insert_with(Instant::now);
            // Whether something changed or the time is up: it looks again.
            let _ = timeout(remaining.min(LOOK_INTERVAL), ticket.changed()).await;
            self.ticket = Some(ticket);
        }
    }

    fn choose(&self, model: &Model) -> Result<InFlight, NoChoice> {
        let queue = &model.shared.queue;
        let has_turn = match &self.ticket {
            Some(ticket) => ticket.is_first(),
            // One that comes back from a replica had its turn already.
            None => !self.failed.is_empty() || !self.refused.is_empty() || !queue.has_waiters(),
        };
        if !has_turn {
            return Err(if model.ready() > 0 {
                NoChoice::Full
            } else {
                NoChoice::NotReady
            });
        }
        let request = (self.served_name.as_str(), self.demand);
        model.choose(self.context.policy.as_ref(), request, |replica| {
            self.may_use(replica)
        })
    }

    /// Never the same replica twice, unless its process is another one by now.
    fn may_use(&self, replica: &Replica) -> bool {
        if self.failed.is_empty() && self.refused.is_empty() {
            return true;
        }
        let incarnation = replica.with_health(|health| health.incarnation());
        let is = |other: &Arc<Replica>| std::ptr::eq(Arc::as_ptr(other), replica);
        !self.refused.iter().any(is)
            && !self
                .failed
                .iter()
                .any(|(failed, then)| is(failed) && *then == incarnation)
    }

    /// How long it may still wait, for this reason.
    fn remaining_wait(&mut self, model: &Model, why: NoChoice) -> Result<Duration, ApiError> {
        let config = &self.context.config;
        // A router that has just begun does not know yet that all is well.
        if let Some(message) = &model.message
            && why == NoChoice::NotReady
            && model.is_explored()
        {
            return Err(ApiError::new(
                ErrorKind::Unavailable,
                format!("`{}` cannot be served: {message}", self.served_name),
            ));
        }
        let now = Instant::now();
        let (mut end, waited) = if why == NoChoice::NotReady {
            self.ready_since = now;
            (self.arrived + config.start_timeout, config.start_timeout)
        } else {
            (self.ready_since + config.queue_timeout, config.queue_timeout)
        };
        if let (NoChoice::AllTried, Some((failed_at, _))) = (why, &self.last_failure) {
            end = end.min(*failed_at + OTHER_REPLICA_TIMEOUT);
        }
        if now < end {
            return Ok(end - now);
        }
        let waited = waited.as_secs();
        Err(match why {
            NoChoice::AllTried => self.upstream_failed(),
            NoChoice::Full => {
                let message = format!("every replica of `{}` was full for {waited} s", self.served_name);
                ApiError::new(ErrorKind::Overloaded, message).retry_after(RETRY_FULL_SECONDS)
            }
            NoChoice::NotReady => {
                let message = format!(
                    "no replica of `{}` became ready within {waited} s ({})",
                    self.served_name,
                    model.phase_text()
                );
                ApiError::new(ErrorKind::Unavailable, message).retry_after(RETRY_NOT_READY_SECONDS)
            }
        })
    }

    /// Whether a replica that has not failed it could take it at once.
    fn has_another(&self) -> bool {
        let Ok(model) = known(&self.context.fleet.table(), &self.served_name) else {
            return false;
        };
        let now = Instant::now();
        let mut replicas = model.replicas.iter();
        replicas.any(|replica| replica.candidate(now, &self.served_name).is_ok() && self.may_use(replica))
    }

    fn note_failure(&mut self, replica: &Arc<Replica>, incarnation: u64, reason: String) {
        let request_id = self.outgoing.headers.get(X_REQUEST_ID);
        tracing::warn!(
            replica = replica.id,
            ?request_id,
            reason,
            "a replica failed a request"
        );
        self.failed.push((replica.clone(), incarnation));
        self.last_failure = Some((Instant::now(), reason));
    }

    fn terms(&self, model: &Model) -> Terms {
        Terms {
            model: model.shared.clone(),
            metrics: self.context.metrics.clone(),
            max_held_bytes: self.context.config.max_held_answer_bytes,
        }
    }

    fn queue_full(&self, model: &Model, why: NoChoice) -> ApiError {
        let waiting = model.shared.queue.len();
        let state = match why {
            NoChoice::NotReady => model.phase_text(),
            NoChoice::AllTried | NoChoice::Full => "every replica is full".to_owned(),
        };
        let name = &self.served_name;
        let message = format!("{waiting} requests wait for `{name}` already, the most that may ({state})");
        match why {
            NoChoice::NotReady => {
                ApiError::new(ErrorKind::Unavailable, message).retry_after(RETRY_NOT_READY_SECONDS)
            }
            NoChoice::AllTried | NoChoice::Full => {
                ApiError::new(ErrorKind::Overloaded, message).retry_after(RETRY_FULL_SECONDS)
            }
        }
    }

    fn upstream_failed(&self) -> ApiError {
        let count = self.failed.len();
        let reason = self
            .last_failure
            .as_ref()
            .map_or("", |(_, reason)| reason.as_str());
        let replicas = if count == 1 { "replica" } else { "replicas" };
        let message = format!("{count} {replicas} failed the request, the last one: {reason}");
        ApiError::new(ErrorKind::UpstreamFailed, message)
    }
}

/// What a request waits for, in words.
pub(crate) struct Waiting {
    context: Arc<Context>,
    served_name: String,
}

impl Waiting {
    pub(crate) fn describe(&self) -> String {
        match self.context.fleet.table().model(&self.served_name) {
            Some(model) if model.ready() == 0 => model.phase_text(),
            _ => "for the first token".to_owned(),
        }
    }
}

/// The model of that name, if the key may use it.
///
/// # Errors
/// 404 that lists what there is for this key, the same for a model that is not; 503 while nothing is known yet.
pub(crate) fn find(table: &Table, served_name: &str, access: &Access) -> Result<Arc<Model>, ApiError> {
    match table.model(served_name) {
        Some(model) if access.allows(served_name) => Ok(model.clone()),
        _ => Err(not_found(table, served_name, |name| access.allows(name))),
    }
}

/// The same for a request that was let in already.
fn known(table: &Table, served_name: &str) -> Result<Arc<Model>, ApiError> {
    let found = table.model(served_name).cloned();
    found.ok_or_else(|| not_found(table, served_name, |_| false))
}

fn not_found(table: &Table, served_name: &str, is_shown: impl Fn(&str) -> bool) -> ApiError {
    if !table.is_loaded {
        let message = "the router does not know its models yet";
        return ApiError::new(ErrorKind::Unavailable, message).retry_after(RETRY_FULL_SECONDS);
    }
    let shown: String = served_name.chars().take(200).collect();
    let message = match table.served_names(is_shown) {
        names if names.is_empty() => format!("no model `{shown}`"),
        names => format!("no model `{shown}`: expected one of {names}"),
    };
    ApiError::new(ErrorKind::ModelNotFound, message).with_param("model")
}
