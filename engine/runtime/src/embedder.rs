//! The loop's part for encoders: texts in, vectors out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_engine::{
    EmbedRequest, EngineError, EngineLoad, Event, KvEvent, LaunchConfig, ModelCard, SharedEngine, Usage,
    ValidRequest,
};
use ferrum_kernels::{Backend, BackendError};
use ferrum_models::{BatchLimits, EmbedBatch, Embedder};
use tokio::sync::mpsc;

use crate::{
    engine::{self, Worker},
    handle::Submission,
    meter::StepCounts,
};

/// Queue, model and clients of an embedding engine.
pub struct TextEmbedder<B: Backend> {
    backend: Arc<B>,
    model: Box<dyn Embedder<B>>,
    limits: BatchLimits,
    inputs: EmbedBatch<B>,
    /// In the order of arrival.
    waiting: Vec<Text>,
    /// The texts of the step.
    running: Vec<Text>,
    /// `(num_seqs, dims)` of the step.
    vectors: Vec<f32>,
    /// How long the device took over them.
    device_time: Duration,
}

struct Text {
    request: EmbedRequest,
    events: mpsc::UnboundedSender<Event>,
}

impl<B: Backend> TextEmbedder<B> {
    /// Allocates the buffers of the largest step that `model` takes, within `config`.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(
        backend: Arc<B>,
        model: Box<dyn Embedder<B>>,
        config: &LaunchConfig,
    ) -> Result<Self, BackendError> {
        let of_model = model.limits();
        let limits = BatchLimits {
            // One text of any allowed length must fit, as it cannot be cut.
            max_num_batched_tokens: config
                .max_num_batched_tokens
                .max(model.max_model_len())
                .min(of_model.max_num_batched_tokens),
            max_num_seqs: config.max_num_seqs.min(of_model.max_num_seqs),
        };
        let inputs = EmbedBatch::alloc(&*backend, limits)?;
        let (waiting, running, vectors) = Default::default();
        Ok(Self {
            backend,
            model,
            limits,
            inputs,
            waiting,
            running,
            vectors,
            device_time: Duration::ZERO,
        })
    }

    /// Makes one real vector before anybody waits for it.
    ///
    /// # Errors
    /// What the model or the device reports.
    pub fn warm_up(&mut self) -> Result<(), BackendError> {
        let (events, stream) = ferrum_engine::channel();
        let request = EmbedRequest {
            id: "warm-up".to_owned(),
            ids: vec![0],
            dimensions: None,
        };
        self.receive(Submission {
            request: ValidRequest::Embed(request),
            events,
        });
        engine::step(self)?;
        drop(stream);
        Ok(())
    }

    /// Starts the loop.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(self, card: ModelCard, config: &LaunchConfig) -> std::io::Result<SharedEngine> {
        engine::spawn(self, card, config)
    }

    fn num_tokens(texts: &[Text]) -> usize {
        texts.iter().map(|text| text.request.ids.len()).sum()
    }
}

impl<B: Backend> Worker for TextEmbedder<B> {
    type Batch = ();

    fn receive(&mut self, Submission { request, events }: Submission) {
        let ValidRequest::Embed(request) = request else {
            unreachable!("the handle refuses another task's requests");
        };
        self.waiting.push(Text { request, events });
    }

    fn forget_cancelled(&mut self) {
        self.waiting.retain(|text| !text.events.is_closed());
    }

    fn schedule(&mut self) -> Option<()> {
        let lengths: Vec<usize> = self.waiting.iter().map(|text| text.request.ids.len()).collect();
        let mut picked = pick(&lengths, self.limits);
        picked.sort_unstable();
        // From the last, so that the indices before it stay.
        let texts = picked.iter().rev().map(|&index| self.waiting.remove(index));
        self.running = texts.collect();
        self.running.reverse();
        for text in &self.running {
            let _ = text.events.send(Event::Started { cached_tokens: 0 });
        }
        (!self.running.is_empty()).then_some(())
    }

