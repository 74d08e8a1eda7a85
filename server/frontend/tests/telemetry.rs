//! The telemetry stream as a router sees it.

mod harness;

use ferrum_api::telemetry::{
    KvBlockEvent, TelemetryEvent, WatchRequest, byte_hash, kv_block_event, phase_change::Phase as WirePhase,
    telemetry_client::TelemetryClient, telemetry_event::Event,
};
use ferrum_engine::Phase;
use ferrum_frontend::FrontendConfig;
use ferrum_sim::SimConfig;
use harness::{LIMIT, Server, chat, chat_request, launch_config, loading};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

const CHAT: &str = "/v1/chat/completions";

/// A stream that checks its sequence numbers.
struct Watched {
    stream: Streaming<TelemetryEvent>,
    sequence: u64,
}

impl Watched {
    async fn open(server: &Server, kv_blocks: bool) -> Self {
        let mut client = TelemetryClient::connect(server.url.clone())
            .await
            .expect("connects");
        let request = WatchRequest {
            router_id: "test".to_owned(),
            kv_blocks,
        };
        let stream = client.watch(request).await.expect("a stream").into_inner();
        Self { stream, sequence: 0 }
    }

    /// The next event, `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        let event = timeout(LIMIT, self.stream.message())
            .await
            .expect("in time")
            .expect("no error")?;
        self.sequence += 1;
        assert_eq!(event.sequence, self.sequence);
        event.event
    }

    async fn phase(&mut self) -> WirePhase {
        match self.next().await {
            Some(Event::Phase(change)) => change.phase(),
            other => panic!("{other:?}"),
        }
    }

    async fn blocks(&mut self, count: usize) -> Vec<KvBlockEvent> {
        let mut blocks = Vec::new();
        while blocks.len() < count {
            if let Some(Event::KvBlocks(more)) = self.next().await {
                blocks.extend(more.events);
            }
        }
        blocks
    }
}

#[tokio::test]
async fn a_router_that_came_early_hears_phases_then_the_card_then_ready() {
    let server = loading(
        FrontendConfig::new("127.0.0.1", 0),
        launch_config(),
        SimConfig::default(),
    )
    .await;
    let mut watched = Watched::open(&server, false).await;
    assert_eq!(watched.phase().await, WirePhase::Starting);
    server.set_phase(Phase::Loading { done: 3, total: 10 });
    let Some(Event::Phase(loading)) = watched.next().await else {
        panic!("no phase")
    };
    assert_eq!(
        (loading.phase(), loading.done, loading.total),
        (WirePhase::Loading, 3, 10)
    );
    server.install().await;
    let Some(Event::Card(card)) = watched.next().await else {
        panic!("no card")
    };
    assert_eq!(card.served_names, ["sim", "org/other"]);
    assert_eq!(
        (card.task.as_str(), card.block_size, card.max_model_len),
        ("chat", 16, 8192)
    );
    assert!(
        card.chat_template
            .is_some_and(|template| template.contains("im_start"))
    );
    assert!(matches!(watched.next().await, Some(Event::Load(load)) if load.total_blocks == 16_384));
    assert_eq!(watched.phase().await, WirePhase::Ready);
}

#[tokio::test]
async fn a_router_that_came_late_hears_the_phase_first_and_the_drain_and_the_end() {
    let mut server = chat(SimConfig {
        tpot_ms: 5,
        ..SimConfig::default()
    })
    .await;
    let mut watched = Watched::open(&server, false).await;
    assert_eq!(watched.phase().await, WirePhase::Ready);
    assert!(matches!(watched.next().await, Some(Event::Card(_))));
    let running = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    server.shut_down();
    let drained = async {
        loop {
            match watched.next().await {
                Some(Event::Phase(change)) if change.phase() == WirePhase::Draining => break,
                Some(_) => {}
                None => panic!("ended before it drained"),
            }
        }
        while watched.next().await.is_some() {}
    };
    tokio::join!(drained, harness::events(running));
    server.ended().await.expect("a clean end");
}

