//! Replicas that break HTTP itself. They answer `/health`, speak no gRPC, and do to other requests what they are
//! told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes without a byte.
    Close,
    /// Half a head, then the connection is reset.
    ResetInHead,
    /// A head that promises 100 bytes, 10 of them, then the connection closes.
    CloseInBody,
    /// A head of a stream, then the connection closes.
    CloseBeforeFirstEvent,
    /// A head of a stream, one and a half events, then the connection closes.
    CloseInSecondEvent,
    /// A stream that ends properly, but without its last event.
    EndWithoutDone,
    /// A stream whose first event tells of the engine's failure.
    ErrorFirst,
    /// One good answer a connection: the next request there finds it closed.
    OneAnswerAConnection,
    /// What is no HTTP.
    Garbage,
    /// Nothing, for ever.
    Hang,
    /// A head of a stream and one event, then nothing.
    HangAfterFirstEvent,
}

#[derive(Default)]
struct Shared {
    requests: AtomicUsize,
    health_hangs: AtomicBool,
}

/// A replica that fails in one way.
pub struct RawFake {
    pub url: String,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl RawFake {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let shared = Arc::new(Shared::default());
        let given = shared.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, fault, given.clone()));
            }
        });
        Self {
            url,
            shared,
            listening,
        }
    }

    /// Requests that it has failed.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl RawFake {
    /// From now on `/health` is not answered either.
    pub fn hang_health(&self) {
        self.shared.health_hangs.store(true, Ordering::SeqCst);
    }
}

impl Drop for RawFake {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(mut stream: TcpStream, fault: Fault, shared: Arc<Shared>) {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while !received.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
        }
    }
    if received.starts_with(b"GET /health") {
        if shared.health_hangs.load(Ordering::SeqCst) {
            hang().await;
        }
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        return;
    }
    if !received.starts_with(b"POST") {
        return; // gRPC
    }
    shared.requests.fetch_add(1, Ordering::SeqCst);
    const STREAM: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let piece = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let bytes = match fault {
        Fault::Close => String::new(),
        Fault::ResetInHead => "HTTP/1.1 200 OK\r\ncontent-".to_owned(),
        Fault::CloseInBody => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"choices\"".to_owned(),
        Fault::CloseBeforeFirstEvent => format!("{STREAM}{}", piece(": soon\n\n")),
        Fault::CloseInSecondEvent => format!("{STREAM}{}", piece("data: {\"n\":1}\n\ndata: {\"n\"")),
        Fault::EndWithoutDone => format!("{STREAM}{}0\r\n\r\n", piece("data: {\"n\":1}\n\n")),
        Fault::ErrorFirst => {
            let error = "data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"code\":\"engine_failed\"}}\n\n";
            format!("{STREAM}{}0\r\n\r\n", piece(error))
        }
        Fault::OneAnswerAConnection => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        Fault::Garbage => "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(),
        Fault::Hang => return hang().await,
        Fault::HangAfterFirstEvent => format!("{STREAM}{}", piece("data: {\"n\":1}\n\n")),
    };
    let _ = stream.write_all(bytes.as_bytes()).await;
    if fault == Fault::OneAnswerAConnection {
        let _ = stream.read(&mut buffer).await; // closes as soon as the next request begins
        let _ = stream.set_zero_linger();
        return;
    }
    if fault == Fault::HangAfterFirstEvent {
        hang().await;
    }
    if fault == Fault::ResetInHead {
        let _ = stream.set_zero_linger();
    }
}

/// Longer than any test.
async fn hang() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}
