//! Measuring an engine or an endpoint: `ferrum bench`.

mod measure;
mod prompts;
mod report;
mod target;

pub(crate) use self::{
    measure::{Workload, measure},
    prompts::Prompts,
    report::{Machine, Model, Report, SCHEMA, Settings, resident_bytes, table},
    target::Target,
};
