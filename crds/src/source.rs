//! Where weights come from.

use std::{fmt, path::PathBuf};

/// What `spec.model` may be, for messages.
const EXPECTED: &str = "hf://org/name, hf://org/name@revision, https://host/path.gguf, pvc://claim/path or \
                        file:///absolute/path";

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A folder or a `.gguf` file in a volume of the model's namespace: `pvc://claim/path`.
    Claim {
        /// Name of the PersistentVolumeClaim.
        claim: String,
        /// Path in it, without a slash at its start; empty is the whole volume.
        path: String,
    },
    /// A folder or a `.gguf` file on this machine: `file:///absolute/path`.
    File {
        /// Absolute path.
        path: PathBuf,
    },
    /// A repository of the model hub: `hf://org/name@revision`.
    Hub {
        /// `org/name`.
        repository: String,
        /// Branch, tag or commit; `None` is the default branch.
        revision: Option<String>,
    },
    /// One file of a web server: `https://host/path.gguf`.
    Web {
        /// The whole address.
        url: String,
    },
}

impl ModelSource {
    /// Parses `spec.model`.
    ///
    /// # Errors
    /// What is allowed, to be read after "expected".
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("hf", rest)) => return parse_hub(rest),
            Some(("https", rest)) => return parse_web(rest),
            Some(("pvc", rest)) => return parse_claim(rest),
            Some(("file", rest)) => return parse_file(rest),
            _ => {}
        }
        if parse_hub(text).is_ok() {
            return Err(format!("{EXPECTED}: did you mean hf://{text}?"));
        }
        if text.starts_with('/') && parse_file(text).is_ok() {
            return Err(format!("{EXPECTED}: did you mean file://{text}?"));
        }
        Err(EXPECTED.to_owned())
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { claim, path } if path.is_empty() => write!(f, "pvc://{claim}"),
            Self::Claim { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::File { path } => write!(f, "file://{}", path.display()),
            Self::Hub {
                repository,
                revision: None,
            } => write!(f, "hf://{repository}"),
            Self::Hub {
                repository,
                revision: Some(revision),
            } => write!(f, "hf://{repository}@{revision}"),
            Self::Web { url } => f.write_str(url),
        }
    }
}

fn parse_hub(rest: &str) -> Result<ModelSource, String> {
    let (repository, revision) = match rest.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (rest, None),
    };
    let is_repository = repository
        .split_once('/')
        .is_some_and(|(org, name)| is_segment(org) && is_segment(name));
    if !is_repository {
        return Err("hf://org/name with letters, digits, `.`, `_` and `-` in org and name".to_owned());
    }
    if !revision.is_none_or(is_revision) {
        return Err("a branch, tag or commit behind the `@`".to_owned());
    }
    Ok(ModelSource::Hub {
        repository: repository.to_owned(),
        revision: revision.map(str::to_owned),
    })
}

fn parse_file(path: &str) -> Result<ModelSource, String> {
    if !path.starts_with('/') || path.len() < 2 {
        return Err("an absolute path: file:///absolute/path".to_owned());
    }
    if path.split('/').any(|part| part == "..") {
        return Err("an absolute path without `..`".to_owned());
    }
    Ok(ModelSource::File {
        path: PathBuf::from(path),
    })
}

/// `host[:port]/path.gguf`, without a user, a query or a fragment, which would become part of names and logs.
fn parse_web(rest: &str) -> Result<ModelSource, String> {
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    let is_path_char = |c: char| c.is_ascii_alphanumeric() || "._~%+@/-".contains(c);
    let is_file = rest.split_once('/').is_some_and(|(host, path)| {
        host.starts_with(|c: char| c.is_ascii_alphanumeric())
            && host.chars().all(is_host_char)
            && path.chars().all(is_path_char)
            && path.len() > ".gguf".len()
            && path.ends_with(".gguf")
    });
    if !is_file {
        return Err("https://host/path.gguf, the address of one GGUF file without a query".to_owned());
    }
    Ok(ModelSource::Web {
        url: format!("https://{rest}"),
    })
}

fn parse_claim(rest: &str) -> Result<ModelSource, String> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_claim = claim.starts_with(is_edge)
        && claim.ends_with(is_edge)
        && claim.chars().all(|c| is_edge(c) || c == '.' || c == '-');
    let is_path = path
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._@+/-".contains(c))
        && !path.starts_with('/')
        && path.split('/').all(|part| part != "..");
    if !is_claim || !is_path {
        return Err(
            "pvc://claim/path with the name of a PersistentVolumeClaim and a path without `..`".to_owned(),
        );
    }
    Ok(ModelSource::Claim {
        claim: claim.to_owned(),
        path: path.to_owned(),
    })
}

/// `[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?`, as the hub names owners and repositories.
fn is_segment(text: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(is_edge)
        && text.ends_with(is_edge)
        && text.chars().all(|c| is_edge(c) || c == '.' || c == '-')
}

/// `[A-Za-z0-9][A-Za-z0-9._/-]*`.
fn is_revision(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_prints_what_it_was_parsed_from() {
        for text in [
            "hf://org/name",
            "hf://Qwen/Qwen3-0.6B@main",
            "hf://a/b@refs/pr/1",
            "file:///models/x.gguf",
            "https://models.example.com:8443/a/b.Q4_0.gguf",
            "pvc://weights",
            "pvc://weights/qwen/x.gguf",
        ] {
            assert_eq!(ModelSource::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_bare_hub_name_is_refused_with_the_address_it_needs() {
        let refusal = ModelSource::parse("Qwen/Qwen3-0.6B").expect_err("no scheme");
        assert!(
            refusal.ends_with("did you mean hf://Qwen/Qwen3-0.6B?"),
            "{refusal}"
        );
    }
}
