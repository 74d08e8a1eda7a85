//! Exit codes, and how an error is told.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::hub::HubError;

/// The command failed.
pub(crate) const FAILURE: u8 = 1;
/// The command line contradicts itself (clap exits with the same code).
pub(crate) const USAGE: u8 = 2;
/// A serving engine failed for good.
pub(crate) const ENGINE_FAILED: u8 = 3;
/// Stopped by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// Whoever read our output has gone: what the shell reports of a process that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;

/// Wrong usage that clap cannot know of; ends the process with [`USAGE`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Writes `error` to stderr and chooses the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::from(BROKEN_PIPE);
    }
    let _ = writeln!(io::stderr(), "error: {}", describe(error));
    let is_usage = error.chain().any(|cause| cause.is::<UsageError>());
    ExitCode::from(if is_usage { USAGE } else { FAILURE })
}

/// `error` and its causes, a line each, then what to do about it. A cause that only repeats the line above it is left
/// out.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for cause in error.chain().skip(1) {
        let line = cause.to_string();
        if !last.contains(&line) {
            let _ = write!(text, "\n  caused by: {line}");
        }
        last = line;
    }
    let hub = error.chain().find_map(|cause| cause.downcast_ref::<HubError>());
    if let Some(help) = hub.and_then(HubError::help) {
        let _ = write!(text, "\n  help: {help}");
    }
    text
}

/// The innermost cause: "Connection refused" says more than "error sending request".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_causes_is_told_once() {
        let inner = io::Error::other("disk on fire");
        let error = anyhow::Error::new(inner)
            .context("cannot read a: disk on fire")
            .context("cannot load");
        assert_eq!(
            describe(&error),
            "cannot load\n  caused by: cannot read a: disk on fire"
        );
    }

    #[test]
    fn a_reader_that_left_is_not_an_error_message() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot print");
        assert!(is_broken_pipe(&error));
    }
}
