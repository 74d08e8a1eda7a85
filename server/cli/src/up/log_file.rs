//! The output of a child: into a file of bounded size, with the last lines at hand.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
};

/// A log and its predecessor have at most this size each.
const MOST_BYTES: u64 = 8 << 20;
/// A longer line is cut in pieces, so that output without line ends cannot grow in memory.
const LONGEST_LINE: u64 = 16 << 10;
const LAST_LINES: usize = 20;

/// The last lines of a child's output, shared with whoever explains its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The last lines that say something, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn push(&self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.trim_end().to_owned());
    }
}

/// Copies `output` to `path` until its end; an older log is kept beside it as `.log.1`.
pub(crate) async fn pump(output: pipe::Receiver, path: PathBuf, tail: Tail) {
    let mut log = LogFile::open(path);
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tail.push(&String::from_utf8_lossy(&line));
                log.write(&line);
            }
        }
    }
}

/// A full or vanished disk must not stop a child: what cannot be written is dropped, the tail keeps it.
struct LogFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> Self {
        let file = rotate(&path).and_then(|()| File::create(&path)).ok();
        Self { path, file, bytes: 0 }
    }

    fn write(&mut self, line: &[u8]) {
        if self.bytes + line.len() as u64 > MOST_BYTES {
            *self = Self::open(std::mem::take(&mut self.path));
        }
        self.bytes += line.len() as u64;
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line);
        }
    }
}

fn rotate(path: &Path) -> io::Result<()> {
    match fs::rename(path, path.with_extension("log.1")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_and_its_predecessor_stay_within_their_size() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.log");
        let mut log = LogFile::open(path.clone());
        let line = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.write(&line);
        }
        let size = |path: &Path| fs::metadata(path).expect("exists").len();
        assert!(size(&path) <= MOST_BYTES && size(&folder.path().join("a.log.1")) <= MOST_BYTES);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 2);
    }

    #[tokio::test]
    async fn the_tail_keeps_the_last_lines_of_output_without_end() {
        use tokio::io::AsyncWriteExt;
        let folder = tempfile::tempdir().expect("folder");
        let (mut sender, receiver) = pipe::pipe().expect("pipe");
        let tail = Tail::default();
        let pumping = tokio::spawn(pump(receiver, folder.path().join("a.log"), tail.clone()));
        for line in 0..100 {
            sender
                .write_all(format!("line {line}\n\n").as_bytes())
                .await
                .expect("writes");
        }
        sender.write_all(&vec![b'y'; 100 << 10]).await.expect("writes");
        drop(sender);
        pumping.await.expect("ends");
        let lines = tail.lines();
        assert_eq!(lines.len(), LAST_LINES);
        assert!(
            lines.contains(&"line 99".to_owned())
                && lines.iter().all(|line| line.len() <= LONGEST_LINE as usize)
        );
    }
}
