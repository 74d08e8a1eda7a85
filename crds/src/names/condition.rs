//! Types and reasons of a model's conditions: stable words that alerts and scripts may rely on.

use std::{fmt, str::FromStr};

/// Declares an enum of words, each with a sentence that the reference page shows too.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $sentence:literal])+ $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $sentence])+ $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word in a status.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// What it means and, where something is wrong, what to do.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($sentence),+).trim_start(),)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                let found = Self::ALL.iter().copied().find(|value| value.as_str() == text);
                found.ok_or_else(|| UnknownWord(text.to_owned()))
            }
        }
    };
}

/// A word that is no condition type or reason of this release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord(pub String);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no condition type or reason of this release", self.0)
    }
}

impl std::error::Error for UnknownWord {}

words! {
    /// What a condition is about.
    ConditionType {
        /// The object is sound and may be served: names are free, what it refers to exists.
        Accepted,
        /// The weights are where the replicas read them.
        WeightsCached,
        /// Every wanted replica has a node.
        Scheduled,
        /// At least one replica has loaded the weights.
        Loaded,
        /// At least one replica answers requests.
        Ready,
        /// Replicas are being started, replaced or taken away.
        Progressing,
        /// Something needs a person. With no ready replica, requests are refused at once with its message, except while
        /// a node or a volume is missing, which a cluster may add: then they are held for their time.
        Degraded,
    }
}

