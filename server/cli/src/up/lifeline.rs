//! A child must not outlive its supervisor, however that ends.
//!
//! The child's standard input is a pipe whose other end only the supervisor holds. The kernel closes it with the
//! supervisor, even after SIGKILL, and a thread of the child that waits for that ends the child. Unlike a parent-death
//! signal this does not depend on which thread of the supervisor forked, and it works on every Unix.

use std::{
    env,
    io::{self, Read},
    thread,
};

use rustix::process::{Signal, getpid, kill_process};

/// Set for a child whose standard input is its lifeline.
pub(crate) const VARIABLE: &str = "FERRUM_LIFELINE";

/// Ends this process when its supervisor is gone, if it has one. Call it first of all.
pub(crate) fn hold() {
    if env::var_os(VARIABLE).is_none() {
        return;
    }
    let wait = || {
        let mut buffer = [0; 64];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        // Nobody is left to drain for, and `exit` could wait for what other threads hold.
        let _ = kill_process(getpid(), Signal::KILL);
    };
    // Without this thread the process would merely live longer than it should.
    let _ = thread::Builder::new().name("lifeline".to_owned()).spawn(wait);
}
