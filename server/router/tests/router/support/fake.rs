//! A replica that speaks HTTP and gRPC properly and answers as it is told.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ferrum_api::telemetry::{
    Load, ModelCard, PhaseChange, TelemetryEvent, WatchRequest,
    phase_change::Phase,
    telemetry_event::Event,
    telemetry_server::{Telemetry, TelemetryServer},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

/// How it answers a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An answer that names the replica, after a while.
    Ok(Duration),
    /// A status with an error body.
    Status(u16),
    /// So many events, then `[DONE]`; each waits for a permit of [`FakeEngine::allow_event`].
    Events(usize),
    /// One event, then nothing until the client goes.
    EventThenHang,
}

/// A replica and what it has seen.
pub struct FakeEngine {
    pub url: String,
    pub shared: Arc<Shared>,
    /// Its own, so that its end closes every socket at once, as the end of a process does.
    runtime: Option<Runtime>,
}

/// What the handlers know.
pub struct Shared {
    name: String,
    answer: Mutex<Answer>,
    pub requests: AtomicUsize,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    /// Requests whose client went away before the end.
    pub dropped: AtomicUsize,
    pub seen: Mutex<Vec<(HeaderMap, Uri, Bytes)>>,
    event_permits: tokio::sync::Semaphore,
    pub events_made: AtomicUsize,
    phase: watch::Sender<PhaseChange>,
    /// The next message of each open stream leaves out a number.
    skip: watch::Sender<usize>,
    load: watch::Sender<Load>,
    pub watches: AtomicUsize,
    pub speaks_grpc: AtomicBool,
    cut: watch::Sender<usize>,
    /// Names that its card tells.
    pub served_names: Mutex<Vec<String>>,
}

impl FakeEngine {
    /// A replica that is ready and says its name.
    pub async fn start(name: &str) -> Self {
        Self::with(name, phase(Phase::Ready, 0, 0), Answer::Ok(Duration::ZERO)).await
    }

    pub async fn with(name: &str, phase: PhaseChange, answer: Answer) -> Self {
        Self::at("127.0.0.1:0", name, phase, answer).await
    }

