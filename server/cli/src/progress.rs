//! How a download looks: a bar on a terminal, now and then a line anywhere else.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    hub::{FetchEvent, FetchObserver},
    text::format_bytes,
};

/// Between two lines when there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows a download on stderr.
pub(crate) struct DownloadProgress {
    state: Mutex<State>,
    terminal: bool,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    title: String,
    last_line: Option<Instant>,
    started_at_bytes: u64,
    started: Option<Instant>,
}

impl DownloadProgress {
    /// Nothing is shown until bytes move.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            terminal: io::stderr().is_terminal(),
        }
    }
}

impl FetchObserver for DownloadProgress {
    fn on_event(&self, event: FetchEvent<'_>) {
        let Ok(mut state) = self.state.lock() else { return };
        match event {
            FetchEvent::Begin {
                title,
                done_bytes,
                total_bytes,
            } => {
                state.begin(title, done_bytes, total_bytes, self.terminal);
            }
            FetchEvent::Bytes {
                done_bytes,
                total_bytes,
            } => state.bytes(done_bytes, total_bytes),
            FetchEvent::End => state.end(),
            FetchEvent::Note(text) => match &state.bar {
                Some(bar) => bar.suspend(|| line(text)),
                None => line(text),
            },
        }
    }
}

impl State {
    fn begin(&mut self, title: &str, done_bytes: u64, total_bytes: u64, terminal: bool) {
        title.clone_into(&mut self.title);
        self.started = Some(Instant::now());
        self.started_at_bytes = done_bytes;
        if done_bytes == total_bytes {
            return;
        }
        if !terminal {
            let present = if done_bytes == 0 {
                String::new()
            } else {
                format!(", {} are here", format_bytes(done_bytes))
            };
            line(&format!(
                "downloading {title}: {}{present}",
                format_bytes(total_bytes)
            ));
            self.last_line = Some(Instant::now());
            return;
        }
        let bar = ProgressBar::new(total_bytes)
            .with_position(done_bytes)
            .with_message(title.to_owned());
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.reset_eta();
        self.bar = Some(bar);
    }

    fn bytes(&mut self, done_bytes: u64, total_bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done_bytes);
        } else if self.last_line.is_some_and(|time| time.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            let percent = done_bytes * 100 / total_bytes.max(1);
            let (done, total) = (format_bytes(done_bytes), format_bytes(total_bytes));
            let rate = format_bytes(self.rate(done_bytes));
            line(&format!(
                "downloading {}: {percent} % ({done} of {total}, {rate}/s)",
                self.title
            ));
        }
    }

    fn rate(&self, done_bytes: u64) -> u64 {
        let seconds = self.started.map_or(1.0, |time| time.elapsed().as_secs_f64());
        (done_bytes.saturating_sub(self.started_at_bytes) as f64 / seconds.max(0.001)) as u64
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        } else if self.last_line.take().is_some() {
            line(&format!("downloaded {}", self.title));
        }
    }
}

impl Drop for State {
    /// A bar that is left on the screen would hide the error below it.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
