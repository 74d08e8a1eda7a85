use super::*;

const CONFIRMED: Verdict = Verdict::Routable(Standing::Confirmed);
const SUSPECT: Verdict = Verdict::Routable(Standing::Suspect);
const PENALIZED: Verdict = Verdict::Routable(Standing::Penalized);

struct Clock {
    start: Instant,
    times: TelemetryConfig,
}

impl Clock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            times: TelemetryConfig::default(),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn verdict(&self, health: &Health, ms: u64) -> Verdict {
        health.verdict(self.at(ms), &self.times)
    }
}

fn ready() -> Health {
    let mut health = Health::new();
    health.stream_opened();
    health.phase_told(Phase::Ready);
    health
}

#[test]
fn a_replica_is_routable_only_once_it_has_said_that_it_is_ready() {
    let clock = Clock::new();
    let mut health = Health::new();
    assert_eq!(clock.verdict(&health, 0), Verdict::NotReady);
    health.stream_opened();
    health.phase_told(Phase::Loading { done: 1, total: 2 });
    assert_eq!(clock.verdict(&health, 0), Verdict::NotReady);
    health.phase_told(Phase::Ready);
    assert_eq!(clock.verdict(&health, 0), CONFIRMED);
    health.phase_told(Phase::Draining);
    assert_eq!(clock.verdict(&health, 0), Verdict::NotReady);
}

#[test]
fn a_lost_stream_does_not_black_out_a_replica_that_answers() {
    let clock = Clock::new();
    let mut health = ready();
    health.stream_lost(clock.at(0));
    assert_eq!(clock.verdict(&health, 2_999), SUSPECT);
    assert_eq!(clock.verdict(&health, 3_000), Verdict::NotReady);
    health.succeeded(clock.at(2_500));
    assert_eq!(clock.verdict(&health, 5_000), SUSPECT);
    assert_eq!(clock.verdict(&health, 5_600), Verdict::NotReady);
    health.probe_answered(true);
    assert_eq!(clock.verdict(&health, 60_000), CONFIRMED);
}

#[test]
fn a_refused_connection_ends_a_replica_at_once_and_contact_begins_a_new_incarnation() {
    let clock = Clock::new();
    let mut health = ready();
    let before = health.incarnation();
    health.stream_lost(clock.at(0));
    health.connection_refused();
    health.succeeded(clock.at(1)); // an answer that was on its way
    assert_eq!(clock.verdict(&health, 1), Verdict::NotReady);
    health.stream_opened();
    assert_eq!(clock.verdict(&health, 2), CONFIRMED);
    assert_eq!(health.incarnation(), before + 1);
}

#[test]
fn penalties_double_and_end_with_a_success_or_a_new_stream() {
    let clock = Clock::new();
    let mut health = ready();
    health.failed(clock.at(0));
    assert_eq!(clock.verdict(&health, 249), PENALIZED);
    assert_eq!(clock.verdict(&health, 250), CONFIRMED);
    health.failed(clock.at(1_000));
    assert_eq!(clock.verdict(&health, 1_499), PENALIZED);
    assert_eq!(clock.verdict(&health, 1_500), CONFIRMED);
    for _ in 0..100 {
        health.failed(clock.at(2_000));
    }
    assert_eq!(clock.verdict(&health, 11_999), PENALIZED);
    assert_eq!(clock.verdict(&health, 12_000), CONFIRMED);
    health.succeeded(clock.at(2_001));
    assert_eq!(clock.verdict(&health, 2_001), CONFIRMED);
    health.failed(clock.at(3_000));
    health.stream_opened();
    assert_eq!(clock.verdict(&health, 3_000), CONFIRMED);
}

#[test]
fn a_full_replica_gets_one_request_for_each_that_ends_and_one_an_interval() {
    let clock = Clock::new();
    let mut health = ready();
    health.refused(clock.at(0), RefusalKind::Full);
    assert_eq!(clock.verdict(&health, 1), Verdict::Full);
    health.released();
    assert_eq!(clock.verdict(&health, 1), CONFIRMED);
    health.chosen(clock.at(1));
    assert_eq!(clock.verdict(&health, 1), Verdict::Full);
    assert_eq!(clock.verdict(&health, 250), CONFIRMED);
    health.chosen(clock.at(250));
    assert_eq!(clock.verdict(&health, 251), Verdict::Full);
    health.succeeded(clock.at(4_000));
    health.chosen(clock.at(4_000));
    assert_eq!(clock.verdict(&health, 4_001), Verdict::Full, "it refused 4 s ago");
    health.succeeded(clock.at(5_001));
    assert_eq!(clock.verdict(&health, 5_001), CONFIRMED);
}

#[test]
fn a_503_keeps_requests_away_until_telemetry_or_an_answer_says_otherwise() {
    let clock = Clock::new();
    let mut health = ready();
    health.refused(clock.at(0), RefusalKind::NotReady);
    health.released();
    assert_eq!(clock.verdict(&health, 1), Verdict::NotReady);
    assert_eq!(clock.verdict(&health, 250), CONFIRMED);
    health.phase_told(Phase::Ready);
    assert_eq!(clock.verdict(&health, 1), CONFIRMED);
    health.refused(clock.at(0), RefusalKind::NotReady);
    health.succeeded(clock.at(2));
    assert_eq!(clock.verdict(&health, 2), CONFIRMED);
}