words! {
    /// Why a condition is what it is.
    ConditionReason {
        // --- all is well, or will be without help
        /// The object is sound.
        Valid,
        /// Nothing is wrong.
        AsExpected,
        /// Every wanted replica answers.
        AllReplicasReady,
        /// Some of the wanted replicas answer, others still start.
        SomeReplicasReady,
        /// No replica answers yet; the other conditions say where its start is.
        Starting,
        /// No replica runs because nobody uses the model; the next request starts one.
        ScaledToZero,
        /// No replica runs because replicas is 0; set it to 1 or more to serve the model.
        Stopped,
        /// Replicas are replaced after a change.
        RollingOut,
        /// Replicas are added or taken away.
        Scaling,
        /// Nothing is changing.
        Settled,
        /// The weights are being fetched into the cache.
        FetchingWeights,
        /// The weights are in the cache.
        WeightsCached,
        /// No cache is asked for: each replica fetches the weights itself.
        NoCache,
        /// The weights are read where they are; nothing is fetched.
        ReadInPlace,
        /// Every wanted replica has a node.
        Scheduled,
        /// The scheduler looks for a node.
        Scheduling,
        /// The engine's image is being pulled.
        PullingImage,
        /// The weights are being loaded.
        LoadingWeights,
        /// The weights are loaded, and the first token is being made.
        WarmingUp,
        /// The weights are loaded.
        Loaded,
        // --- the object, and what it refers to
        /// The spec is refused; the message names field, value and what is allowed. Correct it and apply it again.
        InvalidSpec,
        /// This version has no engine for spec.task; choose one that the message names, or leave it out.
        TaskNotSupported,
        /// An older model serves this name; choose another in servedNames or delete the older one.
        ServedNameTaken,
        /// An object of the needed name exists and belongs to someone else; it is left alone. Rename the model or
        /// delete that object.
        NameTaken,
        /// file:// models are not allowed in this cluster; use hf:// or pvc://, or install the chart with node files
        /// allowed.
        NodeFilesForbidden,
        /// The operator has no engine image for this device; set it in the chart's values.
        NoEngineImage,
        /// The Secret of hfTokenSecretRef does not exist in the model's namespace; create it.
        SecretNotFound,
        /// The Secret of hfTokenSecretRef lacks the key; correct the key or the Secret.
        SecretKeyMissing,
        /// The PersistentVolumeClaim of a pvc:// model does not exist in the model's namespace; create it.
        ClaimNotFound,
        // --- fetching the weights
        /// The hub wants a token or refuses the one given (401); set hfTokenSecretRef to a valid one.
        Unauthorized,
        /// The hub wants the model's terms accepted (403); accept them on its page with the token's account.
        Gated,
        /// The web server of an https:// model asks for credentials (401, 403), and none are sent; put the file where
        /// none are needed, or on a volume (pvc://).
        AccessDenied,
        /// The hub or web server has no such repository, revision or file (404); correct spec.model.
        NotFound,
        /// The hub or web server cannot be reached or fails; the fetch is tried again. Check spec.model, network
        /// policies, proxy and HF_ENDPOINT.
        HubUnreachable,
        /// What arrived differs from what the hub announced; it is fetched again. If it stays, a proxy alters it.
        ChecksumMismatch,
        /// The weights do not fit into the cache; raise spec.cache.size.
        CacheTooSmall,
        /// The storage class of spec.cache does not exist; correct it or leave it out for the default class.
        StorageClassNotFound,
        /// The cache's volume claim is not bound yet; see the events of the claim.
        ClaimPending,
        /// The fetch failed for another reason, which the message says; it is tried again.
        FetchFailed,
        // --- placing the replicas
        /// No node has enough free GPUs; free some, add a node or lower tensorParallel or replicas.
        InsufficientGpu,
        /// No node has enough free memory, CPU or another resource; lower podTemplate.resources or add a node.
        InsufficientResources,
        /// No node matches nodeSelector, affinity and tolerations; correct podTemplate or label a node.
        NoMatchingNode,
        /// The PriorityClass of podTemplate does not exist; correct priorityClassName or create it.
        PriorityClassNotFound,
        /// The RuntimeClass of podTemplate does not exist; correct runtimeClassName or create it.
        RuntimeClassNotFound,
        /// A ResourceQuota of the namespace refuses the pods; raise it, or lower resources or replicas.
        QuotaExceeded,
        /// Pod Security of the namespace refuses the pods; see the message for the setting that it dislikes.
        PodSecurityViolation,
        /// The API server refuses an object of the model for another reason, which the message says.
        ObjectRefused,
        // --- starting the replicas
        /// The engine's image cannot be pulled; correct the image in the chart's values or its pull secret.
        ImagePullFailed,
        /// A variable, Secret or ConfigMap of podTemplate.env is missing; create it.
        ContainerConfigError,
        /// The engine ran out of memory; raise podTemplate.resources.limits.memory, or lower kvCacheMemory or maxModelLen.
        OutOfMemory,
        /// A weights file ends too early; fetch or copy it again.
        TruncatedWeights,
        /// The weights or their configuration cannot be read; the message names the file.
        InvalidWeights,
        /// There are no weights at that place; correct spec.model.
        WeightsNotFound,
        /// The engine does not know this architecture; choose a supported model.
        UnsupportedArchitecture,
        /// The weights are not quantized as spec.quantization says; correct it or use auto.
        QuantizationMismatch,
        /// The weights are not for spec.task; correct it or leave it out.
        TaskMismatch,
        /// maxModelLen exceeds what the model was made for; lower it or leave it out.
        ContextTooLong,
        /// The KV cache cannot hold one sequence of maxModelLen; raise kvCacheMemory or lower maxModelLen.
        KvCacheTooSmall,
        /// The model's heads cannot be split over tensorParallel devices; choose a divisor that the message names.
        HeadsNotDivisible,
        /// The engine has no such device; correct spec.device or the node that it runs on.
        DeviceUnavailable,
        /// The engine could not start for another reason, which the message says.
        LaunchFailed,
        /// The engine ends again and again after its start; see the message and the pod's log.
        CrashLooping,
        /// The replicas are not ready within their time; see the message and the pod's log.
        ProgressDeadlineExceeded,
    }
}

impl ConditionReason {
    /// Whether it may pass without anybody's help: a cluster that adds nodes or volumes on demand sees the same reasons
    /// as one that never will. Requests are held for their time, not refused at once.
    pub const fn may_heal(self) -> bool {
        matches!(
            self,
            Self::ClaimPending | Self::InsufficientGpu | Self::InsufficientResources | Self::NoMatchingNode
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_is_one_word_with_a_sentence() {
        let mut seen = HashSet::new();
        for reason in ConditionReason::ALL {
            assert!(seen.insert(reason.as_str()), "{reason} twice");
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            let meaning = reason.meaning();
            assert!(
                meaning.ends_with('.') && !meaning.contains("  "),
                "{reason}: {meaning}"
            );
        }
    }

    #[test]
    fn a_word_of_another_release_is_told() {
        let error = "Rusty".parse::<ConditionReason>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "`Rusty` is no condition type or reason of this release"
        );
    }
}
