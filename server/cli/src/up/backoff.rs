//! How long to wait before a child is started again.

use std::time::Duration;

/// Doubles with each failure, up to a bound; forgets them after a stable time.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// A child that was up for so long has shown that it works.
const STABLE: Duration = Duration::from_secs(60);

impl Backoff {
    /// The wait after a child ended that was ready for `ready_for`.
    pub(crate) fn next(&mut self, ready_for: Duration) -> Duration {
        if ready_for >= STABLE {
            self.failures = 0;
        }
        let wait = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_again_after_a_stable_time() {
        let mut backoff = Backoff::default();
        let mut next = |seconds| backoff.next(Duration::from_secs(seconds)).as_millis();
        assert_eq!([next(0), next(0), next(59), next(1)], [500, 1_000, 2_000, 4_000]);
        assert_eq!(
            [next(0), next(0), next(0), next(0), next(0)],
            [8_000, 16_000, 32_000, 60_000, 60_000]
        );
        assert_eq!([next(60), next(0)], [500, 1_000]);
    }
}
