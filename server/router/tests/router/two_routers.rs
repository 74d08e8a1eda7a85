//! Routers that know nothing of each other, before the same replicas.

use ferrum_sim::SimConfig;
use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::support::{Harness, chat, engine::SimServer, streamed_chat, until};

#[tokio::test]
async fn a_router_counts_what_another_has_sent_and_fills_the_replicas_evenly() {
    // Requests stay where they are, before their first token.
    let hanging = SimConfig {
        hang_after_tokens: Some(0),
        ..SimConfig::default()
    };
    let engines = join_all((0..4).map(|_| SimServer::start(hanging.clone()))).await;
    let urls: Vec<_> = engines.iter().map(|engine| engine.url.clone()).collect();
    // One knows of the first replica only, and fills it.
    let (one, two) = (
        Harness::start(&urls[..1], 1).await,
        Harness::start(&urls, 4).await,
    );
    let requests = || engines.iter().map(|engine| engine.load().running_requests);
    let mut clients = JoinSet::new();
    for asked in 1..=32 {
        let router = if asked <= 8 { &one } else { &two };
        let request = router.client.post(router.url("/v1/chat/completions"));
        clients.spawn(request.json(&streamed_chat()).send());
        until("a replica has it, and the other router has heard", async || {
            let heard = engines.iter().enumerate().map(async |(index, engine)| {
                let told = format!("replica=\"r{index}\"");
                let name = "ferrum_router_replica_queued_prefill_tokens";
                two.metric(name, &told).await == engine.load().queued_prefill_tokens as f64
            });
            requests().sum::<usize>() == asked && join_all(heard).await.into_iter().all(|heard| heard)
        })
        .await;
    }
    // Were the second blind to the first, the first replica would have 14.
    assert_eq!(requests().collect::<Vec<_>>(), [8; 4]);
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
