//! The broken manifests of e2e/broken, each with what must become of it in its first comment.
//!
//! ```yaml
//! # expect: apply TEXT                      refused by the API server with an error that contains TEXT
//! # expect: condition TYPE=STATUS REASON    accepted, and the FerrumModel shows this condition
//! # chart: --set=KEY=VALUE ...              only with the chart installed so; without it, as all tests share it
//! ```

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// What must become of a broken manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// The API server refuses it, with this text among its words.
    Refused(String),
    /// The FerrumModel gets a condition.
    Condition {
        /// `Accepted`, `WeightsCached`, ...
        r#type: String,
        /// `True`, `False` or `Unknown`.
        status: String,
        /// In CamelCase.
        reason: String,
    },
}

/// One file of e2e/broken.
#[derive(Debug, Clone)]
pub struct BrokenManifest {
    /// Name of the file without its ending.
    pub name: String,
    /// What must become of it.
    pub expectation: Expectation,
    /// Arguments of the chart beside those that tests share.
    pub chart: Vec<String>,
    /// The file.
    pub text: String,
}

/// Every manifest of e2e/broken in order of names.
///
/// # Errors
/// An empty folder, and a file whose header is missing or unknown: a case that nothing checks is a failure.
pub fn broken_manifests() -> Result<Vec<BrokenManifest>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("broken");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    ensure!(!files.is_empty(), "{}: no broken manifests", folder.display());
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)?;
            let expectation = parse(&text).with_context(|| path.display().to_string())?;
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            Ok(BrokenManifest {
                name,
                expectation,
                chart: chart_arguments(&text),
                text,
            })
        })
        .collect()
}

/// What follows `word` in the comment at the top.
fn header<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| line.starts_with('#'))
        .find_map(|line| line.strip_prefix(word))
}

fn chart_arguments(text: &str) -> Vec<String> {
    let arguments = header(text, "# chart: ").unwrap_or_default();
    arguments.split_whitespace().map(str::to_owned).collect()
}

fn parse(text: &str) -> Result<Expectation> {
    let header = header(text, "# expect: ").context("no line `# expect: ...` in the comment at the top")?;
    let (kind, rest) = header.split_once(' ').unwrap_or((header, ""));
    match kind {
        "apply" => {
            ensure!(!rest.trim().is_empty(), "`# expect: apply` names no text");
            Ok(Expectation::Refused(rest.trim().to_owned()))
        }
        "condition" => {
            let mut words = rest.split_whitespace();
            let (r#type, status) = words
                .next()
                .and_then(|word| word.split_once('='))
                .context("`# expect: condition` wants TYPE=STATUS")?;
            let reason = words.next().context("`# expect: condition` wants a reason")?;
            Ok(Expectation::Condition {
                r#type: r#type.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
            })
        }
        other => anyhow::bail!(
            "`# expect: {other}`: only `apply TEXT` and `condition TYPE=STATUS REASON` are known"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_must_become_of_the_manifest() -> Result<()> {
        let refused =
            parse("# Two are one too many.\n# expect: apply set one of the two\nkind: FerrumModel\n")?;
        assert_eq!(refused, Expectation::Refused("set one of the two".to_owned()));
        let condition = parse("# expect: condition WeightsCached=False SecretNotFound\n")?;
        assert_eq!(
            condition,
            Expectation::Condition {
                r#type: "WeightsCached".to_owned(),
                status: "False".to_owned(),
                reason: "SecretNotFound".to_owned(),
            }
        );
        Ok(())
    }

    #[test]
    fn a_manifest_without_a_header_that_is_understood_is_a_failure() {
        for text in [
            "kind: FerrumModel\n",
            "kind: FerrumModel\n# expect: apply too late\n",
            "# expect: apply\n",
            "# expect: explosion\n",
            "# expect: condition Ready\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
