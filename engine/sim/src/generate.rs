//! One request from its place in the queue to its last event.

use std::{sync::Arc, time::Duration};

use ferrum_engine::{
    EmbedRequest, EngineError, Event, FinishReason, GenerateRequest, TokenLogprob, Usage, ValidRequest,
};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    SimConfig,
    embed::embedding,
    pool::{End, Pool, Ticket},
    text::Answer,
    tokenizer::{IM_END, VOCAB_SIZE},
};

/// Runs a request until its last event, its client's departure or the engine's failure.
pub(crate) async fn serve(job: Job, ticket: Ticket) {
    let events = job.events.clone();
    let pool = Arc::clone(&job.pool);
    let mut failure = pool.failure.subscribe();
    let end = tokio::select! {
        biased;
        () = events.closed() => End::Cancelled,
        failed = failure.wait_for(Option::is_some) => {
            let reason = failed.ok().and_then(|reason| reason.clone()).unwrap_or_default();
            // A client that has left does not care.
            let _ = events.send(Event::Failed(EngineError::Fatal(reason)));
            End::Failed
        }
        end = job.run(ticket) => end,
    };
    pool.ended(&end);
}

/// What one request needs.
pub(crate) struct Job {
    pub(crate) config: Arc<SimConfig>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) request: ValidRequest,
    pub(crate) events: UnboundedSender<Event>,
}

impl Job {
    async fn run(self, mut ticket: Ticket) -> End {
        ticket.admit().await;
        let last = match &self.request {
            ValidRequest::Embed(request) => self.embed(request, &mut ticket).await,
            ValidRequest::Generate(request) => self.generate(request, &mut ticket).await,
        };
        // The load is free again before the client can see the end.
        drop(ticket);
        match self.events.send(last) {
            Ok(()) => End::Finished,
            Err(_) => End::Cancelled,
        }
    }

    async fn embed(&self, request: &EmbedRequest, ticket: &mut Ticket) -> Event {
        self.started(0);
        self.hang_at(0).await;
        self.prefill(request.ids.len()).await;
        ticket.prefilled(0);
        Event::Embedding {
            vector: embedding(&request.ids, self.config.embedding_dims, request.dimensions),
            usage: Usage {
                prompt_tokens: request.ids.len(),
                cached_tokens: 0,
                completion_tokens: 0,
            },
        }
    }

    async fn generate(&self, request: &GenerateRequest, ticket: &mut Ticket) -> Event {
        let cached_tokens = self.pool.read_prompt(&request.prompt);
        self.started(cached_tokens);
        self.hang_at(0).await;
        self.prefill(request.prompt.len() - cached_tokens).await;
        ticket.prefilled(cached_tokens);
        let mut answer = Answer::new(&request.prompt, request.sampling.seed);
        let mut due = Instant::now();
        let mut made = 0;
        let reason = loop {
            let id = match made + 1 >= self.config.answer_tokens && answer.at_word_end() {
                true => IM_END,
                false => answer.next_token(),
            };
            made += 1;
            let logprob = request.sampling.logprobs.map(|count| logprobs(id, count));
            if self.events.send(Event::Token { id, logprob }).is_err() {
                break FinishReason::Stop;
            }
            self.fail_at(self.pool.count_token());
            if request.stop_token_ids.contains(&id) {
                break FinishReason::Stop;
            }
            if made >= request.max_tokens {
                break FinishReason::Length;
            }
            self.hang_at(made).await;
            due += Duration::from_millis(self.config.tpot_ms);
            sleep_until(due).await;
            // Without a time per token nothing above waits: let the other tasks run.
            tokio::task::yield_now().await;
        };
        let usage = Usage {
            prompt_tokens: request.prompt.len(),
            cached_tokens,
            completion_tokens: made,
        };
        Event::Finished { reason, usage }
    }

    fn started(&self, cached_tokens: usize) {
        // A client that has left is noticed at the next wait.
        let _ = self.events.send(Event::Started { cached_tokens });
    }

    async fn prefill(&self, tokens: usize) {
        let rate = self.config.prefill_tokens_per_second;
        let prompt = match rate {
            0 => Duration::ZERO,
            _ => Duration::from_secs_f64(tokens as f64 / rate as f64),
        };
        let time = prompt + Duration::from_millis(self.config.ttft_ms);
        if !time.is_zero() {
            sleep(time).await;
        }
    }

    /// Never returns where the configuration says that this request hangs after `made` tokens.
    async fn hang_at(&self, made: usize) {
        if self.config.hang_after_tokens.is_some_and(|limit| made >= limit) {
            std::future::pending::<()>().await;
        }
    }

    /// Fails or aborts where the configuration says so, `total` tokens after the start.
    fn fail_at(&self, total: u64) {
        if self.config.crash_after_tokens.is_some_and(|limit| total >= limit) {
            std::process::abort();
        }
        if self.config.fail_after_tokens.is_some_and(|limit| total >= limit) {
            let reason = format!("simulated failure after {total} tokens");
            self.pool
                .failure
                .send_if_modified(|failure| failure.replace(reason).is_none());
        }
    }
}

/// Half the probability for the token drawn, half of the rest for the next, and so on.
fn logprobs(id: u32, count: u8) -> TokenLogprob {
    let top = (0..u32::from(count))
        .map(|rank| ((id + rank) % VOCAB_SIZE as u32, (rank + 1) as f32 * 0.5f32.ln()))
        .collect();
    TokenLogprob {
        logprob: 0.5f32.ln(),
        top,
    }
}
