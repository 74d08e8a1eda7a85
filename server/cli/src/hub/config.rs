//! Where the hub and its cache are: the environment variables that other tools of the hub read too.

use std::{env, fmt, path::PathBuf};

/// Address, token and cache.
#[derive(Clone)]
pub(crate) struct HubConfig {
    /// `https://huggingface.co`, or a mirror; without a slash at the end.
    pub(crate) endpoint: String,
    /// Access token.
    pub(crate) token: Option<String>,
    /// Root of the cache (`…/hub`).
    pub(crate) cache: PathBuf,
    /// Whether requests are forbidden.
    pub(crate) offline: bool,
    /// Most bytes that a model may have to be fetched.
    pub(crate) max_bytes: Option<u64>,
}

impl HubConfig {
    /// From `HF_ENDPOINT`; `HF_TOKEN`, or the file `HF_TOKEN_PATH` or `$HF_HOME/token`; `HF_HUB_CACHE`, or
    /// `$HF_HOME/hub`; `HF_HUB_OFFLINE`.
    pub(crate) fn from_env() -> Self {
        let home = hf_home();
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let cache = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from);
        let token_path = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let saved = || std::fs::read_to_string(token_path).ok();
        let token = var("HF_TOKEN")
            .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
            .or_else(saved);
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            offline: var("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            max_bytes: None,
        }
    }

    /// The page of a repository, for a person.
    pub(crate) fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.endpoint)
    }
}

impl fmt::Debug for HubConfig {
    /// Without the token: it must not end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .field("max_bytes", &self.max_bytes)
            .finish()
    }
}

fn hf_home() -> PathBuf {
    if let Some(home) = var("HF_HOME") {
        return PathBuf::from(home);
    }
    let cache = var("XDG_CACHE_HOME").map(PathBuf::from);
    let user = || env::home_dir().unwrap_or_else(env::temp_dir).join(".cache");
    cache.unwrap_or_else(user).join("huggingface")
}

/// A variable that is set to something.
fn var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "true" | "yes")
}
