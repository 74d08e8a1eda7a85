//! How many replicas a model should have: pure, time comes in as an argument.
//!
//! Up at once, down only to the most that was needed within the last `scale_down_delay`, and only by replicas that run
//! nothing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What the manifest asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// Fewest replicas.
    pub(crate) min: i32,
    /// Most replicas, at least `min`.
    pub(crate) max: i32,
    /// Share of the capacity that should be in use, above 0 and at most 1.
    pub(crate) utilization: f64,
    /// Most tokens that may wait for each replica, at least 1.
    pub(crate) waiting_tokens: u64,
    /// How long fewer replicas must have sufficed.
    pub(crate) scale_down_delay: Duration,
}

/// What waits and runs, summed over the routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests that no replica has.
    pub(crate) held_requests: u64,
    /// What they are expected to cost.
    pub(crate) held_tokens: u64,
    /// Requests on a replica.
    pub(crate) running_requests: u64,
    /// Tokens of those.
    pub(crate) running_tokens: u64,
    /// Requests that ever came; it counts those that are over before they are seen.
    pub(crate) requests_total: u64,
}

/// What one replica can have in flight, as measured when it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Requests in one step.
    pub(crate) requests: Option<u64>,
    /// Tokens that its KV cache holds.
    pub(crate) tokens: Option<u64>,
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    /// The moment.
    pub(crate) now: Instant,
    /// Replicas asked for until now; `None` before the first time.
    pub(crate) current: Option<i32>,
    /// Replicas that run nothing, as every router says.
    pub(crate) idle: i32,
    /// What routers say; `None` while none can be reached.
    pub(crate) load: Option<Load>,
    /// Of one replica.
    pub(crate) capacity: Capacity,
}

/// Why there are as many replicas as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The manifest allows no other number, or nothing is asked of the model.
    Bounds,
    /// It was stopped, and somebody waits.
    Held,
    /// The capacity of fewer replicas would be exceeded.
    Busy,
    /// Too many tokens wait for each replica.
    Waiting,
    /// Fewer would do, but not yet for long enough.
    Cooling,
    /// Fewer have done for long enough, but none is idle.
    Draining,
    /// Fewer have done for long enough.
    Idle,
    /// No router tells what is needed: it stays as it is.
    Unknown,
}

/// How many replicas, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Replicas to ask for.
    pub(crate) replicas: i32,
    /// Replicas that the load needs now.
    pub(crate) needed: i32,
    /// The reason.
    pub(crate) why: Why,
    /// When to decide again if nothing else happens.
    pub(crate) again_after: Option<Duration>,
}

/// What was needed lately: the highest first, each with the last moment at which it was.
#[derive(Debug, Default)]
pub(crate) struct History {
    needed: VecDeque<(Instant, i32)>,
    since: Option<Instant>,
    requests_total: u64,
}

/// Decides, and remembers what was needed.
pub(crate) fn decide(bounds: &Bounds, seen: &Observation, history: &mut History) -> Decision {
    let clamp = |replicas: i32| replicas.clamp(bounds.min, bounds.max);
    let Some(load) = seen.load else {
        let replicas = clamp(seen.current.unwrap_or(bounds.min));
        return Decision {
            replicas,
            needed: replicas,
            why: Why::Unknown,
            again_after: None,
        };
    };
    let (wanted, why) = needed(bounds, seen, &load, history.saw(&load));
    let needed = clamp(wanted);
    let lately = history.remember(seen.now, needed, bounds.scale_down_delay);
    let current = clamp(seen.current.unwrap_or(needed));
    if needed >= current {
        let why = if needed == wanted { why } else { Why::Bounds };
        return Decision {
            replicas: needed,
            needed,
            why,
            again_after: None,
        };
    }
    let again_after = history.changes_after(seen.now, bounds.scale_down_delay);
    let Some(enough) = lately.filter(|&lately| lately < current) else {
        return Decision {
            replicas: current,
            needed,
            why: Why::Cooling,
            again_after,
        };
    };
    let removed = (current - enough).min(seen.idle.max(0));
    let why = if removed == 0 { Why::Draining } else { Why::Idle };
    Decision {
        replicas: current - removed,
        needed,
        why,
        again_after,
    }
}

/// Replicas that the load asks for, before the manifest's bounds.
fn needed(bounds: &Bounds, seen: &Observation, load: &Load, is_used: bool) -> (i32, Why) {
    let share = |amount: u64, capacity: Option<u64>| match capacity {
        Some(capacity) if capacity > 0 => ceil(amount as f64 / (capacity as f64 * bounds.utilization)),
        _ => 0,
    };
    let requests = share(load.running_requests + load.held_requests, seen.capacity.requests);
    let tokens = share(load.running_tokens + load.held_tokens, seen.capacity.tokens);
    let busy = requests.max(tokens);
    let waiting = ceil(load.held_tokens as f64 / bounds.waiting_tokens as f64);
    // A stopped model answers nothing unseen; what looks like it is a router that is heard again.
    let is_used = is_used && seen.current != Some(0);
    let is_in_use = is_used || load.held_requests > 0 || load.running_requests > 0;
    let floor = i32::from(is_in_use);
    if seen.current == Some(0) && load.held_requests > 0 && waiting <= 1 && busy <= 1 {
        return (1, Why::Held);
    }
    match (busy.max(floor), waiting) {
        (busy, waiting) if waiting > busy => (waiting, Why::Waiting),
        (0, _) => (0, Why::Bounds),
        (busy, _) => (busy, Why::Busy),
    }
}

fn ceil(replicas: f64) -> i32 {
    replicas.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

impl History {
    /// Whether requests came since the last look.
    fn saw(&mut self, load: &Load) -> bool {
        // A router that restarted begins at 0: that is no request.
        let is_more = self.since.is_some() && load.requests_total > self.requests_total;
        self.requests_total = load.requests_total;
        is_more
    }

    /// The most that was needed within `delay`, once everything within it is known.
    fn remember(&mut self, now: Instant, needed: i32, delay: Duration) -> Option<i32> {
        while self.needed.back().is_some_and(|&(_, smaller)| smaller <= needed) {
            self.needed.pop_back();
        }
        self.needed.push_back((now, needed));
        let since = *self.since.get_or_insert(now);
        while self.needed.len() > 1
            && self
                .needed
                .front()
                .is_some_and(|&(at, _)| now.duration_since(at) >= delay)
        {
            self.needed.pop_front();
        }
        let is_known = now.duration_since(since) >= delay;
        self.needed.front().filter(|_| is_known).map(|&(_, most)| most)
    }

    /// When the answer of [`Self::remember`] changes by itself.
    fn changes_after(&self, now: Instant, delay: Duration) -> Option<Duration> {
        let known = self.since.map(|since| since + delay);
        let leaves = (self.needed.len() > 1)
            .then(|| self.needed.front().map(|&(at, _)| at + delay))
            .flatten();
        let next = known.into_iter().chain(leaves).filter(|&at| at > now).min()?;
        Some(next.duration_since(now))
    }
}
