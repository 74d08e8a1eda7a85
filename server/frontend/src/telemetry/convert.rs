//! From the engine contract to the messages of the protocol.

use ferrum_api::telemetry::{self, PhaseChange, phase_change};
use ferrum_engine::{EngineLoad, ModelCard, Phase};

pub(super) fn phase(phase: &Phase) -> PhaseChange {
    use phase_change::Phase as Wire;
    let mut change = PhaseChange::default();
    let wire = match phase {
        Phase::Draining => Wire::Draining,
        Phase::Failed { message } => {
            change.message.clone_from(message);
            Wire::Failed
        }
        Phase::Fetching {
            done_bytes,
            total_bytes,
        } => {
            (change.done, change.total) = (*done_bytes, *total_bytes);
            Wire::Fetching
        }
        Phase::Loading { done, total } => {
            (change.done, change.total) = (*done, *total);
            Wire::Loading
        }
        Phase::Ready => Wire::Ready,
        Phase::Starting => Wire::Starting,
        Phase::Warming => Wire::Warming,
    };
    change.set_phase(wire);
    change
}

pub(super) fn card(card: &ModelCard) -> telemetry::ModelCard {
    telemetry::ModelCard {
        served_names: card.served_names.clone(),
        task: card.task.to_string(),
        architecture: card.architecture.clone(),
        weights: card.weights.clone(),
        num_parameters: card.num_parameters,
        device: card.device.clone(),
        max_model_len: card.max_model_len as u64,
        max_num_seqs: card.max_num_seqs as u64,
        block_size: card.block_size as u64,
        num_blocks: card.num_blocks as u64,
        embedding_dims: card.embedding_dims as u64,
        chat_template: card.chat_template.clone(),
        bos_token: card.bos_token.clone(),
        eos_token: card.eos_token.clone(),
        source: card.source.clone(),
    }
}

pub(super) fn load(load: &EngineLoad) -> telemetry::Load {
    telemetry::Load {
        waiting_requests: load.waiting_requests as u64,
        running_requests: load.running_requests as u64,
        queued_prefill_tokens: load.queued_prefill_tokens as u64,
        free_blocks: load.free_blocks as u64,
        total_blocks: load.total_blocks as u64,
        prefill_tokens_per_second: load.prefill_tokens_per_second,
        decode_tokens_per_second: load.decode_tokens_per_second,
        prompt_tokens_total: load.prompt_tokens_total,
        cached_tokens_total: load.cached_tokens_total,
        generated_tokens_total: load.generated_tokens_total,
    }
}
