//! The hub of the test cluster: `e2e-hub ADDRESS MODELS FIXTURES`.
//!
//! MODELS has the real weights (`make models`), FIXTURES the tiny checkpoints of the engine's tests. Broken repositories
//! are made from those at the start, in a temporary folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ferrum_e2e::hub::{Repo, routes};
use serde_json::Value;

/// Token of `test/private`.
const TOKEN: &str = "hf_test";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, models, fixtures] = arguments.as_slice() else {
        anyhow::bail!("usage: e2e-hub ADDRESS MODELS FIXTURES");
    };
    let broken = tempfile::tempdir()?;
    let repos = repos(Path::new(models), Path::new(fixtures), broken.path())?;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    axum::serve(listener, routes(repos)).await?;
    Ok(())
}

fn repos(models: &Path, fixtures: &Path, broken: &Path) -> anyhow::Result<BTreeMap<String, Repo>> {
    let smollm2 = models.join("smollm2-135m-instruct");
    // The fixture has no tokenizer; a download wants one beside the weights.
    let tiny = variant(&fixtures.join("tiny-llama"), broken, "tiny", |folder| {
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(smollm2.join(name), folder.join(name))?;
        }
        Ok(())
    })?;
    let tiny_repo = || Repo::of_folder(&tiny);
    let truncated = variant(&tiny, broken, "truncated", |folder| {
        let weights = folder.join("model.safetensors");
        let half = fs::metadata(&weights)?.len() / 2;
        Ok(fs::File::options().write(true).open(weights)?.set_len(half)?)
    })?;
    let unsupported = variant(&tiny, broken, "unsupported", |folder| {
        edit_config(folder, |config| {
            config["architectures"] = serde_json::json!(["MambaForCausalLM"]);
            config["model_type"] = serde_json::json!("mamba");
        })
    })?;
    let three_heads = variant(&tiny, broken, "three-heads", |folder| {
        edit_config(folder, |config| {
            config["num_attention_heads"] = serde_json::json!(3);
            config["num_key_value_heads"] = serde_json::json!(3);
        })
    })?;
    let gguf = models.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let repos = [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", Repo::of_folder(&smollm2)?),
        ("test/smollm2-gguf", Repo::of_file(&gguf)?),
        ("sentence-transformers/all-MiniLM-L6-v2", minilm(models)?),
        ("test/tiny", tiny_repo()?),
        ("test/private", tiny_repo()?.private(TOKEN)),
        ("test/gated", tiny_repo()?.gated()),
        ("test/damaged", tiny_repo()?.damaged("model.safetensors")),
        ("test/truncated", Repo::of_folder(&truncated)?),
        ("test/slow", Repo::of_file(&gguf)?.slow(8_000_000)),
        ("test/three-heads", Repo::of_folder(&three_heads)?),
        ("test/unsupported", Repo::of_folder(&unsupported)?),
    ];
    Ok(repos
        .into_iter()
        .map(|(name, repo)| (name.to_owned(), repo))
        .collect())
}

fn minilm(models: &Path) -> anyhow::Result<Repo> {
    Repo::of_folder(&models.join("all-minilm-l6-v2"))
}

/// A copy of a checkpoint with one thing wrong.
fn variant(
    original: &Path,
    parent: &Path,
    name: &str,
    spoil: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir(&folder)?;
    for entry in original
        .read_dir()
        .with_context(|| original.display().to_string())?
    {
        let path = entry?.path();
        fs::copy(&path, folder.join(path.file_name().context("a name")?))?;
    }
    spoil(&folder)?;
    Ok(folder)
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path)?)?;
    edit(&mut config);
    Ok(fs::write(path, serde_json::to_vec(&config)?)?)
}
