//! Keys, and what each may use.

use std::{fs, os::unix::fs::symlink, path::Path};

use ferrum_router::{ApiKey, RouterConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Harness, fake::FakeEngine, model, until};

const LIST: &str = "
- {name: a, key: sk-a, models: [m]}
- {name: b, key: sk-b, models: ['*']}
";

/// A file as the kubelet mounts a Secret: a link to a link to a folder that is replaced.
struct Mount(TempDir);

impl Mount {
    fn new(content: &str) -> Self {
        let mount = Self(tempfile::tempdir().expect("folder"));
        mount.swap("one", content);
        symlink("..data/keys.yaml", mount.path()).expect("links");
        mount
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("keys.yaml")
    }

    /// In one step, as the kubelet does.
    fn swap(&self, version: &str, content: &str) {
        let folder = self.0.path();
        fs::create_dir(folder.join(version)).expect("folder");
        fs::write(folder.join(version).join("keys.yaml"), content).expect("writes");
        symlink(version, folder.join("..data_tmp")).expect("links");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renames");
    }
}

/// A router with the models `m` and `secret` on one replica.
async fn harness(engine: &FakeEngine, keys: &Path, set: impl FnOnce(&mut RouterConfig)) -> Harness {
    let mut harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.api_keys_path = Some(keys.to_owned());
        set(config);
    })
    .await;
    harness.rewrite(|endpoints| endpoints.models.push(model("secret")));
    until("both models are known", async || {
        harness.health().await["models"].as_array().map(Vec::len) == Some(2)
    })
    .await;
    harness
}

async fn get(harness: &Harness, key: &str, path: &str) -> (u16, Value) {
    let request = harness.client.get(harness.url(path)).bearer_auth(key);
    let response = request.send().await.expect("answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn ask(harness: &Harness, key: &str, model: &str) -> (u16, Value) {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "x"}]});
    let request = harness.client.post(harness.url("/v1/chat/completions"));
    let response = request.bearer_auth(key).json(&body).send().await;
    let response = response.expect("answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn models(harness: &Harness, key: &str) -> Vec<Value> {
    let (status, list) = get(harness, key, "/v1/models").await;
    assert_eq!(status, 200);
    let models = list["data"].as_array().expect("a list");
    models.iter().map(|model| model["id"].clone()).collect()
}

#[tokio::test]
async fn a_key_sees_and_uses_its_models_and_of_others_not_even_that_they_are() {
    let engine = FakeEngine::start("one").await;
    let mount = Mount::new(LIST);
    let harness = harness(&engine, &mount.path(), |_| {}).await;
    assert_eq!(models(&harness, "sk-a").await, ["m"]);
    assert_eq!(models(&harness, "sk-b").await, ["m", "secret"]);
    assert_eq!(ask(&harness, "sk-a", "m").await.0, 200);
    let (status, hidden) = ask(&harness, "sk-a", "secret").await;
    assert_eq!(status, 404);
    let unknown = ask(&harness, "sk-a", "nothing").await;
    let renamed = hidden.to_string().replace("`secret`", "`nothing`");
    assert_eq!(
        (unknown.0, unknown.1.to_string()),
        (404, renamed),
        "one could tell them apart"
    );
    assert_eq!(get(&harness, "sk-a", "/v1/models/secret").await.0, 404);
    assert_eq!(get(&harness, "sk-b", "/v1/models/secret").await.0, 200);
    for wrong in ["sk-c", "", "sk-"] {
        let (status, body) = ask(&harness, wrong, "m").await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    assert_eq!(
        harness
            .client
            .get(harness.url("/v1/models"))
            .send()
            .await
            .expect("answers")
            .status(),
        401
    );
    let seen = engine.shared.seen.lock().expect("lock");
    assert!(
        seen.iter()
            .all(|(headers, _, _)| !headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn keys_of_a_secret_that_is_replaced_hold_at_once_and_a_broken_one_changes_nothing() {
    let engine = FakeEngine::start("one").await;
    let mount = Mount::new(LIST);
    let harness = harness(&engine, &mount.path(), |_| {}).await;
    assert_eq!(ask(&harness, "sk-new", "m").await.0, 401);
    mount.swap("two", r#"[{"name": "new", "key": "sk-new", "models": ["m"]}]"#);
    until("the new key is good", async || {
        ask(&harness, "sk-new", "m").await.0 == 200
    })
    .await;
    assert_eq!(ask(&harness, "sk-a", "m").await.0, 401);
    mount.swap("three", "- name: half");
    until("the error is counted", async || {
        harness.metric("ferrum_router_keys_errors_total", "").await == 1.0
    })
    .await;
    assert_eq!(ask(&harness, "sk-new", "m").await.0, 200);
    mount.swap("four", "[]");
    until("no key is good", async || {
        ask(&harness, "sk-new", "m").await.0 == 401
    })
    .await;
}

#[tokio::test]
async fn the_key_of_the_command_line_stays_good_for_everything() {
    let engine = FakeEngine::start("one").await;
    let mount = Mount::new(LIST);
    let set = |config: &mut RouterConfig| config.api_key = Some(ApiKey::from("sk-main".to_owned()));
    let harness = harness(&engine, &mount.path(), set).await;
    assert_eq!(models(&harness, "sk-main").await, ["m", "secret"]);
    assert_eq!(models(&harness, "sk-a").await, ["m"]);
}

#[tokio::test]
async fn a_router_does_not_begin_with_a_broken_list_of_keys() {
    let mount = Mount::new("- {name: a, key: sk-hidden}");
    let mut config = RouterConfig::new(mount.0.path().join("endpoints.json"));
    config.api_keys_path = Some(mount.path());
    let error = ferrum_router::Router::bind(config).await.expect_err("refused");
    let message = error.to_string();
    assert!(
        message.contains("keys.yaml") && !message.contains("hidden"),
        "{message}"
    );
}
