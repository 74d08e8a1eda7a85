//! What stands for `cuda` in a build without it.

use std::time::Duration;

use ferrum_engine::{LaunchConfig, LaunchError};

use crate::launch::{Launch, LaunchFailure, Launched};

pub(crate) fn check(config: &LaunchConfig) -> Result<(), LaunchFailure> {
    Err(refusal(config))
}

pub(crate) fn run(launch: &Launch<'_>) -> Result<Launched, LaunchFailure> {
    Err(refusal(launch.config))
}

/// There are none.
#[must_use]
pub fn devices_given_back(_patience: Duration) -> bool {
    true
}

fn refusal(config: &LaunchConfig) -> LaunchFailure {
    LaunchFailure::Config(LaunchError {
        flag: "device",
        value: config.device.to_string(),
        allowed: "cpu, as this build has no CUDA backend (feature `cuda`)",
    })
}
