use super::*;

fn sample(start: Instant, first_ms: u64, step_ms: u64, tokens: u64) -> Sample {
    let pieces: Vec<_> = (0..tokens)
        .map(|i| Duration::from_millis(first_ms + i * step_ms))
        .collect();
    let total = *pieces.last().expect("tokens");
    let output_tokens = pieces.len();
    Sample {
        sent: start,
        pieces,
        total,
        prompt_tokens: 100,
        cached_tokens: 20,
        output_tokens,
    }
}

fn round(samples: &[(u64, u64, u64)]) -> Round {
    let start = Instant::now();
    let samples: Vec<_> = samples
        .iter()
        .map(|(first, step, tokens)| sample(start, *first, *step, *tokens))
        .collect();
    let wall = samples.iter().map(|sample| sample.total).max().expect("samples");
    Round {
        wall,
        samples,
        failures: Vec::new(),
        start,
    }
}

fn close(value: Option<f64>, expected: f64) {
    let value = value.expect("a rate");
    assert!(
        (value - expected).abs() < expected * 1e-9,
        "{value} is not {expected}"
    );
}

#[test]
fn prefill_ends_with_the_last_first_token() {
    // 2 prompts of 80 uncached tokens, all read after 200 ms.
    close(round(&[(100, 10, 5), (200, 10, 5)]).prefill_rate(), 160.0 / 0.2);
}

#[test]
fn decode_counts_only_while_every_sequence_decodes() {
    // From 200 ms to 300 ms: ten tokens of each.
    close(round(&[(100, 10, 31), (200, 10, 11)]).decode_rate(), 20.0 / 0.1);
    assert_eq!(
        round(&[(100, 10, 2), (500, 10, 2)]).decode_rate(),
        None,
        "they never decode together"
    );
}

#[test]
fn the_hosts_share_is_of_the_time_between() {
    let times = |device: f64, host: f64| {
        let mut times = StepTimes::default();
        times.device.add(device);
        times.host.add(host);
        times
    };
    close(host_share(&times(1.0, 3.0), &times(10.0, 4.0)), 0.1);
    assert_eq!(host_share(&times(1.0, 3.0), &times(1.0, 3.0)), None, "no step");
}

#[test]
fn a_summary_adds_up() {
    let figures = summarise(Task::Chat, 2, &[round(&[(100, 10, 11), (100, 10, 11)])]);
    assert_eq!(
        (figures.requests, figures.prompt_tokens, figures.output_tokens),
        (2, 200, 22)
    );
    assert!((figures.requests_per_second - 10.0).abs() < 1e-9);
    let ttft = figures.ttft_ms.expect("a generation has one");
    assert!((ttft.p50 - 100.0).abs() < 0.1, "{}", ttft.p50);
    assert!((figures.tpot_ms.expect("too").p99 - 10.0).abs() < 0.01);
}

#[test]
fn a_median_of_an_even_count_lies_between() {
    assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
    assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
    assert_eq!(median(std::iter::empty()), None);
}
