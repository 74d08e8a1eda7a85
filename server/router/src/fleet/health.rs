//! What the router believes of one replica. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

use ferrum_engine::Phase;

use crate::{config::TelemetryConfig, policy::Standing};

/// First stay in the penalty box; it doubles with each failure in a row.
const PENALTY: Duration = Duration::from_millis(250);
/// Shortest stay when no connection could be opened: long enough to find out whether it is still there.
const UNREACHABLE_PENALTY: Duration = Duration::from_secs(2);
/// Longest stay.
const PENALTY_MAX: Duration = Duration::from_secs(10);
/// How often a replica that answered 429 or 503 may be asked once more.
const REFILL: Duration = Duration::from_millis(250);
/// A replica is no longer taken for full when it has refused nothing for so long.
const FULL_FOR: Duration = Duration::from_secs(5);

/// Phase, reachability and recent conduct of a replica.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    phase: Phase,
    link: Link,
    penalty: Option<Penalty>,
    refusal: Option<Refusal>,
    last_success: Option<Instant>,
    incarnation: u64,
    is_explored: bool,
}

/// How it is known that the process is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It speaks: an open telemetry stream, or an answer to a probe since that was lost.
    Confirmed,
    /// The stream was lost, and nothing was heard since.
    Lost {
        /// When.
        since: Instant,
    },
    /// Nobody listens at its address, or it was never heard of.
    Unreachable,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    failures: u32,
    until: Instant,
}

/// It answered 429 or 503. Each completed request and each interval lets one more request try.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    kind: RefusalKind,
    last: Instant,
    refill_at: Instant,
    credit: u32,
}

/// Why a replica sent a request away without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// 429: its queue is at its bound.
    Full,
    /// 503: it loads or drains, and its telemetry has not said so yet.
    NotReady,
}

/// Whether a request may go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Routable(Standing),
    /// It is ready, and full.
    Full,
    /// It is not ready.
    NotReady,
}

impl Health {
    /// A replica that was never heard of.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Starting,
            link: Link::Unreachable,
            penalty: None,
            refusal: None,
            last_success: None,
            incarnation: 0,
            is_explored: false,
        }
    }

    /// Whether a request may go there now.
    pub(crate) fn verdict(&self, now: Instant, times: &TelemetryConfig) -> Verdict {
        if self.phase != Phase::Ready || !self.is_believed(now, times) {
            return Verdict::NotReady;
        }
        match self.refusal {
            Some(refusal) if refusal.credit == 0 && now < refusal.refill_at => match refusal.kind {
                RefusalKind::Full => Verdict::Full,
                RefusalKind::NotReady => Verdict::NotReady,
            },
            _ => Verdict::Routable(self.standing(now)),
        }
    }

    /// A request was sent there: takes one credit where it refuses.
    pub(crate) fn chosen(&mut self, now: Instant) {
        if let Some(refusal) = &mut self.refusal {
            refusal.credit = refusal.credit.saturating_sub(1);
            if now >= refusal.refill_at {
                refusal.refill_at = now + REFILL;
            }
        }
    }

    /// One of its requests is over: there is room for one more.
    pub(crate) fn released(&mut self) {
        if let Some(refusal) = &mut self.refusal
            && refusal.kind == RefusalKind::Full
        {
            refusal.credit = refusal.credit.saturating_add(1);
        }
    }

    /// It answered a request well (also with a client's 4xx).
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.last_success = Some(now);
        self.penalty = None;
        if self
            .refusal
            .is_some_and(|refusal| refusal.kind == RefusalKind::NotReady || now > refusal.last + FULL_FOR)
        {
            self.refusal = None;
        }
    }

    /// No connection could be opened for a request.
    pub(crate) fn not_connected(&mut self, now: Instant) {
        self.failed(now);
        if let Some(penalty) = &mut self.penalty {
            penalty.until = penalty.until.max(now + UNREACHABLE_PENALTY);
        }
    }

    /// What was held against it turned out to be a passing thing.
    pub(crate) fn forgiven(&mut self) {
        self.penalty = None;
    }

    /// It failed a request: broken off, 5xx.
    pub(crate) fn failed(&mut self, now: Instant) {
        let failures = self
            .penalty
            .map_or(0, |penalty| penalty.failures)
            .saturating_add(1);
        let stay = PENALTY
            .saturating_mul(1 << (failures - 1).min(16))
            .min(PENALTY_MAX);
        self.penalty = Some(Penalty {
            failures,
            until: now + stay,
        });
    }

    /// It sent a request away.
    pub(crate) fn refused(&mut self, now: Instant, kind: RefusalKind) {
        self.refusal = Some(Refusal {
            kind,
            last: now,
            refill_at: now + REFILL,
            credit: 0,
        });
    }

    /// A telemetry stream has opened and told the phase: whatever was held against the process before is void.
    pub(crate) fn stream_opened(&mut self) {
        self.confirm();
        self.penalty = None;
        self.refusal = None;
    }

    /// It answered a probe while no stream can be had; `ready` is what it said.
    pub(crate) fn probe_answered(&mut self, ready: bool) {
        self.confirm();
        match (ready, &self.phase) {
            (true, _) => self.phase = Phase::Ready,
            (false, Phase::Ready) => self.phase = Phase::Starting,
            (false, _) => {}
        }
    }

    /// It told its phase.
    pub(crate) fn phase_told(&mut self, phase: Phase) {
        if phase == Phase::Ready && self.refusal.is_some_and(|r| r.kind == RefusalKind::NotReady) {
            self.refusal = None;
        }
        self.phase = phase;
    }

    /// The stream broke.
    pub(crate) fn stream_lost(&mut self, now: Instant) {
        if self.link == Link::Confirmed {
            self.link = Link::Lost { since: now };
        }
    }

    /// Nobody listens at its address.
    pub(crate) fn connection_refused(&mut self) {
        self.link = Link::Unreachable;
    }

    /// Phase as last heard.
    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether the process has ever been heard of and nothing speaks against it.
    pub(crate) fn is_reachable(&self) -> bool {
        self.link != Link::Unreachable
    }

    /// A first attempt to hear of it has come to an end, whichever.
    pub(crate) fn explored(&mut self) {
        self.is_explored = true;
    }

    /// Whether what is believed of it rests on anything.
    pub(crate) fn is_explored(&self) -> bool {
        self.is_explored
    }

    /// Grows each time that contact is made anew: a failure before says nothing of the process after.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn confirm(&mut self) {
        self.is_explored = true;
        if self.link != Link::Confirmed {
            self.link = Link::Confirmed;
            self.incarnation += 1;
        }
    }

    /// Losing the stream must not black out a replica that answers, nor keep one that is gone.
    fn is_believed(&self, now: Instant, times: &TelemetryConfig) -> bool {
        match self.link {
            Link::Confirmed => true,
            Link::Lost { since } => {
                let last_sign = self.last_success.map_or(since, |success| success.max(since));
                now < last_sign + times.grace
            }
            Link::Unreachable => false,
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        if self.penalty.is_some_and(|penalty| now < penalty.until) {
            Standing::Penalized
        } else if self.link == Link::Confirmed {
            Standing::Confirmed
        } else {
            Standing::Suspect
        }
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
