//! A device and a decoder whose next token is a hash of all tokens of the sequence, read back through the
//! block table from the cache: wrong slots, wrong blocks or a stale cache give wrong tokens.
#![allow(dead_code, unreachable_pub)] // each test file is a crate and uses a part

pub mod checkpoints;
pub mod mock_backend;
pub mod requests;

use std::sync::{Arc, Mutex};

use ferrum_engine::{DefaultSampling, LaunchConfig, ModelCard, SharedEngine, Task};
use ferrum_kernels::{
    BackendError,
    backend::{KvDtype, KvLayout},
};
use ferrum_models::{BatchLimits, CausalLm, EmbedBatch, Embedder, ForwardBatch};
use ferrum_runtime::{Generator, TextEmbedder};

pub use mock_backend::MockBackend;

/// Entries of the vocabulary.
pub const VOCAB: u32 = 50;
/// Most tokens of a sequence.
pub const MAX_MODEL_LEN: usize = 128;
/// Elements of an embedding.
pub const DIMS: usize = 4;

/// Called before each step with its number from 0; may wait, fail or panic.
pub type BeforeStep = Box<dyn FnMut(usize) -> Result<(), BackendError> + Send>;

/// What the model was asked to compute, a step each: sequences and tokens.
pub type StepLog = Arc<Mutex<Vec<(usize, usize)>>>;

/// The decoder, and the encoder.
pub struct MockModel {
    pub before_step: BeforeStep,
    pub log: StepLog,
    pub limits: BatchLimits,
    output: Vec<f32>,
}

impl MockModel {
    pub fn new(config: &LaunchConfig, before_step: BeforeStep) -> Self {
        Self {
            before_step,
            log: StepLog::default(),
            limits: BatchLimits {
                max_num_batched_tokens: config.max_num_batched_tokens,
                max_num_seqs: config.max_num_seqs,
            },
            output: Vec::new(),
        }
    }

    fn begin(&mut self, num_seqs: usize, num_tokens: usize) -> Result<(), BackendError> {
        assert!(num_seqs <= self.limits.max_num_seqs && num_tokens <= self.limits.max_num_batched_tokens);
        let step = {
            let mut log = self.log.lock().expect("no test panics with it");
            log.push((num_seqs, num_tokens));
            log.len() - 1
        };
        (self.before_step)(step)
    }
}

/// The likeliest token after `context`.
pub fn next_token(context: &[u32]) -> u32 {
    let hash = context.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
    });
    u32::try_from((hash >> 32) % u64::from(VOCAB)).expect("below the vocabulary")
}

impl CausalLm<MockBackend> for MockModel {
    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn vocab_size(&self) -> usize {
        VOCAB as usize
    }

    fn max_model_len(&self) -> usize {
        MAX_MODEL_LEN
    }

    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout {
        KvLayout {
            num_layers: 1,
            num_kv_heads: 1,
            head_dim: 1,
            block_size,
            num_blocks,
            dtype: KvDtype::F32,
        }
    }

    fn forward(
        &mut self,
        _: &MockBackend,
        batch: &ForwardBatch<MockBackend>,
        cache: &mut Vec<Option<u32>>,
    ) -> Result<&Vec<f32>, BackendError> {
        self.begin(batch.num_seqs, batch.num_tokens)?;
        for row in 0..batch.num_tokens {
            cache[batch.slots[row] as usize] = Some(batch.ids[row]);
        }
        self.output = vec![0.0; batch.num_logit_rows * VOCAB as usize];
        for (logits, &row) in self.output.chunks_mut(VOCAB as usize).zip(&batch.logit_rows) {
            let seq = batch.cu_seqlens_q[..batch.num_seqs].partition_point(|&first| first <= row) - 1;
            assert_eq!(
                batch.cu_seqlens_q[seq + 1],
                row + 1,
                "the last row of its sequence"
            );
            let length = batch.context_lens[seq];
            assert_eq!(batch.positions[row as usize], length - 1);
            let table = &batch.block_tables[seq * batch.max_blocks..];
            let context: Vec<u32> = (0..length)
                .map(|at| cache[(table[at as usize / 16] * 16 + at % 16) as usize].expect("written"))
                .collect();
            logits[next_token(&context) as usize] = 1.0;
        }
        Ok(&self.output)
    }

