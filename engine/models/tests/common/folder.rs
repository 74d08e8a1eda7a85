//! Fixtures with other configurations.

use std::path::{Path, PathBuf};

use ferrum_models::{LoadError, LoadOptions, open};
use serde_json::Value;
use tempfile::TempDir;

use super::{backend, fixture};

/// A copy of a fixture whose JSON files can be changed.
pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    pub(crate) fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sets fields of config.json; null removes one.
    pub(crate) fn configure(self, fields: Value) -> Self {
        let text = std::fs::read_to_string(self.file("config.json")).expect("config.json");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        for (field, value) in fields.as_object().expect("fields") {
            config[field] = value.clone();
        }
        self.write("config.json", &config.to_string())
    }

    pub(crate) fn write(self, name: &str, text: &str) -> Self {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("written");
        self
    }

    pub(crate) fn load(&self) -> Result<(), LoadError> {
        let options = LoadOptions {
            max_model_len: Some(64),
            ..LoadOptions::default()
        };
        open(self.path())?.load(&backend(), &options).map(|_| ())
    }

    pub(crate) fn refusal(&self) -> String {
        self.load().expect_err("a refusal").to_string()
    }
}
