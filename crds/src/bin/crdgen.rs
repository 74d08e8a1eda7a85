//! Writes crds/generated/ and docs/reference/.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(
        &folder.join("generated/ferrummodels.yaml"),
        &ferrum_crds::crd_yaml(),
    )?;
    write(
        &folder.join("../docs/reference/ferrummodel.md"),
        &ferrum_crds::reference_page(),
    )
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text)
}
