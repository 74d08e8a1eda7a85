//! Spreads OpenAI traffic over engine replicas.

pub mod discovery;
