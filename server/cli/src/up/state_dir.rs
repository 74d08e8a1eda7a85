//! The state folder of `ferrum up`: who runs there, and where everything lies.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

/// A state folder. One supervisor at a time owns it; its lock says who.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// Proof that this process owns the folder. The kernel frees it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Who owns the folder.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Another process; its id, if it could be read.
    Other(Option<u32>),
    /// This process, from now on.
    Us(Lock),
}

impl StateDir {
    /// The folder `given`, or the user's own.
    pub(crate) fn new(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let root = match given {
            Some(path) => path,
            None => default_root().context("no home folder is known: name a folder with --state-dir")?,
        };
        Ok(Self {
            root: std::path::absolute(root)?,
        })
    }

    /// Makes the folder, for this user only, and tries to own it.
    pub(crate) fn acquire(&self) -> anyhow::Result<Owner> {
        let create = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.with_context(|| format!("cannot make the state folder {}", path.display()))
        };
        create(&self.root)?;
        create(&self.logs())?;
        create(&self.addresses())?;
        self.try_lock()
    }

    /// Who owns the folder; owns it if nobody does.
    pub(crate) fn try_lock(&self) -> anyhow::Result<Owner> {
        let path = self.root.join("lock");
        let context = || format!("cannot open {}", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(context)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Owner::Us(Lock { _file: file }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok(Owner::Other(text.trim().parse().ok()))
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Whether anything ever ran here.
    pub(crate) fn exists(&self) -> bool {
        self.root.join("lock").exists()
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where each process's output goes.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one process.
    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.logs().join(format!("{id}.log"))
    }

    /// Where an engine writes its address.
    pub(crate) fn address(&self, id: &str) -> PathBuf {
        self.addresses().join(id)
    }

    /// Where the router writes its address.
    pub(crate) fn router_address(&self) -> PathBuf {
        self.root.join("router.address")
    }

    /// What the router reads.
    pub(crate) fn endpoints(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    /// Where the supervisor listens for `ferrum up`, `status` and `stop`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Removes what only a running supervisor has.
    pub(crate) fn clear(&self) -> io::Result<()> {
        for path in [self.router_address(), self.endpoints(), self.socket()] {
            remove_if_there(&path)?;
        }
        for entry in fs::read_dir(self.addresses())? {
            remove_if_there(&entry?.path())?;
        }
        Ok(())
    }

    fn addresses(&self) -> PathBuf {
        self.root.join("addresses")
    }
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn default_root() -> Option<PathBuf> {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("ferrum"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_until_the_owner_lets_go() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateDir::new(Some(folder.path().join("a/b"))).expect("folder");
        let Owner::Us(lock) = state.acquire().expect("acquires") else {
            panic!("free")
        };
        // A second open file is a second owner, also within one process.
        let Owner::Other(pid) = state.acquire().expect("asks") else {
            panic!("owned")
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        assert!(matches!(state.acquire().expect("acquires"), Owner::Us(_)));
    }
}
