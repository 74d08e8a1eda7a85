//! Writes crds/generated/.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("ferrummodels.yaml"), ferrum_crds::crd_yaml())
}
