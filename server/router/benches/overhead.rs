//! What the router adds to a request: `cargo bench -p ferrum-router --bench overhead`.
//!
//! One upstream process, one router process, and this one as the client. At a fixed rate, direct and routed requests
//! take turns, so that both see the same machine; the router's CPU time is read from the kernel. Whole answers and
//! streams of 16 events are measured apart. About 30 seconds in all.
#![allow(clippy::print_stdout)] // it prints a table

use std::{
    convert::Infallible,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Json, body::Body, response::IntoResponse, routing::post};
use bytes::Bytes;
use ferrum_engine::Task;
use ferrum_router::{Endpoints, ModelEntry, ReplicaEntry, Router, RouterConfig};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Routed requests a second; as many direct ones come in between.
const RATE: u32 = 50;
/// Length of each of the two measurements.
const MEASURE: Duration = Duration::from_secs(12);
/// Length of the measurement without requests.
const IDLE: Duration = Duration::from_secs(3);
/// Requests before anything is measured.
const WARM_UP: u32 = 50;
/// Events of a stream, and the time between two.
const EVENTS: usize = 16;
const EVENT_INTERVAL: Duration = Duration::from_millis(5);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    match args.first().map(String::as_str) {
        Some("upstream") => runtime.block_on(upstream()),
        Some("router") => runtime.block_on(router(&args[1])),
        _ if args.iter().any(|arg| arg == "--bench") => runtime.block_on(measure()),
        _ => {} // `cargo test --all-targets` runs it too
    }
}

async fn upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    println!("{}", listener.local_addr().expect("address"));
    let app = axum::Router::new()
        .route("/health", axum::routing::get(async || "ok"))
        .route("/v1/chat/completions", post(complete));
    axum::serve(listener, app).await.expect("serves");
}

async fn complete(Json(request): Json<Value>) -> axum::response::Response {
    if request["stream"] != true {
        let message = json!({"role": "assistant", "content": "word ".repeat(64)});
        let usage = json!({"prompt_tokens": 64, "completion_tokens": 64, "total_tokens": 128});
        let answer =
            json!({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message}], "usage": usage});
        return Json(answer).into_response();
    }
    let events = futures_util::stream::unfold(0, |index| async move {
        let event = match index {
            0..EVENTS => {
                "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n"
            }
            EVENTS => "data: [DONE]\n\n",
            _ => return None,
        };
        if index > 0 {
            tokio::time::sleep(EVENT_INTERVAL).await;
        }
        Some((
            Ok::<_, Infallible>(Bytes::from_static(event.as_bytes())),
            index + 1,
        ))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

async fn router(endpoints: &str) {
    let router = Router::bind(RouterConfig::new(endpoints)).await.expect("binds");
    println!("{}", router.local_addr());
    router.serve(std::future::pending()).await;
}

async fn measure() {
    let upstream = Process::start(&["upstream"]);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("endpoints.json");
    write_endpoints(&path, &upstream.address);
    let router = Process::start(&["router", path.to_str().expect("a text path")]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .build()
        .expect("client");
    let url = |process: &Process| format!("http://{}/v1/chat/completions", process.address);
    let urls = [url(&upstream), url(&router)];
    for stream in [false, true] {
        for _ in 0..WARM_UP {
            request(&client, &urls[1], stream).await; // the router holds the first one until its replica is ready
            request(&client, &urls[0], stream).await;
        }
    }
    println!(
        "{RATE} routed and {RATE} direct requests a second, taking turns, {} s each",
        MEASURE.as_secs()
    );
    println!(
        "answer        direct p50 / p99    routed p50 / p99    added p50 / p99     router CPU a request"
    );
    for (name, stream) in [("whole", false), ("first event", true)] {
        let before = router.cpu();
        let [mut direct, mut routed] = run(&client, &urls, stream).await;
        let cpu = (router.cpu() - before) / u32::try_from(routed.len()).expect("few");
        let (direct, routed) = (Percentiles::of(&mut direct), Percentiles::of(&mut routed));
        let added = Percentiles {
            p50: routed.p50 - direct.p50,
            p99: routed.p99 - direct.p99,
        };
        println!(
            "{name:<12} {direct}  {routed}  {added}     {:.3} ms",
            cpu.as_secs_f64() * 1e3
        );
    }
    let before = router.cpu();
    tokio::time::sleep(IDLE).await;
    let idle = (router.cpu() - before).as_secs_f64() / IDLE.as_secs_f64();
    println!("idle: {idle:.4} cores, {:.1} MiB resident", router.resident_mib());
    println!("targets: added 0.4 / 1 ms, 0.3 ms CPU a request, idle 0.004 cores and 75 MiB");
}

/// Times until the whole answer, or the first event: direct and routed.
async fn run(client: &reqwest::Client, urls: &[String; 2], stream: bool) -> [Vec<f64>; 2] {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (2 * RATE));
    let end = Instant::now() + MEASURE;
    let mut requests: [Vec<_>; 2] = Default::default();
    for turn in (0..2).cycle() {
        if Instant::now() > end {
            break;
        }
        ticks.tick().await;
        let (client, url) = (client.clone(), urls[turn].clone());
        requests[turn].push(tokio::spawn(async move { request(&client, &url, stream).await }));
    }
    let mut times: [Vec<f64>; 2] = Default::default();
    for (times, requests) in times.iter_mut().zip(requests) {
        for request in requests {
            times.push(request.await.expect("no panic"));
        }
    }
    times
}

/// Milliseconds until the answer, or its first event; reads it to its end.
async fn request(client: &reqwest::Client, url: &str, stream: bool) -> f64 {
    let content = "a question of ordinary length ".repeat(8);
    let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]});
    let began = Instant::now();
    let response = client.post(url).json(&body).send().await.expect("answers");
    assert_eq!(response.status(), 200);
    let mut pieces = response.bytes_stream();
    let mut first = None;
    while let Some(piece) = pieces.next().await {
        piece.expect("whole");
        first.get_or_insert_with(|| began.elapsed());
    }
    let time = if stream {
        first.expect("an event")
    } else {
        began.elapsed()
    };
    time.as_secs_f64() * 1e3
}

fn write_endpoints(path: &Path, address: &str) {
    let endpoints = Endpoints {
        generation: 1,
        models: vec![ModelEntry {
            name: "m".to_owned(),
            served_names: vec!["m".to_owned()],
            task: Task::Chat,
            message: None,
            phase: None,
        }],
        replicas: vec![ReplicaEntry {
            id: "r0".to_owned(),
            model: "m".to_owned(),
            url: format!("http://{address}"),
            draining: false,
        }],
    };
    endpoints.write_atomically(path).expect("writes");
}

/// Milliseconds.
#[derive(Clone, Copy)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(times: &mut [f64]) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Self {
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>6.3} / {:>6.3} ms", self.p50, self.p99)
    }
}

/// This program again, in another part; it ends with this value.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("an address");
        Self {
            child,
            address: line.trim().to_owned(),
        }
    }

    /// CPU time of all its threads.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process");
        let nanoseconds = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a size");
        let kib: f64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .expect("a number");
        kib / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
