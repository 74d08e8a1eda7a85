//! `ferrum bench` over real engines.

mod support;

use serde_json::Value;
use support::{
    checkpoint::{tiny_bert, tiny_llama},
    ferrum, output, stderr, stdout,
};

#[test]
fn a_decoder_is_measured_at_each_concurrency() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_llama(home.path());
    let mut command = ferrum(home.path());
    command.arg("bench").arg(&model).args([
        "--concurrency",
        "1,3",
        "--prompt-tokens",
        "40",
        "--output-tokens",
        "8",
    ]);
    let result = output(command.args(["--requests", "6", "--seed", "1", "--threads", "1", "--json"]));
    assert!(result.status.success(), "{}", stderr(&result));
    let report: Value = serde_json::from_slice(&result.stdout).expect("is JSON");
    assert_eq!(report["schema"], "ferrum.bench/v1");
    assert_eq!(report["model"]["task"], "chat");
    assert!(report["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    for (figures, concurrency) in report["results"].as_array().expect("results").iter().zip([1, 3]) {
        assert_eq!(figures["concurrency"], concurrency);
        assert_eq!(
            (&figures["requests"], &figures["failed"]),
            (&6.into(), &0.into()),
            "{figures}"
        );
        assert_eq!(
            figures["output_tokens"], 48,
            "an answer has exactly the tokens asked for"
        );
        assert_eq!(figures["cached_tokens"], 0, "prompts are distinct");
        let positive = |rate: &str| figures[rate].as_f64().is_some_and(|rate| rate > 0.0);
        assert!(
            positive("prefill_tokens_per_second") && positive("requests_per_second"),
            "{figures}"
        );
        // Several answers this short may, on a busy machine, never be seen to decode at the same time.
        assert!(
            positive("decode_tokens_per_second") || concurrency > 1,
            "{figures}"
        );
        let (ttft, latency) = (&figures["ttft_ms"]["p50"], &figures["latency_ms"]["p50"]);
        assert!(ttft.as_f64() <= latency.as_f64(), "{figures}");
    }
}

#[test]
fn a_shared_prefix_is_read_from_the_cache() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_llama(home.path());
    let mut command = ferrum(home.path());
    command.arg("bench").arg(&model).args([
        "--concurrency",
        "1",
        "--prompt-tokens",
        "64",
        "--output-tokens",
        "2",
    ]);
    let result = output(command.args(["--shared-prefix", "48", "--requests", "2", "--json"]));
    let report: Value = serde_json::from_slice(&result.stdout).expect("is JSON");
    // The warm-up round has filled the three blocks of the prefix.
    assert_eq!(
        report["results"][0]["cached_tokens"],
        2 * 48,
        "{}",
        stderr(&result)
    );
}

#[test]
fn an_encoder_is_measured_in_texts() {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = ferrum(home.path());
    command
        .arg("bench")
        .arg(tiny_bert())
        .args(["--prompt-tokens", "16", "--concurrency", "2"]);
    let result = output(&mut command);
    assert!(result.status.success(), "{}", stderr(&result));
    assert!(stdout(&result).contains("TEXTS/s"), "{}", stdout(&result));
}

#[test]
fn a_length_that_the_model_does_not_have_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_llama(home.path());
    let result = output(
        ferrum(home.path())
            .arg("bench")
            .arg(&model)
            .args(["--prompt-tokens", "512"]),
    );
    assert_eq!(result.status.code(), Some(2));
    assert!(
        stderr(&result).contains("expected at most 512 together"),
        "{}",
        stderr(&result)
    );
}
