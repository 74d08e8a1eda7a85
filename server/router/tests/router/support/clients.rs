//! Clients that ask without a pause.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::task::JoinHandle;

use super::{chat, client, streamed_chat, until};

/// Clients that ask without a pause, every second one streaming.
pub struct Clients {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Outcome>>,
}

/// How their requests ended that did not end well.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Streams that ended with the router's error event.
    pub broken_streams: usize,
    /// Everything else.
    pub failures: Vec<String>,
}

impl Clients {
    pub fn start(count: usize, url: String) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = client();
        let tasks = (0..count).map(|index| {
            let (client, url, stop, asked) = (client.clone(), url.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut outcome = Outcome::default();
                while !stop.load(Ordering::SeqCst) {
                    ask(&client, &url, index % 2 == 1, &mut outcome).await;
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                outcome
            })
        });
        let tasks = tasks.collect();
        Self { stop, asked, tasks }
    }

    /// Waits until so many more requests have ended.
    pub async fn await_more(&self, count: usize) {
        let before = self.asked.load(Ordering::SeqCst);
        until("clients go on", async || {
            self.asked.load(Ordering::SeqCst) >= before + count
        })
        .await;
    }

    pub async fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Outcome::default();
        for task in self.tasks {
            let outcome = task.await.expect("no panic");
            all.broken_streams += outcome.broken_streams;
            all.failures.extend(outcome.failures);
        }
        all
    }
}

async fn ask(client: &reqwest::Client, url: &str, is_stream: bool, outcome: &mut Outcome) {
    let body = if is_stream { streamed_chat() } else { chat() };
    let answered = async {
        let response = client.post(url).json(&body).send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.text().await?))
    };
    match answered.await {
        Ok((status, text)) if status == 200 && !is_stream && !text.contains("\"error\"") => {}
        Ok((status, text)) if status == 200 && is_stream && text.ends_with("data: [DONE]\n\n") => {}
        Ok((status, text)) if status == 200 && is_stream && is_broken(&text) => outcome.broken_streams += 1,
        other => outcome.failures.push(format!("stream {is_stream}: {other:?}")),
    }
}

/// Some of an answer, and an error at the end.
fn is_broken(text: &str) -> bool {
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    last.starts_with("data: {\"error\"") && text.matches("data: ").count() > 1
}
