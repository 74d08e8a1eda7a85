//! What `make images` makes without a container engine.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use ferrum_e2e::environment;
use serde_json::Value;

const MAX_BYTES: u64 = 60_000_000;

#[test]
fn images_are_small_run_as_nobody_without_a_shell_and_are_the_same_in_every_build() -> Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let built = build(first.path())?;
    assert_eq!(
        digests(&built),
        digests(&build(second.path())?),
        "two builds, two digests"
    );
    for image in ["ferrum", "engine-cpu"] {
        let archive = first.path().join(format!("{image}-test.tar"));
        let bytes = archive.metadata()?.len();
        ensure!(
            bytes < MAX_BYTES,
            "{image} has {bytes} bytes, at most {MAX_BYTES} are allowed"
        );

        let index = read_json(&archive, "index.json")?;
        let listed = &index["manifests"][0];
        assert_eq!(
            listed["annotations"]["io.containerd.image.name"],
            format!("ferrum.dev/{image}:test")
        );
        let manifest = read_json(&archive, &blob(&listed["digest"])?)?;
        let config = &read_json(&archive, &blob(&manifest["config"]["digest"])?)?["config"];
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"], serde_json::json!(["ferrum"]));

        let layer = first.path().join("layer.tar");
        std::fs::write(
            &layer,
            member(&archive, &blob(&manifest["layers"][0]["digest"])?)?,
        )?;
        let files = String::from_utf8(output(Command::new("tar").arg("-tf").arg(&layer))?)?;
        let files: Vec<_> = files.lines().collect();
        for needed in [
            "usr/local/bin/ferrum",
            "etc/passwd",
            "etc/ssl/certs/ca-certificates.crt",
            "tmp/",
        ] {
            assert!(files.contains(&needed), "{image} lacks {needed}: {files:?}");
        }
        let programs: Vec<_> = files
            .iter()
            .filter(|file| file.contains("bin/") && !file.ends_with('/'))
            .collect();
        assert_eq!(programs, [&"usr/local/bin/ferrum"], "{image} has other programs");
    }
    Ok(())
}

/// Builds every image into `folder`; the lines that were printed.
fn build(folder: &Path) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/build.py");
    let mut command = Command::new(script);
    command
        .args(["--engine", "none", "--tag", "test", "--out"])
        .arg(folder);
    command.arg("--binary").arg(environment("FERRUM_BIN"));
    Ok(String::from_utf8(output(&mut command)?)?)
}

/// The second word of each line.
fn digests(lines: &str) -> Vec<&str> {
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect()
}

/// Path in the archive of what a digest names.
fn blob(digest: &Value) -> Result<String> {
    let digest = digest.as_str().context("no digest")?;
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

fn read_json(archive: &Path, name: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&member(archive, name)?)?)
}

fn member(archive: &Path, name: &str) -> Result<Vec<u8>> {
    output(Command::new("tar").arg("-xOf").arg(archive).arg(name))
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(done.stdout)
}
