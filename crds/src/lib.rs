//! The FerrumModel resource, its one validation, and every name that components share.
//!
//! ```text
//! manifest file --yaml--> marked tree --+                       +--> problems with file:line:column
//!                                       +--> validate (shape ---+
//! cluster object --serde--> value ------+    by the CRD's schema,
//!                                            then rules)  ------+--> ValidatedModel --> LaunchConfig
//! ```
//!
//! [`ValidatedModel`] is the single input of everything behind it; nobody downstream reads a raw spec.

mod claims;
mod crd;
pub mod manifest;
pub mod names;
mod path;
mod problem;
mod reference;
mod rules;
mod shape;
mod source;
mod spec;
mod status;
mod validate;
mod validated;
mod yaml;

pub use claims::{Claim, claims};
pub use crd::{crd, crd_yaml};
pub use path::{FieldPath, Segment};
pub use problem::{Problem, Reason};
pub use reference::reference_page;
pub use source::ModelSource;
pub use spec::{
    AccessMode, AutoscalingSpec, CacheSpec, EngineSpec, FerrumModel, FerrumModelSpec, MemorySize, ModelTask,
    PodTemplate, RolloutSpec, ScalingTarget, SecretKeyRef,
};
pub use status::{AutoscalingStatus, ColdStartStatus, FerrumModelStatus, WeightsStatus};
pub use validated::{Autoscaling, Cache, Rollout, Scaling, ValidatedModel};
