//! One streamed answer: printed as it comes, measured, stopped by Ctrl-C.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use ferrum_api::{Usage, chat::ChatCompletionRequest};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::ApiClient;

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The text.
    pub(crate) text: String,
    /// Why it ended: `stop`, `length`, ….
    pub(crate) finish_reason: Option<String>,
    /// Whether Ctrl-C stopped it.
    pub(crate) stopped: bool,
    /// Figures.
    pub(crate) stats: Stats,
}

/// Figures of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    /// From the request to the first text.
    pub(crate) first_token: Option<Duration>,
    /// From the request to the end.
    pub(crate) total: Duration,
    /// Tokens, as the server counts them; `None` when the answer was stopped before it told them.
    pub(crate) usage: Option<Usage>,
    /// Pieces of text that came: the tokens of a stopped answer, nearly.
    pub(crate) pieces: u64,
}

/// Sends `request` and writes the answer to `out`, piece by piece.
///
/// # Errors
/// Those of the client, and of `out`.
pub(crate) async fn stream_answer(
    client: &ApiClient,
    request: &ChatCompletionRequest,
    out: &mut impl Write,
) -> anyhow::Result<Answer> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let start = Instant::now();
    let mut answer = Answer {
        text: String::new(),
        finish_reason: None,
        stopped: false,
        stats: Stats::default(),
    };
    let mut receive = async || -> anyhow::Result<()> {
        let mut stream = client.chat(request).await?;
        while let Some(chunk) = stream.next().await? {
            answer.stats.usage = chunk.usage.or(answer.stats.usage);
            for choice in chunk.choices {
                if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                    answer.stats.first_token.get_or_insert_with(|| start.elapsed());
                    answer.stats.pieces += 1;
                    answer.text.push_str(&text);
                    out.write_all(text.as_bytes())?;
                    out.flush()?;
                }
                answer.finish_reason = choice.finish_reason.or(answer.finish_reason.take());
            }
        }
        Ok(())
    };
    let stopped = tokio::select! {
        result = receive() => result.map(|()| false)?,
        // Dropping the stream closes the connection, which tells the server to stop.
        _ = interrupt.recv() => true,
    };
    answer.stopped = stopped;
    answer.stats.total = start.elapsed();
    Ok(answer)
}

impl Stats {
    /// One line: `12 tokens, 45.2 tok/s, first after 84 ms; prompt of 36 tokens (32 cached)`.
    pub(crate) fn line(&self) -> String {
        let tokens = self
            .usage
            .and_then(|usage| usage.completion_tokens)
            .unwrap_or(self.pieces);
        let mut parts = vec![format!("{tokens} tokens")];
        if let Some(first) = self.first_token {
            let decode = self.total.saturating_sub(first).as_secs_f64();
            if tokens > 1 && decode > 0.0 {
                parts.push(format!("{:.1} tok/s", (tokens - 1) as f64 / decode));
            }
            parts.push(format!("first after {}", format_latency(first)));
        }
        let mut line = parts.join(", ");
        if let Some(usage) = self.usage {
            let cached = usage.prompt_tokens_details.unwrap_or_default().cached_tokens;
            let cached = if cached > 0 {
                format!(" ({cached} cached)")
            } else {
                String::new()
            };
            line.push_str(&format!("; prompt of {} tokens{cached}", usage.prompt_tokens));
        }
        line
    }
}

/// Says on stderr why an answer is not complete.
pub(crate) fn explain_end(answer: &Answer) {
    let reason = match answer.finish_reason.as_deref() {
        _ if answer.stopped => "(stopped)",
        Some("length") => "(cut off: the answer reached its most tokens)",
        _ => return,
    };
    let _ = writeln!(io::stderr(), "{reason}");
}

fn format_latency(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_one_line() {
        let stats = Stats {
            first_token: Some(Duration::from_millis(84)),
            total: Duration::from_millis(1084),
            usage: Some(Usage::generation(36, 32, 51)),
            pieces: 50,
        };
        assert_eq!(
            stats.line(),
            "51 tokens, 50.0 tok/s, first after 84 ms; prompt of 36 tokens (32 cached)"
        );
    }

    #[test]
    fn a_stopped_answer_counts_its_pieces() {
        let stats = Stats {
            pieces: 3,
            ..Stats::default()
        };
        assert_eq!(stats.line(), "3 tokens");
    }
}
