//! Broken manifests that the API server itself must refuse, with words that help.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // the refusals are what the test shows, with --nocapture

use anyhow::{Result, ensure};
use ferrum_e2e::cluster::{
    BrokenManifest, Expectation, apply, broken_manifests, install_definition, objects, with_temp_ns,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_wrong_in_itself_is_refused_with_the_text_of_its_header() -> Result<()> {
    with_temp_ns(|client, namespace| async move {
        install_definition(&client).await?;
        let mut wrong = Vec::new();
        let mut refused = 0;
        for manifest in broken_manifests()? {
            let BrokenManifest {
                name,
                expectation: Expectation::Refused(expected),
                text,
                ..
            } = manifest
            else {
                continue;
            };
            let mut answer = None;
            for object in objects(&text)? {
                if let Err(error) = apply(&client, &namespace, &object).await {
                    answer = Some(format!("{error:#}"));
                    break;
                }
            }
            match answer {
                Some(answer) if answer.contains(&expected) => {
                    println!("{name}: {answer}");
                    refused += 1;
                }
                Some(answer) => wrong.push(format!("{name}: expected `{expected}`, got `{answer}`")),
                None => wrong.push(format!("{name}: accepted, expected `{expected}`")),
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of the manifests:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        ensure!(refused > 0, "no manifest is to be refused by the API server");
        println!("{refused} manifests refused");
        Ok(())
    })
    .await
}
