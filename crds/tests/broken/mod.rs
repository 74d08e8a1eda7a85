//! Broken manifests, each with all that is said of it.

mod document;
mod model;
mod sections;
mod several;

/// A manifest, and its refusals, a line each.
pub(crate) type Case = (&'static str, &'static str);

pub(crate) fn cases() -> Vec<Case> {
    [document::CASES, model::CASES, sections::CASES, several::CASES].concat()
}
