//! The supervisor behind `ferrum up`, `ferrum status` and `ferrum stop`.
//!
//! ```text
//! manifests ──► plan (pure) ──► actions ──► child::keep, one task a process ──► process, log_file, backoff
//!                 ▲                               │ events
//!                 └── fleet ◄── supervisor loop ◄─┘──► endpoints.json ──► router
//!                                   ▲
//!              control socket, files that change, signals
//! ```

pub(crate) mod control;
pub(crate) mod lifeline;
pub(crate) mod one_machine;
pub(crate) mod report;
pub(crate) mod signals;
pub(crate) mod state_dir;
pub(crate) mod supervisor;
pub(crate) mod watch_files;

mod backoff;
mod child;
mod fleet;
mod health;
mod log_file;
mod plan;
mod process;
mod progress;
