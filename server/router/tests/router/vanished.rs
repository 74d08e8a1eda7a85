//! An address from which nothing comes back any more, as that of a pod whose node is gone.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Harness, chat, fake::FakeEngine, until};

/// Passes everything on to a replica, until it drops everything: connections stay open and silent, and new ones are
/// not answered, not even refused.
struct Path {
    url: String,
    address: SocketAddr,
    listener: TcpListener,
    drops: Arc<AtomicBool>,
    accepting: tokio::task::JoinHandle<()>,
    /// They fill the backlog.
    fillers: Vec<TcpStream>,
}

impl Path {
    fn to(replica: &str) -> Self {
        let target: SocketAddr = replica.trim_start_matches("http://").parse().expect("address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("address");
        let drops = Arc::new(AtomicBool::new(false));
        let accepted =
            tokio::net::TcpListener::from_std(listener.try_clone().expect("clones")).expect("listens");
        let given = drops.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = accepted.accept().await {
                let drops = given.clone();
                tokio::spawn(async move {
                    let server = tokio::net::TcpStream::connect(target).await.expect("connects");
                    let ((client_in, client_out), (server_in, server_out)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        pass(client_in, server_out, drops.clone()),
                        pass(server_in, client_out, drops)
                    );
                });
            }
        });
        Self {
            url: format!("http://{address}"),
            address,
            listener,
            drops,
            accepting,
            fillers: Vec::new(),
        }
    }

    fn drop_everything(&mut self) {
        self.drops.store(true, Ordering::SeqCst);
        self.accepting.abort();
        rustix::net::listen(&self.listener, 0).expect("shortens the backlog");
        let once = Duration::from_millis(100);
        while let Ok(filler) = TcpStream::connect_timeout(&self.address, once) {
            self.fillers.push(filler);
            assert!(self.fillers.len() < 64, "the backlog does not fill");
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    drops: Arc<AtomicBool>,
) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer).await {
        if drops.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_vanished_address_costs_one_request_a_second_and_is_avoided_from_then_on() {
    let (here, there) = (FakeEngine::start("here").await, FakeEngine::start("there").await);
    let mut path = Path::to(&there.url);
    let harness = Harness::start(&[here.url.clone(), path.url.clone()], 2).await;
    path.drop_everything();
    let mut slow = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        assert_eq!(harness.ask(chat()).await.1["replica"], "here");
        let took = asked.elapsed();
        if took > Duration::from_millis(700) {
            slow.push(took);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        slow.len() <= 1 && slow.iter().all(|took| *took < Duration::from_secs(2)),
        "{slow:?}"
    );
    until("it does not count as ready", async || {
        harness.health().await["models"][0]["ready"] == 1
    })
    .await;
}
