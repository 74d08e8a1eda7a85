//! Compiles every `cuda/*.cu` to a fatbin and lists them, with the feature `cuda`; with `FERRUM_CUDA_CODE=ptx` to Hopper's PTX
//! instead, a text that a driver compiles when it is loaded, and the emulator of a GPU runs as it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Machine code for Ampere and Hopper, and PTX that the driver compiles for what comes after.
const TARGETS: [&str; 3] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_90,code=compute_90",
];

/// What a source is compiled to.
#[derive(Clone, Copy)]
enum Code {
    Fatbin,
    Ptx,
}

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=FERRUM_CUDA_CODE");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = find_nvcc();
    let code = Code::chosen();
    let mut list = String::from("const IMAGES: &[&Aligned<[u8]>] = &[\n");
    for source in sources() {
        let image = out
            .join(source.file_name().expect("a file"))
            .with_extension(code.extension());
        if is_stale(&image, &source) {
            code.compile(&nvcc, &source, &image);
        }
        list += &format!(
            "    &Aligned(*include_bytes!({:?})),\n",
            image.display().to_string()
        );
    }
    list += "];\n";
    fs::write(out.join("images.rs"), list).expect("a writable OUT_DIR");
}

fn sources() -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> = fs::read_dir("cuda")
        .expect("the folder cuda")
        .map(|entry| entry.expect("an entry of cuda").path())
        .filter(|path| path.extension().is_some_and(|end| end == "cu"))
        .collect();
    sources.sort();
    sources
}

/// Whether `image` is older than its source, or than a header.
fn is_stale(image: &Path, source: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let headers = fs::read_dir("cuda")
        .expect("the folder cuda")
        .flatten()
        .map(|entry| entry.path());
    let headers = headers.filter(|path| path.extension().is_some_and(|end| end == "cuh"));
    let build = Path::new("build.rs").to_owned();
    let newest = headers
        .chain([source.to_owned(), build])
        .filter_map(|path| time(&path))
        .max();
    time(image) < newest
}

/// `$NVCC`, what `make cuda-toolkit` fetched, or what is on the path.
fn find_nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/cuda-toolkit/nvidia/cu13/bin/nvcc");
    if fetched.is_file() {
        return fetched;
    }
    let known = Command::new("nvcc").arg("--version").output();
    assert!(
        known.is_ok_and(|output| output.status.success()),
        "the feature `cuda` needs nvcc 13: run `make cuda-toolkit`, or set NVCC"
    );
    "nvcc".into()
}

impl Code {
    fn chosen() -> Self {
        match env::var("FERRUM_CUDA_CODE").as_deref() {
            Ok("ptx") => Self::Ptx,
            Ok("fatbin") | Err(env::VarError::NotPresent) => Self::Fatbin,
            other => panic!("FERRUM_CUDA_CODE is {other:?}: it may be fatbin or ptx"),
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Fatbin => "fatbin",
            Self::Ptx => "ptx",
        }
    }

    fn compile(self, nvcc: &Path, source: &Path, image: &Path) {
        let mut command = Command::new(nvcc);
        command.args(["-O3", "-std=c++17"]);
        match self {
            Self::Fatbin => {
                command.args(["-fatbin", "--threads=2"]);
                for target in TARGETS {
                    command.args(["-gencode", target]);
                }
            }
            Self::Ptx => {
                command.args(["-ptx", "-arch=compute_90a"]);
            }
        }
        let status = command.arg("-o").arg(image).arg(source).status();
        let status = status.unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
        assert!(status.success(), "{} does not compile", source.display());
        if let Self::Ptx = self {
            end_text(image);
        }
    }
}

/// The driver finds a text's end by a zero.
fn end_text(image: &Path) {
    let mut text = fs::read(image).expect("what nvcc wrote");
    text.push(0);
    fs::write(image, text).expect("a writable OUT_DIR");
}
