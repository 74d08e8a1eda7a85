//! Listens to one replica: one gRPC stream, on the port that also speaks HTTP.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_api::telemetry::{
    PhaseChange, TelemetryEvent, WatchRequest, phase_change::Phase as WirePhase,
    telemetry_client::TelemetryClient, telemetry_event::Event,
};
use ferrum_engine::Phase;
use tokio::time::{sleep, timeout};
use tonic::{Streaming, transport};
use tracing::{debug, info};

use crate::{
    config::TelemetryConfig,
    fleet::{Health, Replica, Shared, describe},
};

/// Longest time for the first message, which a replica sends at once.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// First pause between two tries.
const BACKOFF: Duration = Duration::from_millis(20);
/// Longest pause while requests wait for the model.
const BACKOFF_AWAITED: Duration = Duration::from_millis(100);
/// A stream that lived for so long was a good one: the next try is made at once.
const GOOD_STREAM: Duration = Duration::from_secs(5);

/// Keeps a stream open until the task is aborted.
pub(crate) async fn listen(replica: Arc<Replica>, shared: Arc<Shared>, config: TelemetryConfig) {
    let mut backoff = BACKOFF;
    let mut last_heard = Instant::now();
    loop {
        let opened = Instant::now();
        let lost = match open(&replica, &config).await {
            Ok(stream) => follow(&replica, &shared, stream).await,
            Err(lost) => lost,
        };
        debug!(replica = replica.id, %lost, "telemetry lost");
        if opened.elapsed() > GOOD_STREAM {
            backoff = BACKOFF;
        }
        match lost {
            Lost::Gap { .. } => last_heard = Instant::now(),
            Lost::Broken(_) => {
                last_heard = Instant::now();
                replica.hear(|health| health.stream_lost(Instant::now()));
            }
            Lost::NotOpened(_) => {
                look_for_life(&replica, &mut last_heard, &config).await;
                if !replica.with_health(|health| health.is_explored()) {
                    replica.hear(|health| health.explored());
                }
            }
        }
        let longest = if shared.queue.len() > 0 {
            config.max_backoff.min(BACKOFF_AWAITED)
        } else {
            config.max_backoff
        };
        sleep(jittered(backoff.min(longest))).await;
        backoff = (backoff * 2).min(config.max_backoff);
    }
}

/// Why there is no stream any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// It ended or broke.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// A message is missing.
    #[error("message {found} came instead of {expected}")]
    Gap {
        /// Next in order.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// It did not come about.
    #[error("no stream: {0}")]
    NotOpened(String),
}

async fn open(replica: &Replica, config: &TelemetryConfig) -> Result<Streaming<TelemetryEvent>, Lost> {
    let endpoint = transport::Endpoint::from_shared(replica.upstream.url().to_owned())
        .map_err(|error| Lost::NotOpened(error.to_string()))?
        .connect_timeout(replica.upstream.connect_timeout())
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.grace)
        .keep_alive_while_idle(true);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Lost::NotOpened(chain(&error)))?;
    let request = WatchRequest {
        router_id: format!("router-{}", std::process::id()),
        kv_blocks: false,
    };
    let mut client = TelemetryClient::new(channel);
    match timeout(FIRST_MESSAGE_TIMEOUT, client.watch(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Lost::NotOpened(status.to_string())),
        Err(_) => Err(Lost::NotOpened("no answer".to_owned())),
    }
}

/// Takes over what the stream brings, until it ends.
async fn follow(replica: &Replica, shared: &Shared, mut stream: Streaming<TelemetryEvent>) -> Lost {
    let mut expected = 1;
    loop {
        let message = if expected == 1 {
            match timeout(FIRST_MESSAGE_TIMEOUT, stream.message()).await {
                Ok(message) => message,
                Err(_) => return Lost::NotOpened("no first message".to_owned()),
            }
        } else {
            tokio::select! {
                message = stream.message() => message,
                () = replica.doubted() => {
                    if let Err(error) = replica.upstream.probe().await {
                        return Lost::Broken(error.to_string());
                    }
                    replica.hear(Health::forgiven);
                    continue;
                }
            }
        };
        let event = match message {
            Ok(Some(event)) if event.sequence == expected => event,
            _ if expected == 1 => return Lost::NotOpened("it ended before its first message".to_owned()),
            Ok(Some(TelemetryEvent { sequence: found, .. })) => return Lost::Gap { expected, found },
            Ok(None) => return Lost::Broken("the replica ended it".to_owned()),
            Err(status) => return Lost::Broken(status.to_string()),
        };
        if expected == 1 {
            replica.hear(|health| health.stream_opened());
        }
        expected += 1;
        match event.event {
            Some(Event::Phase(change)) => hear_phase(replica, change),
            Some(Event::Card(card)) => replica.hear_card(card),
            Some(Event::Load(load)) => replica.hear_load(load, shared.mean_completion()),
            // Block events are not asked for; an event of a later version is none of ours.
            Some(Event::KvBlocks(_)) | None => {}
        }
    }
}

fn hear_phase(replica: &Replica, change: PhaseChange) {
    let (done, total) = (change.done, change.total);
    let phase = match change.phase() {
        WirePhase::Unspecified | WirePhase::Starting => Phase::Starting,
        WirePhase::Fetching => Phase::Fetching {
            done_bytes: done,
            total_bytes: total,
        },
        WirePhase::Loading => Phase::Loading { done, total },
        WirePhase::Warming => Phase::Warming,
        WirePhase::Ready => Phase::Ready,
        WirePhase::Draining => Phase::Draining,
        WirePhase::Failed => Phase::Failed {
            message: change.message,
        },
    };
    let is_new = replica
        .with_health(|health| std::mem::discriminant(health.phase()) != std::mem::discriminant(&phase));
    if is_new {
        info!(
            replica = replica.id,
            phase = describe(&phase),
            "replica changed its phase"
        );
    }
    replica.hear(|health| health.phase_told(phase));
}

/// Without a stream, one request tells whether the replica lives: losing telemetry alone must not end it.
async fn look_for_life(replica: &Replica, last_heard: &mut Instant, config: &TelemetryConfig) {
    match replica.upstream.probe().await {
        Ok(is_ready) => {
            *last_heard = Instant::now();
            replica.hear(|health| health.probe_answered(is_ready));
        }
        // A process that stops closes its door and finishes what it has: requests there are left alone.
        Err(error) if error.is_refused() => {
            *last_heard = Instant::now();
            if replica.with_health(|health| health.is_reachable()) {
                info!(replica = replica.id, "replica refuses connections");
                replica.hear(|health| health.connection_refused());
            }
        }
        Err(error) => {
            replica.hear(|health| health.stream_lost(Instant::now()));
            if last_heard.elapsed() > config.vanished_after
                && replica.with_health(|health| health.is_reachable())
            {
                info!(replica = replica.id, %error, "replica has vanished");
                replica.vanish();
            }
        }
    }
}

/// Between half of it and all of it, so that routers do not knock in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
