//! From FerrumModels to pods: `dereference -> validate -> build -> apply -> update_status`, one file a step.
//!
//! ```text
//! watches --> caches --> triggers --> reconcile (one model at a time each, only in the leader)
//! routers --demand--> autoscale --------^         |
//! engines --phases, cards--------------^          +--> server-side apply, status, events
//! ```

mod apply;
mod autoscale;
mod build;
mod caches;
mod config;
mod context;
mod dereference;
mod engines;
mod events;
mod explain;
mod lease;
mod metrics;
mod names_taken;
mod reconcile;
#[cfg(test)]
mod reconcile_tests;
mod run;
mod server;
mod status;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod test_support;
mod triggers;
mod update_status;
mod validate;
#[cfg(test)]
mod validate_tests;

pub use self::{
    config::OperatorConfig,
    run::{OperatorError, run},
};
