//! Who may ask, and for which models.

use std::{collections::HashSet, fmt, fs, path::Path, sync::Arc};

use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderMap, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{config::ApiKey, watched_file::Contents};

/// Stands for every model in a list of models.
const EVERY_MODEL: &str = "*";

/// The keys that are good now.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Of anybody, where no key is needed.
    everybody: Arc<Access>,
    /// Of the command line.
    fixed: Option<KeyEntry>,
    /// Of the file.
    listed: Option<Contents<KeyList>>,
}

/// The content of a file of keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyList(Vec<KeyEntry>);

#[derive(Debug, PartialEq, Eq)]
struct KeyEntry {
    digest: KeyDigest,
    access: Arc<Access>,
}

/// Of a key, which itself is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct KeyDigest([u8; 32]);

/// What the holder of a key may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Of the key, for logs.
    pub(crate) name: String,
    /// Served names; all of them when absent.
    models: Option<HashSet<String>>,
}

/// Why a file of keys is no good. Never shows what is in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}{place}: expected a list of {{name, key, models}} in YAML or JSON")]
    Parse { path: String, place: String },
    #[error("{path}: entry {number} (`{name}`): {why}")]
    Entry {
        path: String,
        number: usize,
        name: String,
        why: &'static str,
    },
}

impl Keys {
    pub(crate) fn new(fixed: Option<&ApiKey>, listed: Option<Contents<KeyList>>) -> Self {
        let fixed = fixed.map(|key| KeyEntry {
            digest: KeyDigest::of(key.as_bytes()),
            access: Arc::new(Access::to_everything("--api-key")),
        });
        Self {
            everybody: Arc::new(Access::to_everything("everybody")),
            fixed,
            listed,
        }
    }

    /// Whether requests need a key at all.
    pub(crate) fn are_needed(&self) -> bool {
        self.fixed.is_some() || self.listed.is_some()
    }

    /// What the sender of a request may use. The time that it takes tells nothing about any key: it is the digests that
    /// are compared, all of them and each to its end.
    ///
    /// # Errors
    /// 401 without a key that is good.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Access>, ApiError> {
        if !self.are_needed() {
            return Ok(self.everybody.clone());
        }
        let given = KeyDigest::of(bearer(headers)?);
        let mut found = None;
        let mut compare = |entry: &KeyEntry| {
            if entry.digest.is(given) {
                found = Some(entry.access.clone());
            }
        };
        self.fixed.iter().for_each(&mut compare);
        if let Some(listed) = self.listed.as_ref().and_then(|listed| listed.borrow().clone()) {
            listed.0.iter().for_each(compare);
        }
        found.ok_or_else(|| refusal("the API key is wrong"))
    }
}

impl KeyList {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub(crate) fn read(path: &Path) -> Result<Self, KeysError> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| KeysError::Read {
            path: shown.clone(),
            source,
        })?;
        Self::parse(&text, &shown)
    }

    fn parse(text: &str, path: &str) -> Result<Self, KeysError> {
        // JSON is YAML. The parser's own message may hold a key.
        let written: Vec<Written> = serde_yaml::from_str(text).map_err(|error| KeysError::Parse {
            path: path.to_owned(),
            place: error.location().map_or_else(String::new, |place| {
                format!(":{}:{}", place.line(), place.column())
            }),
        })?;
        let (mut names, mut digests) = (HashSet::new(), HashSet::new());
        let mut entries = Vec::with_capacity(written.len());
        for (index, entry) in written.into_iter().enumerate() {
            let digest = KeyDigest::of(entry.key.as_bytes());
            let why = if entry.name.is_empty() {
                Some("`name` is empty")
            } else if entry.key.is_empty() || !entry.key.bytes().all(|byte| byte.is_ascii_graphic()) {
                Some("`key` must be visible ASCII characters without spaces, one at least")
            } else if entry.models.is_empty() {
                Some("`models` is empty: expected served names, or \"*\" for all")
            } else if !names.insert(entry.name.clone()) {
                Some("another entry has the same name")
            } else if !digests.insert(digest) {
                Some("another entry has the same key")
            } else {
                None
            };
            if let Some(why) = why {
                return Err(KeysError::Entry {
                    path: path.to_owned(),
                    number: index + 1,
                    name: entry.name,
                    why,
                });
            }
            let is_everything = entry.models.iter().any(|model| model == EVERY_MODEL);
            let models = (!is_everything).then(|| entry.models.into_iter().collect());
            let access = Arc::new(Access {
                name: entry.name,
                models,
            });
            entries.push(KeyEntry { digest, access });
        }
        Ok(Self(entries))
    }
}

impl Access {
    fn to_everything(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            models: None,
        }
    }

    /// Whether it may use the model that answers to this name.
    pub(crate) fn allows(&self, served_name: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.contains(served_name))
    }
}

impl KeyDigest {
    fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn is(self, other: Self) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// An entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    key: String,
    models: Vec<String>,
}

fn bearer(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(refusal(
            "no API key: expected the header `Authorization: Bearer <key>`",
        ));
    };
    match value.as_bytes().split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(rest.trim_ascii()),
        _ => Err(refusal(
            "the Authorization header has no API key: expected `Bearer <key>`",
        )),
    }
}

fn refusal(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Authentication, message)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).expect("header");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn only_the_whole_key_opens() {
        let keys = Keys::new(Some(&ApiKey::from("sk-abc".to_owned())), None);
        for right in ["Bearer sk-abc", "bearer sk-abc", "Bearer  sk-abc "] {
            assert!(keys.authenticate(&with(right)).is_ok(), "{right}");
        }
        for wrong in [
            "sk-abc",
            "Bearer sk-ab",
            "Bearer sk-abcd",
            "Bearer sk-abcsk-abc",
            "Bearer ",
            "Basic sk-abc",
        ] {
            assert!(keys.authenticate(&with(wrong)).is_err(), "{wrong}");
        }
        assert!(keys.authenticate(&HeaderMap::new()).is_err());
        assert!(Keys::new(None, None).authenticate(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn yaml_and_json_give_each_key_its_models() {
        let yaml = "- {name: a, key: sk-a, models: [m, n]}\n- name: b\n  key: sk-b\n  models: ['*']\n";
        let json =
            r#"[{"name":"a","key":"sk-a","models":["m","n"]},{"name":"b","key":"sk-b","models":["*"]}]"#;
        let list = KeyList::parse(yaml, "keys").expect("YAML");
        assert_eq!(list, KeyList::parse(json, "keys").expect("JSON"));
        let allows = |index: usize, name: &str| list.0[index].access.allows(name);
        assert!(allows(0, "m") && allows(0, "n") && !allows(0, "x") && allows(1, "x"));
    }

    #[test]
    fn a_broken_list_is_refused_with_its_place_and_without_its_secrets() {
        for (text, expected) in [
            ("- sk-secret", "keys:1"),
            ("- {name: a, key: [sk-secret], models: [m]}", "keys:1"),
            ("- {name: a, key: sk-secret, models: [m], sk-secret: 1}", "keys:1"),
            ("- {name: a, key: sk-secret, models: []}", "entry 1 (`a`)"),
            ("- {name: a, key: 'sk secret', models: [m]}", "entry 1 (`a`)"),
            (
                "- {name: a, key: sk-secret, models: [m]}\n- {name: b, key: sk-secret, models: [m]}",
                "entry 2 (`b`): another entry has the same key",
            ),
        ] {
            let message = KeyList::parse(text, "keys").expect_err(text).to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        assert!(KeyList::parse("[]", "keys").expect("no key").0.is_empty());
    }
}
