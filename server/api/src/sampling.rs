//! The sampling fields that chat and completions share, as they came.

use std::collections::BTreeMap;

/// Nothing is checked yet; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingFields {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// Above 0, at most 1.
    pub top_p: Option<f64>,
    /// -1 or 0 keeps all.
    pub top_k: Option<i64>,
    /// 0 to 1.
    pub min_p: Option<f64>,
    /// Above 0.
    pub repetition_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// Any.
    pub seed: Option<i64>,
    /// Token id (in decimal) to -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Do not stop at the model's own end tokens.
    pub ignore_eos: Option<bool>,
    /// More ids that end the generation.
    pub stop_token_ids: Option<Vec<i64>>,
}
