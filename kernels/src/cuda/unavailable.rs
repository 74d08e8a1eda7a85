//! Why a GPU, or several, cannot be used.

use crate::backend::BackendError;

/// Why there is no GPU to compute on.
#[derive(Debug, thiserror::Error)]
pub enum CudaUnavailable {
    /// The driver's library is not installed, or not where programs find it.
    #[error("no NVIDIA driver is there (libcuda.so.1 cannot be loaded)")]
    NoDriver,
    /// A driver without a GPU.
    #[error("the NVIDIA driver is there, but no GPU is: {reason}")]
    NoGpu {
        /// The driver's answer.
        reason: String,
    },
    /// A GPU that is too old.
    #[error("{name} has compute capability {major}.{minor}, 8.0 or higher is needed")]
    TooOld {
        /// The GPU.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// Fewer GPUs than are to share a model.
    #[error("{wanted} GPUs were asked for, this machine has {present}")]
    TooFewGpus {
        /// Asked for.
        wanted: usize,
        /// There.
        present: usize,
    },
    /// More GPUs than can share a model.
    #[error("{wanted} GPUs were asked for, at most {most} can share a model")]
    TooManyRanks {
        /// Asked for.
        wanted: usize,
        /// Allowed.
        most: usize,
    },
    /// GPUs that need NCCL to share a model.
    #[error("GPU {from} cannot reach the memory of GPU {to}")]
    NoPeerAccess {
        /// Counted from 0.
        from: usize,
        /// Counted from 0.
        to: usize,
    },
    /// GPUs that cannot share a model.
    #[error(
        "GPU {from} cannot reach the memory of GPU {to}: to share a model they need NCCL. {nccl}. Install it \
         (package libnccl2, or libnccl.so.2 on LD_LIBRARY_PATH), or use one GPU"
    )]
    NoWay {
        /// Counted from 0.
        from: usize,
        /// Counted from 0.
        to: usize,
        /// What is wrong with NCCL.
        nccl: String,
    },
    /// A GPU that is not there.
    #[error("GPU {ordinal} was asked for, {count} are there")]
    NoSuchGpu {
        /// Counted from 0.
        ordinal: usize,
        /// GPUs present.
        count: usize,
    },
    /// The driver failed.
    #[error(transparent)]
    Failed(#[from] BackendError),
}

impl CudaUnavailable {
    /// What this means where NCCL was to help.
    pub(super) fn without_peer_access(self, from: usize, to: usize) -> Self {
        Self::NoWay {
            from,
            to,
            nccl: self.to_string(),
        }
    }
}
