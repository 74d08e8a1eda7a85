//! The simulated engine keeps the engine contract.

use std::{sync::Arc, time::Duration};

use ferrum_engine::{
    EmbedRequest, EngineHandle, EngineLoad, Event, EventStream, FinishReason, GenerateRequest, KvEvent,
    LaunchConfig, Phase, SamplingParams, SubmitError, Task, Usage, ValidRequest,
};
use ferrum_sim::{Counters, IM_END, SimConfig, SimEngine, SimError, byte_level_tokenizer, launch};
use tokio::time::timeout;

async fn start(config: LaunchConfig, sim: SimConfig) -> Arc<SimEngine> {
    launch(&config, &sim, |_| {}).await.expect("launches")
}

async fn start_sim(sim: SimConfig) -> Arc<SimEngine> {
    start(LaunchConfig::new("sim"), sim).await
}

fn request(prompt: Vec<u32>, max_tokens: usize, seed: u64) -> ValidRequest {
    ValidRequest::Generate(GenerateRequest {
        id: "test".to_owned(),
        prompt,
        max_tokens,
        sampling: SamplingParams {
            seed,
            ..SamplingParams::default()
        },
        stop_token_ids: vec![IM_END],
    })
}

async fn collect(mut stream: EventStream) -> (Vec<u32>, Event) {
    let mut ids = Vec::new();
    let first = timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("in time");
    assert!(matches!(first, Some(Event::Started { .. })), "{first:?}");
    loop {
        match timeout(Duration::from_secs(10), stream.next())
            .await
            .expect("in time")
            .expect("an event")
        {
            Event::Token { id, .. } => ids.push(id),
            last => return (ids, last),
        }
    }
}

async fn load_becomes(engine: &SimEngine, condition: impl FnMut(&EngineLoad) -> bool) {
    let mut load = engine.load();
    timeout(Duration::from_secs(10), load.wait_for(condition))
        .await
        .expect("in time")
        .expect("alive");
}

#[tokio::test]
async fn the_same_prompt_and_seed_give_the_same_text_that_ends_by_itself() {
    let engine = start_sim(SimConfig::default()).await;
    let run = |seed| collect(engine.submit(request(vec![1, 2, 3], 1000, seed)).expect("taken"));
    let (ids, last) = run(7).await;
    assert_eq!(run(7).await.0, ids);
    assert_ne!(run(8).await.0, ids);
    assert_eq!(ids.last(), Some(&IM_END));
    let Event::Finished {
        reason: FinishReason::Stop,
        usage,
    } = last
    else {
        panic!("{last:?}")
    };
    assert_eq!(
        usage,
        Usage {
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: ids.len()
        }
    );
    let text = byte_level_tokenizer()
        .expect("builds")
        .decode(&ids, true)
        .expect("decodes");
    assert!(!text.contains('\u{fffd}') && text.len() >= 60, "{text}");
}

#[tokio::test]
async fn max_tokens_ends_an_answer() {
    let engine = start_sim(SimConfig::default()).await;
    let (ids, last) = collect(engine.submit(request(vec![1], 5, 0)).expect("taken")).await;
    assert_eq!(ids.len(), 5);
    assert!(matches!(
        last,
        Event::Finished {
            reason: FinishReason::Length,
            ..
        }
    ));
}

#[tokio::test]
async fn a_dropped_stream_frees_its_sequence_in_every_stage() {
    let config = LaunchConfig {
        max_num_seqs: 1,
        ..LaunchConfig::new("sim")
    };
    let sim = SimConfig {
        tpot_ms: 20,
        hang_after_tokens: Some(3),
        ..SimConfig::default()
    };
    let engine = start(config, sim).await;
    let mut decoding = engine.submit(request(vec![1; 20], 100, 0)).expect("taken");
    assert!(matches!(decoding.next().await, Some(Event::Started { .. })));
    assert!(matches!(decoding.next().await, Some(Event::Token { .. })));
    let waiting = engine.submit(request(vec![1; 30], 100, 0)).expect("taken");
    load_becomes(&engine, |load| {
        load.waiting_requests == 1 && load.queued_prefill_tokens == 30
    })
    .await;
    drop(waiting);
    load_becomes(&engine, |load| {
        load.waiting_requests == 0 && load.queued_prefill_tokens == 0
    })
    .await;
    drop(decoding);
    load_becomes(&engine, |load| {
        load.running_requests == 0 && load.free_blocks == load.total_blocks
    })
    .await;
    engine.idle().await;
    let counters = engine.counters();
    assert_eq!(
        counters,
        Counters {
            submitted: 2,
            cancelled: 2,
            ..Counters::default()
        }
    );
}

