//! What the engine tells the routers: one gRPC stream to each, ferrum.v1.Telemetry.

mod convert;
mod kv_mirror;
mod watch;

pub(crate) use kv_mirror::KvMirror;

use std::{pin::Pin, sync::Arc};

use ferrum_api::telemetry::{TelemetryEvent, WatchRequest, telemetry_server::Telemetry};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::app::App;

/// Events that may wait for a router that reads slowly; load is coalesced behind it.
const BUFFER: usize = 64;

/// The service.
pub(crate) struct TelemetryService {
    app: Arc<App>,
}

impl TelemetryService {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<TelemetryEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { router_id, kv_blocks } = request.into_inner();
        tracing::debug!(router_id, kv_blocks, "a router watches");
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(watch::Watch::new(Arc::clone(&self.app), sender, kv_blocks).run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
