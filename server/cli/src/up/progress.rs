//! What `ferrum up` tells a person: one line a change, and on a terminal a live line for each replica that loads.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

use ferrum_engine::Phase;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::{control::Reply, health};

/// Tells what happens, to our own terminal and to the commands that follow over the control socket.
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    replicas: HashMap<String, Shown>,
    followers: Vec<mpsc::Sender<Reply>>,
}

struct Shown {
    since: Instant,
    phase: Option<Discriminant<Phase>>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Live lines if stderr is a terminal.
    pub(crate) fn new() -> Self {
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        Self {
            bars,
            replicas: HashMap::new(),
            followers: Vec::new(),
        }
    }

    /// `follower` gets every line from now on.
    pub(crate) fn follow(&mut self, follower: mpsc::Sender<Reply>) {
        self.followers.push(follower);
    }

    /// A line.
    pub(crate) fn line(&mut self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            // Whoever read our stderr may be gone; the models are not to suffer from it.
            None => drop(writeln!(io::stderr(), "{text}")),
        }
        let line = Reply::Line {
            text: text.to_owned(),
        };
        // A follower that is gone or does not read gets no more.
        self.followers
            .retain(|follower| follower.try_send(line.clone()).is_ok());
    }

    /// A replica was launched.
    pub(crate) fn started(&mut self, id: &str) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(format!("{id}: starts"));
            bar
        });
        self.replicas.insert(
            id.to_owned(),
            Shown {
                since: Instant::now(),
                phase: None,
                bar,
            },
        );
    }

    /// The phase of a replica changed: a line when it is another phase, only the live line when it is further on.
    pub(crate) fn phase(&mut self, id: &str, phase: &Phase) {
        let Some(shown) = self.replicas.get_mut(id) else {
            return;
        };
        let told = health::describe(phase);
        if let Some(bar) = &shown.bar {
            bar.set_message(format!("{id}: {told}"));
        }
        let is_new = shown.phase.replace(discriminant(phase)) != Some(discriminant(phase));
        let seconds = shown.since.elapsed().as_secs_f64();
        match phase {
            Phase::Ready if is_new => {
                self.settled(id);
                self.line(&format!("{id}: ready after {seconds:.1} s"));
            }
            _ if is_new => self.line(&format!("{id}: {told}")),
            _ => {}
        }
    }

    /// A replica needs no live line any more.
    pub(crate) fn settled(&mut self, id: &str) {
        if let Some(bar) = self.replicas.get_mut(id).and_then(|shown| shown.bar.take()) {
            bar.finish_and_clear();
        }
    }

    /// Ends every follower's wait with `reply`.
    pub(crate) fn finish(&mut self, reply: &Reply) {
        for follower in self.followers.drain(..) {
            // A full queue belongs to a follower that does not read.
            let _ = follower.try_send(reply.clone());
        }
    }
}
