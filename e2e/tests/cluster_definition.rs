//! The FerrumModel definition on a real API server.
#![cfg(feature = "cluster")]

use std::{fs, path::Path};

use anyhow::{Context, Result};
use ferrum_crds::{FerrumModel, names};
use ferrum_e2e::cluster::{apply, install_definition, objects, with_temp_ns};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_definition_is_served_with_its_short_name_categories_and_scale() -> Result<()> {
    with_temp_ns(|client, namespace| async move {
        let definition = install_definition(&client).await?;
        let conditions = definition
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        for condition in &conditions {
            assert_ne!(
                (condition.type_.as_str(), condition.status.as_str()),
                ("NonStructuralSchema", "True"),
                "{:?}",
                condition.message
            );
        }
        let served = client.list_api_group_resources(names::API_VERSION).await?;
        let model = served
            .resources
            .iter()
            .find(|resource| resource.kind == names::KIND && resource.name == "ferrummodels")
            .context("ferrummodels is not served")?;
        assert_eq!(model.short_names.as_deref(), Some(&["fm".to_owned()][..]));
        assert_eq!(
            model.categories.as_deref(),
            Some(&["all".to_owned(), "ferrum".to_owned()][..])
        );

        let manifest = json!({
            "apiVersion": names::API_VERSION,
            "kind": names::KIND,
            "metadata": {"name": "scaled"},
            "spec": {"model": "hf://org/model", "replicas": 1},
        });
        apply(&client, &namespace, &manifest).await?;
        let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
        models
            .patch_scale("scaled", &PatchParams::default(), &scale)
            .await?;
        assert_eq!(models.get("scaled").await?.spec.replicas, Some(3));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_is_accepted_as_it_stands() -> Result<()> {
    with_temp_ns(|client, namespace| async move {
        install_definition(&client).await?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut applied = 0;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for object in objects(&fs::read_to_string(&path)?)? {
                let stored = apply(&client, &namespace, &object)
                    .await
                    .with_context(|| path.display().to_string())?;
                assert_eq!(object["metadata"]["name"], Value::from(stored.name_any()));
                applied += 1;
            }
        }
        assert!(applied > 0, "{}: no examples", folder.display());
        Ok(())
    })
    .await
}
