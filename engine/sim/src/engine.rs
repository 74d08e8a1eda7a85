//! The handle, and how it is launched.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ferrum_engine::{
    BoxFuture, DefaultSampling, EngineHandle, EngineLoad, EventStream, KvEvent, LaunchConfig, ModelCard,
    Phase, SubmitError, Task, ValidRequest, channel,
};
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
};

use crate::{
    CHAT_TEMPLATE, Counters, IM_END, SimConfig,
    generate::{Job, serve},
    pool::{Limits, Pool},
    prefix_cache::BLOCK_SIZE,
    tokenizer::{SPECIAL_TOKENS, VOCAB_SIZE},
};

/// Tokens of prompt and answer, unless the launch says otherwise.
const MAX_MODEL_LEN: usize = 8192;

/// Loads nothing, in the time that `sim` says, and tells the phases on the way (`Loading`, `Warming`).
///
/// Must be called within a tokio runtime, where the sequences will run.
///
/// # Errors
/// A configuration without a meaning, or the failure that was asked for.
pub async fn launch(
    launch: &LaunchConfig,
    sim: &SimConfig,
    on_phase: impl Fn(Phase),
) -> Result<Arc<SimEngine>, SimError> {
    if sim.embedding_dims == 0 || sim.kv_blocks == 0 {
        return Err(SimError::Invalid);
    }
    for done in 0..10 {
        on_phase(Phase::Loading { done, total: 10 });
        tokio::time::sleep(Duration::from_millis(sim.start_ms) / 10).await;
    }
    if let Some(message) = &sim.fail_start {
        return Err(SimError::Start(message.clone()));
    }
    on_phase(Phase::Warming);
    let limits = Limits {
        max_num_seqs: launch.max_num_seqs,
        max_waiting: launch.max_waiting,
        num_blocks: sim.kv_blocks,
        prefix_caching: launch.prefix_caching,
    };
    let pool = Arc::new(Pool::new(limits));
    pool.load.send_modify(|load| {
        load.prefill_tokens_per_second = sim.prefill_tokens_per_second as f32;
        load.decode_tokens_per_second = match sim.tpot_ms {
            0 => 0.0,
            tpot_ms => 1000.0 / tpot_ms as f32 * launch.max_num_seqs as f32,
        };
    });
    Ok(Arc::new(SimEngine {
        card: card(launch, sim),
        config: Arc::new(sim.clone()),
        pool,
        draining: AtomicBool::new(false),
        runtime: Handle::current(),
    }))
}

/// Why a simulated engine did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// Sizes of nothing.
    #[error("--sim-embedding-dims and --sim-kv-blocks: expected 1 or more")]
    Invalid,
    /// As `--sim-fail-start` says.
    #[error("{0}")]
    Start(String),
}

/// An engine without weights.
pub struct SimEngine {
    card: ModelCard,
    config: Arc<SimConfig>,
    pool: Arc<Pool>,
    draining: AtomicBool,
    runtime: Handle,
}

impl SimEngine {
    /// What happened to the requests so far.
    pub fn counters(&self) -> Counters {
        self.pool.counters()
    }

    /// Fails for good, now, as if a step had gone wrong.
    pub fn fail(&self, reason: &str) {
        self.pool.failure.send_replace(Some(reason.to_owned()));
    }
}

impl EngineHandle for SimEngine {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn submit(&self, request: ValidRequest) -> Result<EventStream, SubmitError> {
        if let Some(reason) = self.pool.failure.borrow().clone() {
            return Err(SubmitError::Failed(reason));
        }
        if self.draining.load(Ordering::SeqCst) {
            return Err(SubmitError::Draining);
        }
        let task = self.card.task;
        let (prompt_tokens, tokens) = match (&request, task) {
            (ValidRequest::Generate(request), Task::Chat) => {
                (request.prompt.len(), request.prompt.len() + request.max_tokens)
            }
            (ValidRequest::Embed(request), Task::Embedding) => (request.ids.len(), 0),
            _ => return Err(SubmitError::WrongTask { task }),
        };
        let ticket = self.pool.enqueue(prompt_tokens, tokens.div_ceil(BLOCK_SIZE))?;
        let (events, stream) = channel();
        let job = Job {
            config: Arc::clone(&self.config),
            pool: Arc::clone(&self.pool),
            request,
            events,
        };
        self.runtime.spawn(serve(job, ticket));
        Ok(stream)
    }

    fn load(&self) -> watch::Receiver<EngineLoad> {
        self.pool.load.subscribe()
    }

    fn kv_events(&self) -> broadcast::Receiver<KvEvent> {
        self.pool.kv_events.subscribe()
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    fn idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut load = self.pool.load.subscribe();
            let mut failure = self.pool.failure.subscribe();
            // Both senders live as long as this engine.
            tokio::select! {
                _ = load.wait_for(|load| load.waiting_requests + load.running_requests == 0) => {}
                _ = failure.wait_for(Option::is_some) => {}
            }
        })
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.pool.failure.subscribe()
    }
}

fn card(launch: &LaunchConfig, sim: &SimConfig) -> ModelCard {
    let task = launch.task.unwrap_or(Task::Chat);
    let chat = task == Task::Chat;
    let served_names = match launch.served_names.is_empty() {
        true => vec![launch.model.clone()],
        false => launch.served_names.clone(),
    };
    ModelCard {
        source: format!("sim://{}", launch.model),
        served_names,
        task,
        architecture: "sim".to_owned(),
        weights: "none".to_owned(),
        num_parameters: 0,
        device: launch.device.to_string(),
        max_model_len: launch.max_model_len.unwrap_or(MAX_MODEL_LEN),
        vocab_size: VOCAB_SIZE,
        max_num_seqs: launch.max_num_seqs,
        block_size: if chat { BLOCK_SIZE } else { 0 },
        num_blocks: if chat { sim.kv_blocks } else { 0 },
        embedding_dims: if chat { 0 } else { sim.embedding_dims },
        chat_template: chat.then(|| CHAT_TEMPLATE.to_owned()),
        bos_token: Some(SPECIAL_TOKENS[0].to_owned()),
        eos_token: Some(SPECIAL_TOKENS[1].to_owned()),
        stop_token_ids: if chat { vec![IM_END] } else { Vec::new() },
        default_sampling: DefaultSampling::default(),
    }
}
