//! The embedding engine over an encoder that is a hash function.

mod support;

use std::sync::mpsc;

use ferrum_engine::{EmbedRequest, EngineError, LaunchConfig, SubmitError, Task, ValidRequest};
use ferrum_kernels::BackendError;
use support::{
    Mock, config, embedding,
    requests::{PATIENCE, collect, embed, generate, wait},
};

fn text(length: usize, salt: u32) -> Vec<u32> {
    (0..length).map(|at| (at as u32 * 5 + salt) % 50).collect()
}

#[test]
fn a_batch_gives_each_text_its_own_vector() {
    let mock = Mock::embedder(&config(), Box::new(|_| Ok(())));
    let texts: Vec<_> = (0..40)
        .map(|salt| text(1 + (salt as usize * 7) % 32, salt))
        .collect();
    let streams: Vec<_> = texts
        .iter()
        .map(|ids| mock.engine.submit(embed(ids.clone())).expect("taken"))
        .collect();
    for (ids, stream) in texts.iter().zip(streams) {
        assert_eq!(collect(stream).vector.as_deref(), Some(&embedding(ids)[..]));
    }
    wait(mock.engine.idle());
    assert!(
        mock.steps()
            .iter()
            .all(|&(texts, tokens)| texts <= 4 && tokens <= 32)
    );
}

#[test]
fn dimensions_shorten_a_vector_to_unit_length() {
    let mock = Mock::embedder(&config(), Box::new(|_| Ok(())));
    let request = EmbedRequest {
        id: String::new(),
        ids: text(5, 1),
        dimensions: Some(2),
    };
    let stream = mock.engine.submit(ValidRequest::Embed(request)).expect("taken");
    let vector = collect(stream).vector.expect("a vector");
    let norm: f32 = vector.iter().map(|x| x * x).sum();
    assert_eq!(vector.len(), 2);
    assert!((norm - 1.0).abs() < 1e-6, "{norm}");
}

#[test]
fn a_text_that_is_cancelled_while_it_waits_is_not_computed() {
    let (permit, permits) = mpsc::channel::<()>();
    let config = LaunchConfig {
        max_num_seqs: 1,
        max_waiting: 2,
        ..config()
    };
    let mock = Mock::embedder(
        &config,
        Box::new(move |_| {
            assert_ne!(
                permits.recv_timeout(PATIENCE),
                Err(mpsc::RecvTimeoutError::Timeout)
            );
            Ok(())
        }),
    );
    let first = mock.engine.submit(embed([1])).expect("taken");
    wait(async {
        while mock.steps().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    let second = mock.engine.submit(embed([2])).expect("taken");
    let third = mock.engine.submit(embed([3])).expect("taken");
    drop(second);
    drop(permit);
    assert!(collect(first).vector.is_some());
    assert!(collect(third).vector.is_some());
    wait(mock.engine.idle());
    assert_eq!(mock.steps().len(), 2);
}

#[test]
fn a_generating_request_is_refused() {
    let mock = Mock::embedder(&config(), Box::new(|_| Ok(())));
    let refused = mock.engine.submit(ValidRequest::Generate(generate([1], 1)));
    assert_eq!(
        refused.err(),
        Some(SubmitError::WrongTask {
            task: Task::Embedding
        })
    );
}

#[test]
fn a_failed_step_fails_every_text() {
    let fail = |_| Err(BackendError::Shape("test".to_owned()));
    let mock = Mock::embedder(&config(), Box::new(fail));
    let failed = match mock.engine.submit(embed([1])) {
        Ok(stream) => collect(stream).failed,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(
        failed,
        Some(EngineError::Fatal("shape mismatch: test".to_owned()))
    );
}
