//! The snapshot, and the file that holds it on one machine.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use ferrum_engine::Task;
use serde::{Deserialize, Serialize};

/// Every model and every replica there is, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Grows with every change, for logs; readers do not depend on it.
    pub generation: u64,
    /// Models, also those without a replica.
    pub models: Vec<ModelEntry>,
    /// Engine processes.
    pub replicas: Vec<ReplicaEntry>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Its name in the manifest; [`ReplicaEntry::model`] refers to it.
    pub name: String,
    /// The OpenAI `model` values it answers to; the first is the main one.
    pub served_names: Vec<String>,
    /// What it is for.
    pub task: Task,
    /// Why it cannot be served (it failed to load), for the client to read; absent while it can or will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where it stands on the way to its first replica (`weights: 43 % of 8.1 GB`), told while no replica says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// One engine process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaEntry {
    /// Unique among replicas; a process that was restarted at another address may keep it.
    pub id: String,
    /// [`ModelEntry::name`] of what it serves.
    pub model: String,
    /// `http://127.0.0.1:PORT`: HTTP and gRPC.
    pub url: String,
    /// It stops soon: finish what it has, send nothing new.
    #[serde(default)]
    pub draining: bool,
}

impl Endpoints {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// See [`EndpointsError`].
    pub fn read(path: &Path) -> Result<Self, EndpointsError> {
        let bytes = fs::read(path).map_err(|source| EndpointsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let endpoints: Self = serde_json::from_slice(&bytes).map_err(|source| EndpointsError::Parse {
            path: path.to_owned(),
            source,
        })?;
        endpoints.check().map_err(|message| EndpointsError::Invalid {
            path: path.to_owned(),
            message,
        })?;
        Ok(endpoints)
    }

    /// Replaces the file in one step: a reader sees the old snapshot or this one, never half of it.
    ///
    /// # Errors
    /// [`EndpointsError::Invalid`] for a snapshot that no reader would accept, [`EndpointsError::Write`] when the
    /// folder cannot be written.
    pub fn write_atomically(&self, path: &Path) -> Result<(), EndpointsError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        self.check().map_err(|message| EndpointsError::Invalid {
            path: path.to_owned(),
            message,
        })?;
        let write_error = |source| EndpointsError::Write {
            path: path.to_owned(),
            source,
        };
        let json = serde_json::to_vec_pretty(self).map_err(|error| write_error(error.into()))?;
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{count}.tmp", std::process::id()));
        let written = fs::write(&temporary, json).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|source| {
            // The folder may be full or gone; what matters is the first error.
            let _ = fs::remove_file(&temporary);
            write_error(source)
        })
    }

    /// What the types cannot say: unique ids and names, known models, usable addresses.
    ///
    /// # Errors
    /// The first contradiction, naming the entry.
    pub fn check(&self) -> Result<(), String> {
        let mut models = HashSet::new();
        let mut served: HashMap<&str, &str> = HashMap::new();
        for model in &self.models {
            if !models.insert(model.name.as_str()) {
                return Err(format!("model `{}` is listed twice", model.name));
            }
            if model.served_names.is_empty() {
                return Err(format!("model `{}` has no served name", model.name));
            }
            for name in &model.served_names {
                if let Some(other) = served.insert(name, &model.name) {
                    return Err(format!(
                        "`{name}` is served by both `{other}` and `{}`",
                        model.name
                    ));
                }
            }
        }
        let mut ids = HashSet::new();
        for replica in &self.replicas {
            if !ids.insert(replica.id.as_str()) {
                return Err(format!("replica `{}` is listed twice", replica.id));
            }
            if !models.contains(replica.model.as_str()) {
                return Err(format!(
                    "replica `{}` serves unknown model `{}`",
                    replica.id, replica.model
                ));
            }
            check_url(&replica.url).map_err(|why| format!("replica `{}`: {why}", replica.id))?;
        }
        Ok(())
    }
}

/// Why a snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    /// It contradicts itself.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        message: String,
    },
    /// It is not this JSON.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is not there, or not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder does not take it.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// `http://host:port` and nothing behind it: the router appends the client's path.
fn check_url(url: &str) -> Result<(), String> {
    let wrong = || format!("url `{url}`: expected http://host:port");
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let plain = uri.scheme_str() == Some("http") && uri.port_u16().is_some();
    let bare = uri.path() == "/" && uri.query().is_none();
    if plain && bare { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Endpoints {
        Endpoints {
            generation: 3,
            models: vec![ModelEntry {
                name: "m".to_owned(),
                served_names: vec!["m".to_owned(), "alias".to_owned()],
                task: Task::Chat,
                message: None,
                phase: None,
            }],
            replicas: vec![ReplicaEntry {
                id: "m-0".to_owned(),
                model: "m".to_owned(),
                url: "http://127.0.0.1:4000".to_owned(),
                draining: false,
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_no_temporary_file_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("endpoints.json");
        endpoints().write_atomically(&path).expect("writes");
        assert_eq!(Endpoints::read(&path).expect("reads"), endpoints());
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("endpoints.json");
        fs::write(&path, r#"{"generation":1,"models":[],"replicas":[],"weights":1}"#).expect("writes");
        let message = Endpoints::read(&path).expect_err("refused").to_string();
        assert!(
            message.contains("weights") && message.contains("line 1"),
            "{message}"
        );
    }

    #[test]
    fn contradictions_are_named() {
        let mut twice = endpoints();
        twice.replicas.push(twice.replicas[0].clone());
        assert_eq!(twice.check(), Err("replica `m-0` is listed twice".to_owned()));

        let mut stranger = endpoints();
        stranger.replicas[0].model = "x".to_owned();
        assert_eq!(
            stranger.check(),
            Err("replica `m-0` serves unknown model `x`".to_owned())
        );

        let mut clash = endpoints();
        clash.models.push(ModelEntry {
            name: "n".to_owned(),
            ..clash.models[0].clone()
        });
        assert_eq!(clash.check(), Err("`m` is served by both `m` and `n`".to_owned()));

        for url in [
            "127.0.0.1:1",
            "https://127.0.0.1:1",
            "http://127.0.0.1",
            "http://127.0.0.1:1/v1",
        ] {
            let mut wrong = endpoints();
            wrong.replicas[0].url = url.to_owned();
            assert!(wrong.check().is_err(), "{url}");
        }
    }
}
