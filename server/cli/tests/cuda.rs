//! `ferrum` on a GPU, real or emulated: what its commands answer there, what they tell of it, how they end.

mod support;
mod up_support;

use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{checkpoint::decoder, ferrum, output, server::Server, stderr};
use up_support::{Bench, chat};

const MODEL: &str = "tiny-qwen3";
/// A small cache, in single precision: so that answers are those of the CPU.
const ARGS: [&str; 6] = [
    "--dtype",
    "float32",
    "--max-model-len",
    "128",
    "--kv-cache-memory",
    "8Mi",
];

async fn greedy(http: &Client, url: &str) -> Value {
    let body =
        json!({ "model": MODEL, "prompt": "The quick brown fox", "max_tokens": 24, "temperature": 0.0 });
    let request = http.post(format!("{url}/v1/completions")).json(&body);
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    let answer: Value = answer.json().await.expect("JSON");
    answer["choices"][0].clone()
}

/// The value of a metric, by its name and labels as they are printed.
fn metric(metrics: &str, name: &str) -> f64 {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{name} in\n{metrics}"));
    value.parse().expect("a number")
}

#[tokio::test]
async fn a_server_answers_as_on_the_cpu_tells_of_its_gpu_and_ends_well() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = decoder(home.path(), MODEL);
    let start = |device| {
        let model = [folder.to_str().expect("utf-8"), "--device", device];
        Server::start(home.path(), &[&model[..], &ARGS].concat())
    };
    let http = Client::builder().no_proxy().build().expect("a client");
    let (cpu, mut gpu) = (start("cpu"), start("cuda"));
    assert_eq!(greedy(&http, &gpu.url).await, greedy(&http, &cpu.url).await);

    let metrics = http.get(format!("{}/metrics", gpu.url)).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("text");
    let memory = |kind| {
        metric(
            &metrics,
            &format!("ferrum_engine_gpu_memory_bytes{{kind=\"{kind}\"}}"),
        )
    };
    let parts = memory("weights") + memory("kv_cache");
    assert!(memory("weights") > 0.0 && memory("kv_cache") > 4e6, "{metrics}");
    assert!(parts + memory("free") <= memory("total"), "{metrics}");
    let blocks = metric(&metrics, "ferrum_engine_kv_blocks");
    assert!(blocks >= 8.0, "{metrics}");
    assert_eq!(metric(&metrics, "ferrum_engine_kv_blocks_free"), blocks);
    for part in ["device", "host"] {
        let steps = metric(
            &metrics,
            &format!("ferrum_engine_step_duration_seconds_count{{part=\"{part}\"}}"),
        );
        assert!(steps >= 24.0, "{part}: {steps} steps\n{metrics}");
    }
    gpu.signal(Signal::TERM);
    assert_eq!(gpu.exit_code(), Some(0));
}

#[tokio::test]
async fn a_manifest_that_asks_for_a_gpu_is_served_by_it() {
    let bench = Bench::new();
    let home = tempfile::tempdir().expect("a folder");
    bench.write(&format!(
        "apiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata: {{name: tiny}}\nspec:\n  model: file://{}\n  \
         task: chat\n  device: cuda\n  engine: {{maxModelLen: 128, kvCacheMemory: 8Mi}}\n",
        decoder(home.path(), MODEL).display()
    ));
    let up = bench.start_engines();
    up.await_ready(1);
    let http = Client::builder().no_proxy().build().expect("a client");
    for stream in [true, false] {
        chat(&http, &bench.url(), "tiny", stream)
            .await
            .expect("an answer");
    }
    let told = bench.engine_logs();
    assert!(told.contains("the GPU is ready"), "{told}");
    assert!(up.stop().success(), "{}", bench.log());
    let told = bench.engine_logs();
    assert!(!told.contains("still in use"), "{told}");
}

#[test]
fn more_gpus_than_there_are_is_an_error_that_says_how_many() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = decoder(home.path(), MODEL);
    let mut command = ferrum(home.path());
    command
        .env("CUDA_VISIBLE_DEVICES", "0") // one, however many are there
        .arg("run")
        .arg(folder)
        .args(["Hello", "--device", "cuda", "--tensor-parallel", "2"]);
    let output = output(&mut command);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("2 GPUs were asked for, this machine has 1"),
        "{told}"
    );
}
