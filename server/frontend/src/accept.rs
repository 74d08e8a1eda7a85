//! Connections: HTTP/1.1 and h2c on one port.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

/// Time for the head of a request to arrive, an idle connection's next one included: longer than clients commonly keep
/// idle connections (90 s), so that it is they who close and no request meets a closing connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(100);
/// An HTTP/2 peer that does not answer a ping for so long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Pause after accept fails, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that connections have to close once they were told to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves connections until `close`; then tells each to close after its running request.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    close: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = close.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (accepted, permit) = accept => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone(), close.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let closed = async { while connections.join_next().await.is_some() {} };
    // What is left is dropped with `connections`.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
}

async fn connection(stream: TcpStream, router: Router, close: CancellationToken) {
    // Tokens are small writes that must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(
                router
                    .oneshot(request.map(Body::new))
                    .await
                    .unwrap_or_else(|e| match e {}),
            )
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that went away, mostly.
        tracing::debug!(%error, "connection ended");
    }
}
