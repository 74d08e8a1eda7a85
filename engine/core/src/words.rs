//! Choices that are words in flags and manifests.

use std::{fmt, str::FromStr};

/// Declares an enum whose variants are words in flags and manifests.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word in flags and manifests.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let all: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    format!("unknown value `{text}`: expected {}", all.join(", "))
                })
            }
        }
    };
}

words! {
    /// Where an engine runs.
    Device {
        /// The CPU backend.
        Cpu = "cpu",
        /// NVIDIA GPUs.
        Cuda = "cuda",
    }
}

words! {
    /// Element type of weights that are not quantized.
    Dtype {
        /// What the checkpoint has.
        Auto = "auto",
        /// Single precision.
        F32 = "float32",
        /// Half precision.
        F16 = "float16",
        /// bfloat16.
        Bf16 = "bfloat16",
    }
}

words! {
    /// How the output layer is kept, which gives a logit for each token of the vocabulary.
    OutputLayer {
        /// As the checkpoint has it.
        Auto = "auto",
        /// A dense one in levels of 8 bits with a scale for each 32 columns (Q8_0).
        Int8 = "int8",
    }
}

words! {
    /// Quantization of the weights.
    Quantization {
        /// What the checkpoint has.
        Auto = "auto",
        /// A GGUF file's own formats.
        Gguf = "gguf",
        /// GPTQ with four bits a weight.
        GptqInt4 = "gptq-int4",
        /// None.
        None = "none",
    }
}
