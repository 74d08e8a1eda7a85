//! Rotary positions: base, scaling, inverse frequencies.

use serde_json::{Map, Value};

use super::raw::{RawConfig, positive};
use crate::LoadError;

const DEFAULT_THETA: f32 = 10_000.0;
const ALLOWED_TYPES: &str = "default, linear or llama3";

/// How positions become angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    pub(crate) theta: f32,
    pub(crate) scaling: RopeScaling,
}

/// How a model reaches beyond the length it was first trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor` (Chen et al. 2023).
    Linear { factor: f32 },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3(Llama3Scaling),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Llama3Scaling {
    pub(crate) factor: f32,
    pub(crate) low_freq_factor: f32,
    pub(crate) high_freq_factor: f32,
    pub(crate) original_max_position_embeddings: f32,
}

impl RopeConfig {
    /// Reads `rope_parameters`, or `rope_theta` beside `rope_scaling`, or GGUF's `rope.*`.
    pub(crate) fn read(raw: &RawConfig) -> Result<Self, LoadError> {
        if raw.gguf().is_some() {
            return Self::read_gguf(raw);
        }
        let (field, parameters) = match raw.value("rope_parameters") {
            Some(value) => ("rope_parameters", Some(value)),
            None => ("rope_scaling", raw.value("rope_scaling")),
        };
        let parameters = match parameters {
            None => Map::new(),
            Some(Value::Object(parameters)) => parameters,
            Some(other) => return Err(raw.refuse(field, other, "an object")),
        };
        let theta = match parameters.get("rope_theta") {
            None => raw.optional_positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
            Some(value) => positive(value)
                .ok_or_else(|| raw.refuse(&format!("{field}.rope_theta"), value, "a positive number"))?,
        };
        let scaling = read_scaling(raw, field, &parameters)?;
        Ok(Self { theta, scaling })
    }

    fn read_gguf(raw: &RawConfig) -> Result<Self, LoadError> {
        let theta = raw.optional_positive("rope_theta")?.unwrap_or(DEFAULT_THETA);
        let factor = raw.optional_positive("rope.scaling.factor")?;
        let scaling = match (raw.value("rope.scaling.type"), factor) {
            (None, None) => RopeScaling::Default,
            (Some(Value::String(kind)), _) if kind == "none" => RopeScaling::Default,
            (Some(Value::String(kind)), Some(factor)) if kind == "linear" => RopeScaling::Linear { factor },
            (kind, _) => {
                let kind = kind.unwrap_or_else(|| "missing beside a factor".into());
                return Err(raw.refuse(
                    "rope.scaling.type",
                    kind,
                    "none, or linear with rope.scaling.factor",
                ));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// `head_dim / 2` inverse frequencies, scaling applied. `divisors` are llama.cpp's `rope_freqs`, the same scaling
    /// as a tensor.
    ///
    /// Rounded to f32 at the same points as the reference implementation, since a position multiplies the error.
    pub(crate) fn inv_freq(&self, head_dim: usize, divisors: Option<&[f32]>) -> Vec<f32> {
        let mut frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / f64::from(self.theta).powf(f64::from(exponent)) as f32
            })
            .map(|frequency| match self.scaling {
                RopeScaling::Default => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3(scaling) => scaling.apply(frequency),
            })
            .collect();
        for (frequency, divisor) in frequencies.iter_mut().zip(divisors.unwrap_or_default()) {
            *frequency /= divisor;
        }
        frequencies
    }
}

impl Llama3Scaling {
    fn apply(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        let original = self.original_max_position_embeddings;
        if wavelength > original / self.low_freq_factor {
            return frequency / self.factor;
        }
        if wavelength < original / self.high_freq_factor {
            return frequency;
        }
        let ramp =
            (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - ramp) * frequency / self.factor + ramp * frequency
    }
}

fn read_scaling(
    raw: &RawConfig,
    field: &str,
    parameters: &Map<String, Value>,
) -> Result<RopeScaling, LoadError> {
    let kind = match parameters.get("rope_type").or_else(|| parameters.get("type")) {
        None => "default",
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(raw.refuse(&format!("{field}.rope_type"), other, ALLOWED_TYPES)),
    };
    let number = |name: &str| {
        let value = parameters.get(name).unwrap_or(&Value::Null);
        let path = format!("{field}.{name}");
        positive(value).ok_or_else(|| raw.refuse(&path, missing_or(value), "a positive number"))
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => {
            let scaling = Llama3Scaling {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            };
            if scaling.high_freq_factor <= scaling.low_freq_factor {
                let path = format!("{field}.high_freq_factor");
                return Err(raw.refuse(&path, scaling.high_freq_factor, "more than low_freq_factor"));
            }
            Ok(RopeScaling::Llama3(scaling))
        }
        other => Err(raw.refuse(&format!("{field}.rope_type"), other, ALLOWED_TYPES)),
    }
}

fn missing_or(value: &Value) -> String {
    match value {
        Value::Null => "missing".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.2's own parameters; the expected values are by hand from the published rule: wavelength
    /// `2 pi / f` against 8192 / 4 and 8192 / 1.
    #[test]
    fn llama3_scaling_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = Llama3Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        assert_eq!(scaling.apply(1.0), 1.0);
        assert_eq!(scaling.apply(1e-5), 1e-5 / 32.0);
        let between = 2.0 * std::f32::consts::PI / 4096.0; // 8192 / 4096 = 2: a third of the way from 1 to 4
        let expected = (2.0 / 3.0) * between / 32.0 + between / 3.0;
        assert!((scaling.apply(between) - expected).abs() < 1e-9);
    }

    #[test]
    fn divisors_scale_each_frequency() {
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
        };
        assert_eq!(rope.inv_freq(4, None), [1.0, 0.01]);
        assert_eq!(rope.inv_freq(4, Some(&[1.0, 4.0])), [1.0, 0.0025]);
    }
}
