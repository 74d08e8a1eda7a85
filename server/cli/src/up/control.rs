//! The control socket: how another `ferrum up`, `ferrum status` and `ferrum stop` talk to the supervisor that runs.
//!
//! One request a connection, then replies until the connection closes; each a line of JSON. The socket lies in the
//! state folder, which only its user can enter.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ferrum_crds::manifest::Source;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::state_dir::{StateDir, remove_if_there};

/// What a command asks of the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Serve these manifests instead of the present ones.
    Apply {
        /// The manifests.
        sources: Vec<Source>,
        /// What the router must be like.
        router: RouterWish,
    },
    /// Tell what runs.
    Status,
    /// Stop everything.
    Stop,
    /// Follow until everything is ready or has failed.
    Wait,
}

/// Settings of the router that a second `ferrum up` names; they cannot change while it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RouterWish {
    /// `--port`.
    pub(crate) port: Option<u16>,
    /// `--host`.
    pub(crate) host: Option<IpAddr>,
    /// `--api-key`.
    pub(crate) api_key: Option<String>,
}

/// What the supervisor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Something happened.
    Line {
        /// For people.
        text: String,
    },
    /// The request cannot be carried out; the last reply.
    Refused {
        /// Why.
        message: String,
    },
    /// Everything is ready or has failed; the last reply.
    Settled(Summary),
    /// What runs; the last reply.
    Status(Status),
}

/// Where everything stands once nothing moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The router.
    pub(crate) url: String,
    /// Whether clients need a key.
    pub(crate) needs_key: bool,
    /// The models in the order of the manifests.
    pub(crate) models: Vec<ModelSummary>,
}

/// A model in a [`Summary`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelSummary {
    /// Name of the object.
    pub(crate) name: String,
    /// The main OpenAI name.
    pub(crate) served_name: String,
    /// What it is for.
    pub(crate) task: ferrum_engine::Task,
    /// Replicas that answer.
    pub(crate) ready: usize,
    /// Replicas asked for.
    pub(crate) wanted: usize,
    /// Why some do not.
    pub(crate) failure: Option<String>,
}

/// A table of what runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The supervisor.
    pub(crate) pid: u32,
    /// The router, once it listens.
    pub(crate) url: Option<String>,
    /// Every replica.
    pub(crate) replicas: Vec<ReplicaStatus>,
}

/// A row of [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplicaStatus {
    /// Its name.
    pub(crate) id: String,
    /// Its model.
    pub(crate) model: String,
    /// What it does.
    pub(crate) state: String,
    /// Process id, while it runs.
    pub(crate) pid: Option<u32>,
    /// Address, once it listens.
    pub(crate) url: Option<String>,
    /// How often it ended by itself.
    pub(crate) restarts: usize,
}

/// A request and where its replies go.
pub(crate) type Call = (Request, mpsc::Sender<Reply>);

/// Replies that may wait for a slow reader; beyond it the reader is dropped.
pub(crate) const MOST_REPLIES: usize = 1024;
const MOST_CONNECTIONS: usize = 64;
/// Manifests have at most 4 MiB a file; JSON adds its quotes.
const LONGEST_REQUEST: u64 = 64 << 20;

/// The listening end.
#[derive(Debug)]
pub(crate) struct Server {
    accepting: JoinHandle<()>,
    connections: TaskTracker,
}

impl Server {
    /// Listens, and hands every request to `calls`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(state: &StateDir, calls: mpsc::Sender<Call>) -> anyhow::Result<Self> {
        let path = state.socket();
        remove_if_there(&path)?;
        let (short, _folder) = short_path(&path)?;
        let listener =
            UnixListener::bind(short).with_context(|| format!("cannot listen on {}", path.display()))?;
        let connections = TaskTracker::new();
        let accepting = tokio::spawn(accept(listener, calls, connections.clone()));
        Ok(Self {
            accepting,
            connections,
        })
    }

    /// Ends it, once every caller has read what it was told; not for long.
    pub(crate) async fn finish(self) {
        self.accepting.abort();
        self.connections.close();
        // A caller that does not read misses the end.
        let _ = timeout(Duration::from_secs(2), self.connections.wait()).await;
    }
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>, connections: TaskTracker) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                connections.spawn(async move {
                    // A caller that breaks off has nobody left to tell.
                    let _ = serve_one(stream, calls).await;
                    drop(permit);
                });
            }
            // Too many open files, for example: it passes.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_one(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
    timeout(Duration::from_secs(10), reader.read_until(b'\n', &mut line)).await??;
    let (replies, mut told) = mpsc::channel(MOST_REPLIES);
    match serde_json::from_slice(&line) {
        Ok(request) => drop(calls.send((request, replies)).await),
        Err(error) => {
            let message = format!("not a request of this version: {error}");
            drop(replies.try_send(Reply::Refused { message }));
            drop(replies);
        }
    }
    while let Some(reply) = told.recv().await {
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
    Ok(())
}

/// A request under way.
pub(crate) struct Replies {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
}

/// Sends `request` to the supervisor of `state`.
///
/// # Errors
/// When nobody listens there.
pub(crate) async fn send(state: &StateDir, request: &Request) -> io::Result<Replies> {
    let (short, _folder) = short_path(&state.socket())?;
    let (reader, mut writer) = UnixStream::connect(short).await?.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    // The supervisor reads one line; it is told nothing by our end staying open.
    writer.forget();
    Ok(Replies {
        lines: BufReader::new(reader).lines(),
    })
}

impl Replies {
    /// The next reply; `None` after the last, and when the supervisor is gone.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Reply>> {
        match self.lines.next_line().await {
            Ok(Some(line)) => Ok(Some(serde_json::from_str(&line)?)),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A socket's path may have about 100 bytes. A longer one is reached through the open folder.
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    const LONGEST: usize = 100;
    if path.as_os_str().len() <= LONGEST {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((short, Some(folder)))
}
