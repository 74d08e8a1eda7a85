//! Engines on NVIDIA GPUs.

use ferrum_engine::{Device, Dtype, LaunchConfig};
pub use ferrum_kernels::cuda::given_back as devices_given_back;
use ferrum_kernels::cuda::{CudaBackend, CudaUnavailable, Element, Link, probe_ranks};

use crate::launch::{Launch, LaunchFailure, Launched};

/// Whether as many GPUs as `config` asks for are there, and can share a model.
pub(crate) fn check(config: &LaunchConfig) -> Result<(), LaunchFailure> {
    probe_ranks(config.tensor_parallel).map_err(unavailable)
}

pub(crate) fn run(launch: &Launch<'_>) -> Result<Launched, LaunchFailure> {
    check(launch.config)?;
    let stored = launch.checkpoint.facts().weights.as_str();
    let element = match (launch.config.dtype, stored) {
        (Dtype::F32, _) | (Dtype::Auto, "f32" | "gguf F32") => Element::F32,
        (Dtype::F16, _) | (Dtype::Auto, "f16" | "gguf F16") => Element::F16,
        (Dtype::Bf16 | Dtype::Auto, _) => Element::Bf16,
    };
    let backends =
        CudaBackend::ranks(launch.config.tensor_parallel, element, Link::Best).map_err(unavailable)?;
    let invariant = |backend: CudaBackend| backend.with_batch_invariance(launch.config.batch_invariant);
    let backends: Vec<_> = backends.into_iter().map(invariant).collect();
    for (rank, backend) in backends.iter().enumerate() {
        let (gpu, computes_with) = (&*backend.facts().name, element.name());
        tracing::info!(rank, gpu, computes_with, "the GPU is ready");
        if !backend.has_matmul() {
            tracing::warn!("libcublasLt.so.13 cannot be loaded: prompts will be slow");
        }
    }
    if let Some(link) = backends[0].link_name() {
        tracing::info!(link, "the GPUs are connected");
        // With two the order is the same by itself.
        if launch.config.batch_invariant && backends[0].adds_in_varying_order() {
            return Err(LaunchFailure::Device {
                device: Device::Cuda,
                reason: "batchInvariant cannot be kept on more than two GPUs that do not reach one another's memory: \
                         NCCL's sums depend on the batch. Use two, or one"
                    .to_owned(),
            });
        }
    }
    launch.run(backends)
}

fn unavailable(reason: CudaUnavailable) -> LaunchFailure {
    LaunchFailure::Device {
        device: Device::Cuda,
        reason: reason.to_string(),
    }
}
