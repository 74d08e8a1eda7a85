//! What the loop measures of itself. The seconds come in as an argument.

use std::time::Duration;

use ferrum_engine::{EngineLoad, StepTimes};

/// Busy seconds after which a measurement counts for 1/e of a new one.
const MEMORY_SECONDS: f64 = 5.0;

/// Tokens a second, older steps fading.
///
/// A ratio of two fading sums, so that a step counts by the time it took: many steps of one short prompt
/// each do not hide what long ones reach.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    tokens: f64,
    seconds: f64,
}

impl Rate {
    /// Adds a step of `tokens` tokens.
    pub(crate) fn add(&mut self, tokens: usize, seconds: f64) {
        if tokens == 0 {
            return;
        }
        let keep = (-seconds / MEMORY_SECONDS).exp();
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + seconds;
    }

    /// 0 until measured.
    pub(crate) fn per_second(&self) -> f32 {
        if self.seconds > 0.0 {
            (self.tokens / self.seconds) as f32
        } else {
            0.0
        }
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepCounts {
    /// Prompt (or text) tokens computed.
    pub(crate) prefill_tokens: usize,
    /// Prompt tokens found in the cache.
    pub(crate) cached_tokens: usize,
    /// Rows of one token after a prompt.
    pub(crate) decode_tokens: usize,
    /// Tokens drawn, or texts' tokens embedded.
    pub(crate) generated_tokens: usize,
}

/// Rates and totals since the start.
///
/// Both rates are what requests get: a step that mixes prefill and decode counts with all its time for
/// either.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    prefill: Rate,
    decode: Rate,
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    steps: u64,
    times: StepTimes,
}

impl Meter {
    /// Adds a step that took `time`, the device `device_time` of it.
    pub(crate) fn add(&mut self, counts: StepCounts, time: Duration, device_time: Duration) {
        let seconds = time.as_secs_f64();
        // The two clocks differ a little.
        let device_time = device_time.min(time);
        self.times.device.add(device_time.as_secs_f64());
        self.times.host.add((time - device_time).as_secs_f64());
        let StepCounts {
            prefill_tokens,
            cached_tokens,
            decode_tokens,
            generated_tokens,
        } = counts;
        self.prefill.add(prefill_tokens, seconds);
        self.decode.add(decode_tokens, seconds);
        self.prompt_tokens += (prefill_tokens + cached_tokens) as u64;
        self.cached_tokens += cached_tokens as u64;
        self.generated_tokens += generated_tokens as u64;
        self.steps += 1;
    }

    /// Completes what a worker says of its queues.
    pub(crate) fn complete(&self, queues: EngineLoad) -> EngineLoad {
        EngineLoad {
            prefill_tokens_per_second: self.prefill.per_second(),
            decode_tokens_per_second: self.decode.per_second(),
            prompt_tokens_total: self.prompt_tokens,
            cached_tokens_total: self.cached_tokens,
            generated_tokens_total: self.generated_tokens,
            steps_total: self.steps,
            step_times: self.times,
            ..queues
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_does_not_take_of_a_step_is_the_hosts() {
        let mut meter = Meter::default();
        let ms = Duration::from_millis;
        meter.add(StepCounts::default(), ms(10), ms(7));
        // A clock of the device that runs ahead.
        meter.add(StepCounts::default(), ms(10), ms(11));
        let times = meter.complete(EngineLoad::default()).step_times;
        assert!((times.host.seconds - 0.003).abs() < 1e-9 && (times.device.seconds - 0.017).abs() < 1e-9);
    }

    #[test]
    fn a_rate_follows_the_newest_steps_and_weighs_them_by_their_time() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        rate.add(1000, 1.0);
        assert_eq!(rate.per_second(), 1000.0);
        // A short prompt: 1 token in 10 ms. It hardly moves what 1000 tokens in a second have shown.
        rate.add(1, 0.01);
        assert!((980.0..1000.0).contains(&rate.per_second()));
        // After 10 times the memory only the new rate is left.
        for _ in 0..50 {
            rate.add(200, 1.0);
        }
        assert!((199.0..201.0).contains(&rate.per_second()));
    }
}
