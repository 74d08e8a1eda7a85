//! Why a process ended, for whoever started it: one word and one sentence as JSON, where a pod's termination log is.

use std::{io, path::Path};

use ferrum_crds::names::ConditionReason as Reason;
use ferrum_models::LoadError;
use ferrum_runtime::LaunchFailure;

use crate::{
    exit::{self, UsageError},
    hub::HubError,
};

/// What a kubelet reads of a termination log.
const MOST_BYTES: usize = 4096;

/// Writes why the process ends, if `path` is given. A log that cannot be written hides no error.
pub(crate) fn tell(path: Option<&Path>, error: &anyhow::Error) {
    let Some(path) = path else { return };
    if let Err(failure) = std::fs::write(path, text(error)) {
        tracing::warn!(path = %path.display(), error = %failure, "cannot write the termination log");
    }
}

fn text(error: &anyhow::Error) -> String {
    let mut message = exit::describe(error);
    loop {
        let text = serde_json::json!({"reason": reason(error).as_str(), "message": message}).to_string();
        if text.len() <= MOST_BYTES {
            return text;
        }
        message.truncate(message.floor_char_boundary(message.len() * 3 / 4));
    }
}

/// The word of the first cause that has one.
fn reason(error: &anyhow::Error) -> Reason {
    error.chain().find_map(of_cause).unwrap_or(Reason::LaunchFailed)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Reason> {
    if let Some(error) = cause.downcast_ref::<HubError>() {
        return Some(of_hub(error));
    }
    if let Some(error) = cause.downcast_ref::<LaunchFailure>() {
        return Some(of_launch(error));
    }
    if let Some(error) = cause.downcast_ref::<LoadError>() {
        return Some(of_load(error));
    }
    cause.is::<UsageError>().then_some(Reason::InvalidSpec)
}

fn of_hub(error: &HubError) -> Reason {
    match error {
        HubError::BadToken => Reason::Unauthorized,
        HubError::Gated { .. } => Reason::Gated,
        HubError::Corrupt { .. } => Reason::ChecksumMismatch,
        HubError::BrokenOff { .. }
        | HubError::HostUnreachable { .. }
        | HubError::NoNetwork { .. }
        | HubError::NotAHub { .. } => Reason::HubUnreachable,
        HubError::NoSpace { .. } | HubError::TooLarge { .. } => Reason::CacheTooSmall,
        HubError::NotGguf { .. } => Reason::InvalidWeights,
        HubError::RepoNotFound { .. } | HubError::RevisionNotFound { .. } | HubError::Select { .. } => {
            Reason::NotFound
        }
        // An engine that may not ask the hub reads what was fetched before.
        HubError::Offline { .. } | HubError::NotCached { .. } | HubError::NotAModel { .. } => {
            Reason::WeightsNotFound
        }
        HubError::WebStatus { status, .. } => match status.as_u16() {
            401 | 403 => Reason::AccessDenied,
            404 | 410 => Reason::NotFound,
            408 | 429 | 500.. => Reason::HubUnreachable,
            _ => Reason::FetchFailed,
        },
        HubError::Status { status, .. } => match status {
            401 => Reason::Unauthorized,
            403 => Reason::Gated,
            404 => Reason::NotFound,
            408 | 429 | 500.. => Reason::HubUnreachable,
            _ => Reason::FetchFailed,
        },
        HubError::Io { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::CacheTooSmall,
            _ => Reason::FetchFailed,
        },
    }
}

fn of_launch(error: &LaunchFailure) -> Reason {
    match error {
        LaunchFailure::Config(error) => match error.flag {
            "device" => Reason::DeviceUnavailable,
            "tensor-parallel" => Reason::HeadsNotDivisible,
            _ => Reason::InvalidSpec,
        },
        LaunchFailure::Device { .. } => Reason::DeviceUnavailable,
        LaunchFailure::KvCacheTooSmall(_) => Reason::KvCacheTooSmall,
        LaunchFailure::Load(error) => of_load(error),
        LaunchFailure::Memory(_) => Reason::OutOfMemory,
        LaunchFailure::Task { .. } => Reason::TaskMismatch,
        LaunchFailure::Thread(_) | LaunchFailure::WarmUp { .. } => Reason::LaunchFailed,
    }
}

fn of_load(error: &LoadError) -> Reason {
    match error {
        LoadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Reason::WeightsNotFound,
        LoadError::NotACheckpoint { .. } => Reason::WeightsNotFound,
        // Readers of weights end their reason so when a file is shorter than what it announces.
        LoadError::Corrupt { reason, .. } if reason.ends_with("(is it truncated?)") => {
            Reason::TruncatedWeights
        }
        LoadError::AmbiguousArchitecture { .. } | LoadError::UnsupportedArchitecture { .. } => {
            Reason::UnsupportedArchitecture
        }
        LoadError::Option { option, .. } => match *option {
            "max_model_len" => Reason::ContextTooLong,
            "quantization" => Reason::QuantizationMismatch,
            "tensor_parallel" => Reason::HeadsNotDivisible,
            _ => Reason::LaunchFailed,
        },
        // The only refusal of a device that depends on the machine: memory.
        LoadError::Backend { source, .. } if source.to_string().starts_with("out of memory") => {
            Reason::OutOfMemory
        }
        LoadError::Backend { .. } => Reason::LaunchFailed,
        LoadError::Corrupt { .. }
        | LoadError::Field { .. }
        | LoadError::Io { .. }
        | LoadError::MissingTensor { .. }
        | LoadError::MissingTokenizer { .. }
        | LoadError::TensorShape { .. }
        | LoadError::Tokenizer { .. }
        | LoadError::UnsupportedFormat { .. }
        | LoadError::UnsupportedQuantization { .. }
        | LoadError::UnusedTensors { .. } => Reason::InvalidWeights,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: anyhow::Error) -> serde_json::Value {
        serde_json::from_str(&text(&error)).expect("JSON")
    }

    #[test]
    fn the_word_is_that_of_the_cause_and_the_sentence_names_every_cause() {
        let launch = LaunchFailure::Load(LoadError::Corrupt {
            path: "model.safetensors".into(),
            what: "tensor a".to_owned(),
            reason: "its data is at 0..9, the file has 4 bytes of data (is it truncated?)".to_owned(),
        });
        let told = told(anyhow::Error::new(launch).context("cannot load m"));
        assert_eq!(told["reason"], "TruncatedWeights");
        let message = told["message"].as_str().expect("text");
        assert!(
            message.contains("cannot load m") && message.contains("tensor a"),
            "{message}"
        );
    }

    #[test]
    fn what_a_kubelet_would_cut_is_cut_before_so_that_it_stays_json() {
        let told = told(anyhow::anyhow!("ü".repeat(10_000)));
        assert_eq!(told["reason"], "LaunchFailed");
    }

    #[test]
    fn answers_of_a_hub_have_their_own_words() {
        let status = |status| HubError::Status {
            status,
            url: "https://hub".to_owned(),
            message: None,
            retry_after_seconds: None,
        };
        let words = [
            (401, "Unauthorized"),
            (403, "Gated"),
            (404, "NotFound"),
            (503, "HubUnreachable"),
        ];
        for (code, word) in words {
            assert_eq!(told(status(code).into())["reason"], word);
        }
    }
}