    fn logits(&self) -> &Vec<f32> {
        &self.output
    }
}

impl Embedder<MockBackend> for MockModel {
    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn vocab_size(&self) -> usize {
        VOCAB as usize
    }

    fn max_model_len(&self) -> usize {
        MAX_MODEL_LEN.min(self.limits.max_num_batched_tokens)
    }

    fn dims(&self) -> usize {
        DIMS
    }

    fn forward(
        &mut self,
        _: &MockBackend,
        batch: &EmbedBatch<MockBackend>,
    ) -> Result<&Vec<f32>, BackendError> {
        self.begin(batch.num_seqs, batch.num_tokens)?;
        self.output.clear();
        for ends in batch.cu_seqlens[..=batch.num_seqs].windows(2) {
            let ids = &batch.ids[ends[0] as usize..ends[1] as usize];
            assert!(
                batch.positions[ends[0] as usize..ends[1] as usize]
                    .iter()
                    .copied()
                    .eq(0..ends[1] - ends[0])
            );
            self.output.extend(embedding(ids));
        }
        Ok(&self.output)
    }
}

/// The vector of a text.
pub fn embedding(ids: &[u32]) -> [f32; DIMS] {
    [0, 1, 2, 3].map(|salt| next_token(&[ids, &[salt]].concat()) as f32)
}

/// A launch configuration for the mock: 4 sequences, steps of 32 tokens.
pub fn config() -> LaunchConfig {
    LaunchConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        ..LaunchConfig::new("mock")
    }
}

pub fn card(task: Task, config: &LaunchConfig, num_blocks: usize) -> ModelCard {
    ModelCard {
        source: "file:///mock".to_owned(),
        served_names: vec!["mock".to_owned()],
        task,
        architecture: "mock".to_owned(),
        weights: "f32".to_owned(),
        num_parameters: 0,
        device: "mock".to_owned(),
        max_model_len: MAX_MODEL_LEN,
        vocab_size: VOCAB as usize,
        max_num_seqs: config.max_num_seqs,
        block_size: 16,
        num_blocks,
        embedding_dims: DIMS,
        chat_template: None,
        bos_token: None,
        eos_token: None,
        stop_token_ids: Vec::new(),
        default_sampling: DefaultSampling::default(),
    }
}

/// A running engine, and what its model was asked to compute.
pub struct Mock {
    pub engine: SharedEngine,
    pub log: StepLog,
}

impl Mock {
    /// A decoder with 32 blocks that runs freely.
    pub fn free() -> Self {
        Self::start(&config(), 32, Box::new(|_| Ok(())))
    }

    /// A decoder.
    pub fn start(config: &LaunchConfig, num_blocks: usize, before_step: BeforeStep) -> Self {
        Self::start_running(false, config, num_blocks, before_step)
    }

    /// A decoder that is asked for a step before the one before it has brought its tokens, if `ahead`.
    pub fn start_running(
        ahead: bool,
        config: &LaunchConfig,
        num_blocks: usize,
        before_step: BeforeStep,
    ) -> Self {
        let model = MockModel::new(config, before_step);
        let log = Arc::clone(&model.log);
        let backend = Arc::new(MockBackend);
        let generator = Generator::new(backend, Box::new(model), config, (num_blocks, MAX_MODEL_LEN));
        let card = card(Task::Chat, config, num_blocks);
        let engine = generator
            .expect("the mock allocates")
            .running_ahead(ahead)
            .spawn(card, config)
            .expect("a thread");
        Self { engine, log }
    }

    /// An encoder.
    pub fn embedder(config: &LaunchConfig, before_step: BeforeStep) -> Self {
        let model = MockModel::new(config, before_step);
        let log = Arc::clone(&model.log);
        let embedder = TextEmbedder::new(Arc::new(MockBackend), Box::new(model), config);
        let card = card(Task::Embedding, config, 0);
        let engine = embedder
            .expect("the mock allocates")
            .spawn(card, config)
            .expect("a thread");
        Self { engine, log }
    }

    pub fn steps(&self) -> Vec<(usize, usize)> {
        self.log.lock().expect("no test panics with it").clone()
    }
}
