//! A step of the CPU: done when it was asked for, so that there is nothing to wait for.

use std::time::{Duration, Instant};

/// What a step has drawn and how long it took.
#[derive(Debug, Default)]
pub struct CpuStep {
    begun: Option<Instant>,
    took: Duration,
    drawn: Vec<u32>,
}

impl CpuStep {
    /// Its time counts from now.
    pub fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// It has drawn this, and took until now.
    pub fn end(&mut self, drawn: &[u32]) {
        self.took = self.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        self.drawn.clear();
        self.drawn.extend_from_slice(drawn);
    }

    /// Puts what it has drawn into `tokens`, and says how long it took.
    pub fn finish(&mut self, tokens: &mut Vec<u32>) -> Duration {
        tokens.clear();
        tokens.append(&mut self.drawn);
        self.took
    }
}
