//! What the tests of the command line share: the built binary, and a hub that misbehaves on request.
#![allow(dead_code, reason = "each test binary uses its part of it")]

pub(crate) mod checkpoint;
pub(crate) mod fake_hub;
pub(crate) mod server;
pub(crate) mod terminal;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// `ferrum` with nothing of the caller's environment that it reads, and `home` as its HF_HOME.
pub(crate) fn ferrum(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrum"));
    let foreign = |name: &str| {
        name.starts_with("HF_")
            || name.starts_with("HUGGING")
            || name.starts_with("FERRUM_")
            || name == "RUST_LOG"
    };
    for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
        command.env_remove(name);
    }
    for proxy in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(proxy);
    }
    command
        .env("HF_HOME", home)
        .env("NO_COLOR", "1")
        .env("XDG_STATE_HOME", home.join("state"))
        .stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
