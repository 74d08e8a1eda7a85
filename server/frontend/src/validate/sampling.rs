//! Ranges and defaults of sampling.

use std::ops::RangeInclusive;

use ferrum_api::{ApiError, SamplingFields};
use ferrum_engine::{ModelCard, SamplingParams};

/// Temperatures below are greedy: dividing logits by them would overflow.
const MIN_TEMPERATURE: f64 = 1e-4;
/// OpenAI's bound of the penalties and of the bias.
const PENALTIES: RangeInclusive<f64> = -2.0..=2.0;
const BIASES: RangeInclusive<f64> = -100.0..=100.0;
const MAX_BIASES: usize = 1024;
/// What the divisor of a logit may sensibly be.
const REPETITION_PENALTIES: RangeInclusive<f64> = 0.01..=100.0;
const MAX_STOP_TOKEN_IDS: usize = 256;

/// How to draw, and the ids that end the answer.
#[derive(Debug)]
pub(crate) struct ValidSampling {
    /// The seed is that of the first choice.
    pub(crate) params: SamplingParams,
    pub(crate) stop_token_ids: Vec<u32>,
}

/// Checks the fields; where they are silent the checkpoint's own defaults hold, else OpenAI's.
pub(crate) fn validate_sampling(
    fields: &SamplingFields,
    logprobs: Option<u8>,
    card: &ModelCard,
) -> Result<ValidSampling, ApiError> {
    let defaults = &card.default_sampling;
    let temperature = in_range("temperature", fields.temperature, 0.0..=2.0)?;
    let top_p = in_range("top_p", fields.top_p, 0.0..=1.0)?;
    let penalty = |name, value| in_range(name, value, PENALTIES).map(|value| value.unwrap_or(0.0) as f32);
    let mut params = SamplingParams {
        temperature: match temperature {
            Some(value) if value < MIN_TEMPERATURE => 0.0,
            Some(value) => value as f32,
            None => defaults.temperature.unwrap_or(1.0),
        },
        top_k: top_k(fields.top_k)?.or(defaults.top_k).unwrap_or(0),
        top_p: top_p.map(|value| value as f32).or(defaults.top_p).unwrap_or(1.0),
        min_p: in_range("min_p", fields.min_p, 0.0..=1.0)?.unwrap_or(0.0) as f32,
        repetition_penalty: in_range(
            "repetition_penalty",
            fields.repetition_penalty,
            REPETITION_PENALTIES,
        )?
        .map(|value| value as f32)
        .or(defaults.repetition_penalty)
        .unwrap_or(1.0),
        presence_penalty: penalty("presence_penalty", fields.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", fields.frequency_penalty)?,
        seed: fields.seed.map_or_else(random_seed, |seed| seed as u64),
        logit_bias: logit_bias(fields, card)?,
        logprobs,
    };
    if params.top_p == 0.0 {
        // The smallest set of any probability at all.
        (params.top_p, params.top_k) = (1.0, 1);
    }
    let stop_token_ids = stop_token_ids(fields, card)?;
    Ok(ValidSampling {
        params,
        stop_token_ids,
    })
}

impl ValidSampling {
    /// For the `index`-th answer to the same prompt: other tokens, and the same ones each time.
    pub(crate) fn params_of(&self, index: usize) -> SamplingParams {
        let mut params = self.params.clone();
        params.seed = params.seed.wrapping_add(index as u64);
        params
    }
}

/// The seed of a request that brings none: the random bits of a version 4 UUID.
fn random_seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Rotated, so that the fixed bits (version, variant) of the halves do not meet.
    high.rotate_left(17) ^ low
}

fn in_range(name: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
    match value {
        // A NaN is in no range.
        Some(value) if !range.contains(&value) => {
            let message = format!(
                "`{name}` is {value}: expected {} to {}",
                range.start(),
                range.end()
            );
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value),
    }
}

fn top_k(value: Option<i64>) -> Result<Option<u32>, ApiError> {
    match value {
        None => Ok(None),
        Some(-1) => Ok(Some(0)),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| {
            let message = format!(
                "`top_k` is {value}: expected 0 or -1 for all, or 1 to {}",
                u32::MAX
            );
            ApiError::invalid("top_k", message)
        }),
    }
}

fn logit_bias(fields: &SamplingFields, card: &ModelCard) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = &fields.logit_bias else {
        return Ok(Vec::new());
    };
    if biases.len() > MAX_BIASES {
        let message = format!(
            "`logit_bias` has {} entries: expected at most {MAX_BIASES}",
            biases.len()
        );
        return Err(ApiError::invalid("logit_bias", message));
    }
    biases
        .iter()
        .map(|(key, &bias)| {
            let field = format!("logit_bias.{key}");
            let id = key
                .parse()
                .ok()
                .filter(|&id: &u32| (id as usize) < card.vocab_size)
                .ok_or_else(|| {
                    let message = format!("`{field}`: expected a token id, 0 to {}", card.vocab_size - 1);
                    ApiError::invalid(field.clone(), message)
                })?;
            in_range(&field, Some(bias), BIASES)?;
            Ok((id, bias as f32))
        })
        .collect()
}

fn stop_token_ids(fields: &SamplingFields, card: &ModelCard) -> Result<Vec<u32>, ApiError> {
    let given = fields.stop_token_ids.as_deref().unwrap_or_default();
    if given.len() > MAX_STOP_TOKEN_IDS {
        let message = format!(
            "`stop_token_ids` has {} ids: expected at most {MAX_STOP_TOKEN_IDS}",
            given.len()
        );
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    let mut ids = match fields.ignore_eos {
        Some(true) => Vec::new(),
        _ => card.stop_token_ids.clone(),
    };
    for (index, &id) in given.iter().enumerate() {
        let valid = u32::try_from(id)
            .ok()
            .filter(|&id| (id as usize) < card.vocab_size);
        let field = format!("stop_token_ids[{index}]");
        ids.push(valid.ok_or_else(|| {
            let message = format!(
                "`{field}` is {id}: expected a token id, 0 to {}",
                card.vocab_size - 1
            );
            ApiError::invalid(field.clone(), message)
        })?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_one_is_in_no_range() {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 2.1] {
            let error = in_range("temperature", Some(wrong), 0.0..=2.0).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some("temperature"));
        }
    }

    #[test]
    fn seeds_that_are_not_given_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
