//! Routers that know nothing of each other, before the same replicas.

use std::time::Duration;

use ferrum_sim::SimConfig;
use futures_util::future::join_all;

use crate::support::{Harness, chat, engine::SimServer, streamed_chat};

/// Slow enough that requests pile up.
fn slow() -> SimConfig {
    SimConfig {
        ttft_ms: 100,
        tpot_ms: 10,
        ..SimConfig::default()
    }
}

#[tokio::test]
async fn two_routers_share_the_replicas_evenly_by_what_the_engines_tell() {
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(SimServer::start(slow()).await);
    }
    let urls: Vec<_> = engines.iter().map(|engine| engine.url.clone()).collect();
    let (one, two) = (Harness::start(&urls, 4).await, Harness::start(&urls, 4).await);
    let mut most = 0;
    let body = || {
        let mut body = streamed_chat();
        body["max_tokens"] = 20.into();
        body
    };
    let asked = async {
        let waves = (0..4).map(|wave| {
            let (one, two) = (&one, &two);
            async move {
                tokio::time::sleep(Duration::from_millis(40 * wave)).await;
                join_all((0..8).map(|index| (if index % 2 == 0 { one } else { two }).stream(body()))).await
            }
        });
        join_all(waves).await
    };
    let looked = async {
        loop {
            let load = |engine: &SimServer| engine.load().running_requests + engine.load().waiting_requests;
            most = most.max(engines.iter().map(load).max().unwrap_or(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answers = tokio::select! {
        answers = asked => answers,
        () = looked => unreachable!("it looks for ever"),
    };
    let mut answers = answers.iter().flatten();
    assert!(answers.all(|(status, text)| *status == 200 && text.ends_with("data: [DONE]\n\n")));
    // 32 requests at a time on 4 replicas: 8 each. Were each router blind to the other, the same replica could get 16.
    assert!(most <= 11, "{most} requests on one replica");
}

#[tokio::test]
async fn a_replica_that_another_router_has_filled_is_not_asked_twice() {
    use crate::support::fake::{Answer, FakeEngine};
    let (full, free) = (FakeEngine::start("full").await, FakeEngine::start("free").await);
    full.answer(Answer::Status(429));
    let harness = Harness::start(&[full.url.clone(), free.url.clone()], 2).await;
    let answers = join_all((0..20).map(|_| harness.ask(chat()))).await;
    assert!(
        answers
            .iter()
            .all(|(status, body)| *status == 200 && body["replica"] == "free"),
        "{answers:?}"
    );
}
