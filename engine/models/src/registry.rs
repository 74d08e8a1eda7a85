//! The families, and which of them takes a checkpoint.

use ferrum_kernels::Backend;

use crate::{
    FamilyRefusal, LoadError, Model,
    config::RawConfig,
    families::{Description, Family, Limits, bert::Bert, llama::Llama},
    weights::{Weights, loader::WeightLoader},
};

families! {
    Bert,
    Llama,
}

/// Reads the configuration by the one family that takes the checkpoint.
pub(crate) fn probe(raw: &RawConfig) -> Result<FamilyConfig, LoadError> {
    let mut accepting = Vec::new();
    let mut refusals = Vec::new();
    for entry in FAMILIES {
        match (entry.probe)(raw) {
            Ok(()) => accepting.push(entry),
            Err(reason) => refusals.push(FamilyRefusal {
                family: entry.name,
                reason,
            }),
        }
    }
    let architecture = || raw.architecture().unwrap_or("(none is named)").to_owned();
    match accepting.as_slice() {
        [entry] => (entry.read_config)(raw),
        [] => Err(LoadError::UnsupportedArchitecture {
            path: raw.path().to_owned(),
            architecture: architecture(),
            refusals,
        }),
        several => Err(LoadError::AmbiguousArchitecture {
            path: raw.path().to_owned(),
            architecture: architecture(),
            families: several.iter().map(|entry| entry.name).collect(),
        }),
    }
}

/// One family, with its types erased up to the configuration.
struct Entry {
    name: &'static str,
    probe: fn(&RawConfig) -> Result<(), String>,
    read_config: fn(&RawConfig) -> Result<FamilyConfig, LoadError>,
}

/// Makes the table, and the enum that carries a family's configuration from `open` to `load`.
macro_rules! families {
    ($($family:ident),* $(,)?) => {
        const FAMILIES: &[Entry] = &[$(Entry {
            name: $family::NAME,
            probe: $family::probe,
            read_config: |raw| Ok(FamilyConfig::$family($family::read_config(raw)?)),
        }),*];

        /// The configuration of the family that a checkpoint belongs to.
        pub(crate) enum FamilyConfig {
            $($family(<$family as Family>::Config)),*
        }

        impl FamilyConfig {
            pub(crate) fn describe(&self) -> Description {
                match self {
                    $(Self::$family(config) => $family::describe(config)),*
                }
            }

            pub(crate) fn arrange_gguf(&self, weights: &mut Weights) {
                match self {
                    $(Self::$family(config) => $family::arrange_gguf(config, weights)),*
                }
            }

            pub(crate) fn check_ranks(&self, count: usize) -> Result<(), LoadError> {
                match self {
                    $(Self::$family(config) => $family::check_ranks(config, count)),*
                }
            }

            /// Loads the model and checks that nothing is left over.
            pub(crate) fn load<B: Backend>(
                &self,
                loader: &WeightLoader<'_, B>,
                limits: Limits,
            ) -> Result<Model<B>, LoadError> {
                match self {
                    $(Self::$family(config) => {
                        let model = $family::load(loader, config, limits)?;
                        loader.weights.finish($family::IGNORED)?;
                        Ok(model)
                    }),*
                }
            }
        }
    };
}
use families;
