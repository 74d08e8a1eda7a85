//! How answers are drawn: flags of `ferrum run`, changed by `/set` while it runs.

use clap::Args;
use ferrum_api::chat::ChatCompletionRequest;

/// Sampling; what is not set is up to the model.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// 0 always takes the likeliest token, higher is freer [default: the model's]
    #[arg(long, value_name = "T", help_heading = "Sampling")]
    pub(crate) temperature: Option<f64>,

    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    pub(crate) top_p: Option<f64>,

    /// Draw from so many of the likeliest tokens
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    pub(crate) top_k: Option<i64>,

    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    pub(crate) min_p: Option<f64>,

    /// The same seed gives the same answer
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) seed: Option<i64>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) max_tokens: Option<i64>,
}

/// What `/set` takes.
pub(crate) const NAMES: [&str; 6] = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];

impl Settings {
    /// Sets `name` to `value`; `default` leaves it to the model again. Ranges are the server's to check.
    ///
    /// # Errors
    /// What is allowed.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "temperature" => self.temperature = parse(name, value)?,
            "top_p" => self.top_p = parse(name, value)?,
            "top_k" => self.top_k = parse(name, value)?,
            "min_p" => self.min_p = parse(name, value)?,
            "seed" => self.seed = parse(name, value)?,
            "max_tokens" => self.max_tokens = parse(name, value)?,
            _ => return Err(format!("unknown setting `{name}`: expected {}", NAMES.join(", "))),
        }
        Ok(())
    }

    /// Writes what is set into a request.
    pub(crate) fn apply(&self, request: &mut ChatCompletionRequest) {
        let Self {
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            max_tokens,
        } = self.clone();
        request.temperature = temperature;
        request.top_p = top_p;
        request.top_k = top_k;
        request.min_p = min_p;
        request.seed = seed;
        request.max_completion_tokens = max_tokens;
    }

    /// `temperature = 0.7`, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        let whole = |value: Option<i64>| value.map(|value| value.to_string());
        let values = [
            number(self.temperature),
            number(self.top_p),
            whole(self.top_k),
            number(self.min_p),
            whole(self.seed),
            whole(self.max_tokens),
        ];
        let line = |(name, value): (&str, Option<String>)| {
            format!("{name} = {}", value.unwrap_or_else(|| "default".to_owned()))
        };
        NAMES.into_iter().zip(values).map(line).collect()
    }
}

fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<Option<T>, String> {
    if value == "default" {
        return Ok(None);
    }
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("{name} = {value}: expected a number, or default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_set_shown_and_left_to_the_model_again() {
        let mut settings = Settings::default();
        for name in NAMES {
            settings.set(name, "1").expect("is a number");
            assert!(settings.lines().contains(&format!("{name} = 1")), "{name}");
            settings.set(name, "default").expect("is allowed");
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_wrong_setting_says_what_is_allowed() {
        let mut settings = Settings::default();
        assert!(
            settings
                .set("top_k", "many")
                .expect_err("no number")
                .contains("top_k = many: expected a number")
        );
        assert!(
            settings
                .set("heat", "1")
                .expect_err("no name")
                .contains("expected temperature, top_p")
        );
    }
}
