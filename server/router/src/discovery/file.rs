//! One machine: the snapshot is a file that is replaced.

use std::path::Path;

use prometheus::IntCounter;

use super::{Endpoints, Snapshots};
use crate::watched_file::{self, WatchError};

/// Follows the file. It may be missing; its folder may not. A file that is broken or gone leaves the last good
/// snapshot in force.
///
/// # Errors
/// When the folder cannot be watched.
pub(crate) fn watch(path: &Path, errors: IntCounter) -> Result<Snapshots, WatchError> {
    watched_file::follow(
        path,
        |path| Endpoints::read(path).map_err(|error| error.to_string()),
        errors,
    )
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::timeout;

    use super::*;

    async fn await_snapshot(snapshots: &mut Snapshots, generation: u64) -> Arc<Endpoints> {
        let arrived =
            snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|s| s.generation == generation));
        let snapshot = timeout(Duration::from_secs(10), arrived)
            .await
            .expect("in time")
            .expect("watched")
            .clone();
        snapshot.expect("some")
    }

    fn generation(generation: u64) -> Endpoints {
        Endpoints {
            generation,
            ..Endpoints::default()
        }
    }

    #[tokio::test]
    async fn a_broken_or_missing_file_leaves_the_last_good_snapshot() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("endpoints.json");
        let errors = IntCounter::new("errors", "errors").expect("counter");
        let mut snapshots = watch(&path, errors.clone()).expect("watches");
        assert!(snapshots.borrow().is_none());

        generation(1).write_atomically(&path).expect("writes");
        await_snapshot(&mut snapshots, 1).await;

        std::fs::write(&path, "{ half").expect("writes");
        let before = errors.get();
        timeout(Duration::from_secs(10), async {
            while errors.get() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the error is counted");
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(snapshots.borrow().as_ref().map(|s| s.generation), Some(1));

        generation(2).write_atomically(&path).expect("writes");
        await_snapshot(&mut snapshots, 2).await;
    }

    #[tokio::test]
    async fn a_missing_folder_is_refused_by_name() {
        let errors = IntCounter::new("errors", "errors").expect("counter");
        let error = watch(Path::new("/nowhere/endpoints.json"), errors).expect_err("refused");
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