#[tokio::test]
async fn a_full_queue_and_an_impossible_request_are_refused() {
    let config = LaunchConfig {
        max_num_seqs: 1,
        max_waiting: 1,
        ..LaunchConfig::new("sim")
    };
    let sim = SimConfig {
        hang_after_tokens: Some(0),
        kv_blocks: 4,
        ..SimConfig::default()
    };
    let engine = start(config, sim).await;
    let streams = [0, 1].map(|seed| engine.submit(request(vec![1], 1, seed)).expect("taken"));
    load_becomes(&engine, |load| {
        load.waiting_requests == 1 && load.running_requests == 1
    })
    .await;
    let error = engine.submit(request(vec![1], 1, 2)).expect_err("full");
    assert_eq!(error, SubmitError::QueueFull { waiting: 1, limit: 1 });
    let error = engine.submit(request(vec![1], 64, 2)).expect_err("too large");
    assert_eq!(error, SubmitError::TooLarge { needed: 5, total: 4 });
    drop(streams);
}

#[tokio::test]
async fn a_draining_engine_finishes_what_runs_and_takes_nothing_new() {
    let engine = start_sim(SimConfig {
        tpot_ms: 2,
        ..SimConfig::default()
    })
    .await;
    let running = engine.submit(request(vec![1], 20, 0)).expect("taken");
    engine.drain();
    assert_eq!(
        engine.submit(request(vec![1], 1, 0)).expect_err("draining"),
        SubmitError::Draining
    );
    let (ids, _) = collect(running).await;
    assert_eq!(ids.len(), 20);
    engine.idle().await;
}

#[tokio::test]
async fn a_failure_ends_every_request_and_refuses_new_ones() {
    let engine = start_sim(SimConfig {
        fail_after_tokens: Some(3),
        ..SimConfig::default()
    })
    .await;
    let (ids, last) = collect(engine.submit(request(vec![1], 50, 0)).expect("taken")).await;
    assert!(
        ids.len() >= 3 && matches!(last, Event::Failed(_)),
        "{ids:?} {last:?}"
    );
    assert!(engine.failure().borrow().is_some());
    assert!(matches!(
        engine.submit(request(vec![1], 1, 0)),
        Err(SubmitError::Failed(_))
    ));
    engine.idle().await;
}

#[tokio::test]
async fn phases_come_in_order_and_a_failing_start_says_why() {
    let phases = std::sync::Mutex::new(Vec::new());
    let sim = SimConfig {
        fail_start: Some("no such file".to_owned()),
        start_ms: 20,
        ..SimConfig::default()
    };
    let result = launch(&LaunchConfig::new("sim"), &sim, |phase| {
        phases.lock().expect("lock").push(phase)
    })
    .await;
    assert_eq!(result.err(), Some(SimError::Start("no such file".to_owned())));
    assert_eq!(
        phases.into_inner().expect("lock")[0],
        Phase::Loading { done: 0, total: 10 }
    );
}

#[tokio::test]
async fn a_repeated_prompt_is_cached_and_told_as_kv_events() {
    let engine = start_sim(SimConfig::default()).await;
    let mut events = engine.kv_events();
    let prompt: Vec<u32> = (0..40).collect();
    for cached in [0, 32] {
        let (_, last) = collect(engine.submit(request(prompt.clone(), 1, 0)).expect("taken")).await;
        let Event::Finished { usage, .. } = last else {
            panic!("{last:?}")
        };
        assert_eq!(usage.cached_tokens, cached);
    }
    let Ok(KvEvent::Stored {
        hash,
        parent: None,
        tokens,
    }) = events.try_recv()
    else {
        panic!("no block")
    };
    assert_eq!(tokens, prompt[..16]);
    assert!(matches!(events.try_recv(), Ok(KvEvent::Stored { parent: Some(p), .. }) if p == hash));
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn an_embedding_is_a_unit_vector_of_the_wanted_length() {
    let config = LaunchConfig {
        task: Some(Task::Embedding),
        ..LaunchConfig::new("sim")
    };
    let engine = start(
        config,
        SimConfig {
            embedding_dims: 32,
            ..SimConfig::default()
        },
    )
    .await;
    let embed = |dimensions| {
        let request = EmbedRequest {
            id: "test".to_owned(),
            ids: vec![1, 2],
            dimensions,
        };
        collect(engine.submit(ValidRequest::Embed(request)).expect("taken"))
    };
    let (Event::Embedding { vector, usage }, Event::Embedding { vector: short, .. }) =
        (embed(None).await.1, embed(Some(8)).await.1)
    else {
        panic!("no vector")
    };
    assert_eq!((vector.len(), short.len(), usage.prompt_tokens), (32, 8, 2));
    // A sum of 32 squares rounded to f32 at each step.
    assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 32.0 * f32::EPSILON);
    let error = engine.submit(request(vec![1], 1, 0)).expect_err("wrong task");
    assert_eq!(
        error,
        SubmitError::WrongTask {
            task: Task::Embedding
        }
    );
}