    /// At this address, as a process that was restarted.
    pub async fn at(address: &str, name: &str, phase: PhaseChange, answer: Answer) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("binds");
        listener.set_nonblocking(true).expect("non-blocking");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            answer: Mutex::new(answer),
            requests: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            seen: Mutex::default(),
            event_permits: tokio::sync::Semaphore::new(0),
            events_made: AtomicUsize::new(0),
            phase: watch::Sender::new(phase),
            skip: watch::Sender::new(0),
            load: watch::Sender::new(Load::default()),
            watches: AtomicUsize::new(0),
            speaks_grpc: AtomicBool::new(true),
            cut: watch::Sender::new(0),
            served_names: Mutex::default(),
        });
        let grpc = tonic::service::Routes::new(TelemetryServer::new(TelemetryService(shared.clone())));
        let app = Router::new()
            .route("/health", get(health))
            .route("/v1/chat/completions", post(complete))
            .route("/v1/completions", post(complete))
            .route("/v1/embeddings", post(complete))
            .with_state(shared.clone())
            .merge(grpc.into_axum_router());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("runtime");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listens");
            let _ = axum::serve(listener, app).await;
        });
        Self {
            url,
            shared,
            runtime: Some(runtime),
        }
    }

    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().expect("lock") = answer;
    }

    pub fn set_phase(&self, change: PhaseChange) {
        self.shared.phase.send_replace(change);
    }

    pub fn set_load(&self, load: Load) {
        self.shared.load.send_replace(load);
    }

    /// Leaves a number out of its telemetry.
    pub fn skip_a_message(&self) {
        self.shared.skip.send_modify(|count| *count += 1);
    }

    /// Breaks every telemetry stream, and refuses new ones while `speaks_grpc` is false.
    pub fn cut_telemetry(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    pub fn allow_event(&self) {
        self.shared.event_permits.add_permits(1);
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub fn dropped(&self) -> usize {
        self.shared.dropped.load(Ordering::SeqCst)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn phase(phase: Phase, done: u64, total: u64) -> PhaseChange {
    PhaseChange {
        phase: phase.into(),
        done,
        total,
        message: String::new(),
    }
}

/// Counts a running request, and one that is dropped before its end.
struct Running {
    shared: Arc<Shared>,
    is_finished: bool,
}

impl Running {
    fn new(shared: Arc<Shared>) -> Self {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_running.fetch_max(running, Ordering::SeqCst);
        Self {
            shared,
            is_finished: false,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
        if !self.is_finished {
            self.shared.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> StatusCode {
    match shared.phase.borrow().phase() {
        Phase::Ready => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn complete(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut running = Running::new(shared.clone());
    let is_stream = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["stream"] == true);
    shared.seen.lock().expect("lock").push((headers, uri, body));
    let answer = shared.answer.lock().expect("lock").clone();
    match answer {
        Answer::Ok(pause) => {
            tokio::time::sleep(pause).await;
            running.is_finished = true;
            if is_stream {
                let events = format!("data: {{\"replica\":\"{}\"}}\n\ndata: [DONE]\n\n", shared.name);
                return ([("content-type", "text/event-stream")], events).into_response();
            }
            let usage = json!({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8});
            axum::Json(json!({"replica": shared.name, "usage": usage})).into_response()
        }
        Answer::Status(status) => {
            running.is_finished = true;
            let body: Value =
                json!({"error": {"message": "as told", "type": "t", "param": null, "code": null}});
            let status = StatusCode::from_u16(status).expect("status");
            (status, axum::Json(body)).into_response()
        }
        Answer::Events(count) => events(shared, running, count, false),
        Answer::EventThenHang => {
            shared.event_permits.add_permits(1);
            events(shared, running, 1, true)
        }
    }
}

fn events(shared: Arc<Shared>, running: Running, count: usize, hangs: bool) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        let mut running = running;
        for index in 0..count {
            tokio::select! {
                permit = shared.event_permits.acquire() => permit.expect("open").forget(),
                () = sender.closed() => return,
            }
            shared.events_made.fetch_add(1, Ordering::SeqCst);
            let event = format!("data: {{\"replica\":\"{}\",\"n\":{index}}}\n\n", shared.name);
            if sender.send(Ok(event.into())).await.is_err() {
                return;
            }
        }
        if hangs {
            sender.closed().await;
            return;
        }
        running.is_finished = true;
        let _ = sender.send(Ok("data: [DONE]\n\n".into())).await;
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([("content-type", "text/event-stream")], body).into_response()
}

struct TelemetryService(Arc<Shared>);

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<TelemetryEvent, Status>> + Send>>;

    async fn watch(
        &self,
        _: tonic::Request<WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let shared = self.0.clone();
        if !shared.speaks_grpc.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("as told"));
        }
        shared.watches.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(tell(shared, sender));
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn tell(shared: Arc<Shared>, sender: mpsc::Sender<Result<TelemetryEvent, Status>>) {
    let (mut phases, mut loads) = (shared.phase.subscribe(), shared.load.subscribe());
    let (mut skips, mut cuts) = (shared.skip.subscribe(), shared.cut.subscribe());
    let card = ModelCard {
        served_names: shared.served_names.lock().expect("lock").clone(),
        max_model_len: 2048,
        ..ModelCard::default()
    };
    let first = Event::Phase(phases.borrow_and_update().clone());
    let mut sequence = 0;
    let mut pending = vec![Event::Card(card), first];
    loop {
        while let Some(event) = pending.pop() {
            sequence += 1;
            let message = TelemetryEvent {
                sequence,
                event: Some(event),
            };
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            _ = phases.changed() => pending.push(Event::Phase(phases.borrow_and_update().clone())),
            _ = loads.changed() => pending.push(Event::Load(*loads.borrow_and_update())),
            _ = skips.changed() => {
                sequence += 1;
                pending.push(Event::Load(Load::default()));
            }
            _ = cuts.changed() => return,
            () = sender.closed() => return,
        }
    }
}