    fn prepare(&mut self, (): &()) -> Result<(), BackendError> {
        let mut ids = Vec::with_capacity(self.limits.max_num_batched_tokens);
        let mut positions = Vec::with_capacity(self.limits.max_num_batched_tokens);
        let mut cu_seqlens = vec![0];
        for Text { request, .. } in &self.running {
            ids.extend_from_slice(&request.ids);
            positions.extend((0..).take(request.ids.len()));
            cu_seqlens.push(u32::try_from(ids.len()).expect("a step's tokens are bounded"));
        }
        self.backend.write_all_indices(&mut [
            (&ids, &mut self.inputs.ids),
            (&positions, &mut self.inputs.positions),
            (&cu_seqlens, &mut self.inputs.cu_seqlens),
        ])?;
        self.inputs.num_tokens = ids.len();
        self.inputs.num_seqs = self.running.len();
        Ok(())
    }

    fn forward(&mut self, (): ()) -> Result<(), BackendError> {
        let begun = Instant::now();
        self.vectors.resize(self.running.len() * self.model.dims(), 0.0);
        let pooled = self.model.forward(&*self.backend, &self.inputs)?;
        self.backend.read_into(pooled, &mut self.vectors)?;
        self.device_time = begun.elapsed();
        Ok(())
    }

    fn under_way(&self) -> usize {
        usize::from(!self.running.is_empty())
    }

    fn process(&mut self) -> Result<(StepCounts, Duration), BackendError> {
        let tokens = Self::num_tokens(&self.running);
        for (Text { request, events }, vector) in self
            .running
            .drain(..)
            .zip(self.vectors.chunks_exact(self.model.dims()))
        {
            let usage = Usage {
                prompt_tokens: request.ids.len(),
                ..Usage::default()
            };
            // A client that has left does not mind.
            let _ = events.send(Event::Embedding {
                vector: shorten(vector, request.dimensions),
                usage,
            });
        }
        let counts = StepCounts {
            prefill_tokens: tokens,
            generated_tokens: tokens,
            ..StepCounts::default()
        };
        Ok((counts, self.device_time))
    }

    fn occupancy(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    fn load(&self) -> EngineLoad {
        EngineLoad {
            waiting_requests: self.waiting.len(),
            running_requests: self.running.len(),
            queued_prefill_tokens: Self::num_tokens(&self.waiting) + Self::num_tokens(&self.running),
            ..EngineLoad::default()
        }
    }

    fn take_events(&mut self) -> Vec<KvEvent> {
        Vec::new()
    }

    fn fail(&mut self, error: &EngineError) {
        for text in self.running.drain(..).chain(self.waiting.drain(..)) {
            let _ = text.events.send(Event::Failed(error.clone()));
        }
    }
}

/// The texts of the next step: the one that waits longest, so that nobody starves, then those closest to it
/// in length while they fit, so that a step's work is even. Indices into `lengths`, which are in the order
/// of arrival.
fn pick(lengths: &[usize], limits: BatchLimits) -> Vec<usize> {
    let Some(&oldest) = lengths.first() else {
        return Vec::new();
    };
    let mut order: Vec<usize> = (1..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index].abs_diff(oldest));
    let mut picked = vec![0];
    let mut budget = limits.max_num_batched_tokens.saturating_sub(oldest);
    for index in order {
        if picked.len() == limits.max_num_seqs {
            break;
        }
        if lengths[index] <= budget {
            budget -= lengths[index];
            picked.push(index);
        }
    }
    picked
}

/// The first `dimensions` elements, scaled to unit length again; all, unchanged, if it does not say.
fn shorten(vector: &[f32], dimensions: Option<usize>) -> Vec<f32> {
    let Some(kept) = dimensions.and_then(|dimensions| vector.get(..dimensions)) else {
        return vector.to_vec();
    };
    let norm = kept
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    if norm == 0.0 {
        return kept.to_vec();
    }
    kept.iter().map(|&x| (f64::from(x) / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        max_num_batched_tokens: 10,
        max_num_seqs: 3,
    };

    #[test]
    fn the_text_that_waits_longest_is_always_picked() {
        assert_eq!(pick(&[10, 1, 1], LIMITS), [0]);
        assert!(pick(&[], LIMITS).is_empty());
    }

    #[test]
    fn texts_of_like_length_go_together_within_the_bounds() {
        assert_eq!(pick(&[3, 9, 1, 4, 3], LIMITS), [0, 4, 3]);
        assert_eq!(pick(&[1, 1, 1, 1], LIMITS), [0, 1, 2]);
    }

    #[test]
    fn a_shortened_vector_has_unit_length() {
        assert_eq!(shorten(&[3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(shorten(&[3.0, 4.0], None), [3.0, 4.0]);
        assert_eq!(shorten(&[0.0, 1.0], Some(1)), [0.0]);
    }
}