#[tokio::test]
async fn load_is_told_while_something_runs_but_seldom() {
    let server = chat(SimConfig {
        tpot_ms: 5,
        answer_tokens: 100,
        ..SimConfig::default()
    })
    .await;
    let mut watched = Watched::open(&server, false).await;
    let start = Instant::now();
    let answer = async {
        // More changes of load than may be told.
        for _ in 0..40 {
            server
                .post_json(CHAT, &chat_request(json!({"max_tokens": 1})), StatusCode::OK)
                .await;
        }
        server
            .post_json(CHAT, &chat_request(json!({})), StatusCode::OK)
            .await
    };
    let loads = async {
        let (mut count, mut seen_running) = (0, false);
        loop {
            let Some(event) = watched.next().await else {
                panic!("ended")
            };
            let Event::Load(load) = event else { continue };
            count += 1;
            seen_running |= load.running_requests == 1;
            if load.generated_tokens_total >= 140 && load.running_requests == 0 {
                return (count, seen_running);
            }
        }
    };
    let (_, (count, seen_running)) = tokio::join!(answer, loads);
    assert!(seen_running);
    // One in 100 ms, the first, and one more for each of those that ended in a busy state that was told.
    let bound = 2 + 2 * start.elapsed().as_millis() / 100;
    assert!(count <= bound, "{count} in {:?}", start.elapsed());
}

#[tokio::test]
async fn cached_blocks_are_told_in_bytes_of_the_prompt_with_a_snapshot_for_latecomers() {
    let server = chat(SimConfig::default()).await;
    let mut early = Watched::open(&server, true).await;
    let request =
        chat_request(json!({"messages": [{"role": "user", "content": "Grüße, 世界! How are you?"}]}));
    server.post_json(CHAT, &request, StatusCode::OK).await;
    let prompt = "<|im_start|>user\nGrüße, 世界! How are you?<|im_end|>\n<|im_start|>assistant\n";
    // 16 tokens each: a special token, or a byte.
    let first = &prompt.as_bytes()[.."<|im_start|>".len() + 15];
    let second = &prompt.as_bytes()[first.len()..first.len() + 16];
    let told = early.blocks(3).await;
    let stored: Vec<_> = told
        .iter()
        .map(|event| match &event.event {
            Some(kv_block_event::Event::Stored(block)) => *block,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        (stored[0].byte_len as usize, stored[0].byte_hash),
        (first.len(), byte_hash(first))
    );
    assert_eq!(
        (stored[1].byte_len as usize, stored[1].byte_hash),
        (second.len(), byte_hash(second))
    );
    assert_eq!((stored[0].parent, stored[1].parent), (None, Some(stored[0].hash)));
    let mut late = Watched::open(&server, true).await;
    assert_eq!(late.blocks(3).await, told);
}

#[tokio::test]
async fn evicted_blocks_are_told_and_leave_the_snapshot() {
    let sim = SimConfig {
        kv_blocks: 6,
        ..SimConfig::default()
    };
    let server = chat(sim).await;
    let mut watched = Watched::open(&server, true).await;
    for text in ["aaaa", "bbbb", "cccc"] {
        // 48 tokens: three full blocks of the prompt.
        let body = json!({"model": "sim", "prompt": text.repeat(12), "max_tokens": 1});
        server.post_json("/v1/completions", &body, StatusCode::OK).await;
    }
    let told = watched.blocks(12).await;
    let evicted = |events: &[KvBlockEvent]| {
        events
            .iter()
            .filter(|event| matches!(event.event, Some(kv_block_event::Event::Evicted(_))))
            .count()
    };
    assert_eq!((told.len(), evicted(&told)), (12, 3));
    let mut late = Watched::open(&server, true).await;
    let snapshot = late.blocks(6).await;
    assert_eq!((snapshot.len(), evicted(&snapshot)), (6, 0));
}
