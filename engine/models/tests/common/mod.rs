//! What the tests of this crate share: where checkpoints are, and models driven by hand.
#![allow(dead_code)] // each test file is a program of its own and uses a part

pub(crate) mod decoder;
pub(crate) mod embedder;
pub(crate) mod folder;
pub(crate) mod gguf;
pub(crate) mod ranks;
pub(crate) mod smollm2;

use std::{
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use ferrum_kernels::cpu::CpuBackend;
use safetensors::SafeTensors;

/// A folder or file in `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    // Elsewhere than where it was built, the test is told where its crate lies, as cargo would.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/fixtures").join(name)
}

/// A folder or file of real weights.
///
/// # Panics
/// If it is not there: a test that cannot run has not passed.
pub(crate) fn test_model(name: &str) -> PathBuf {
    let folder = std::env::var_os("FERRUM_TEST_MODELS").unwrap_or_else(|| {
        panic!("FERRUM_TEST_MODELS is not set: run `make models`, then set it to $PWD/.cache/models")
    });
    let path = Path::new(&folder).join(name);
    assert!(
        path.exists(),
        "{} is not there: run `make models`",
        path.display()
    );
    path
}

pub(crate) fn backend() -> CpuBackend {
    CpuBackend::new(available_parallelism().map_or(1, Into::into))
}

/// The arrays beside a fixture that the transformers library has computed.
pub(crate) struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    pub(crate) fn read(fixture_name: &str) -> Self {
        let path = fixture(fixture_name).join("reference.safetensors");
        Self {
            bytes: std::fs::read(path).expect("reference.safetensors beside the fixture"),
        }
    }

    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let data = file.tensor(name).expect("an array of the reference").data();
        data.as_chunks().0.to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).into_iter().map(u32::from_le_bytes).collect()
    }
}

/// Prints a figure that a reader of the test's output wants beside the verdict.
#[allow(clippy::print_stdout)]
pub(crate) fn report(figure: std::fmt::Arguments<'_>) {
    println!("{figure}");
}

/// The largest absolute difference.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest magnitude.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()))
}

/// Checks logits against the expected ones and returns how far they differ.
pub(crate) fn check_logits(what: &str, logits: &[f32], expected: &[f32], tolerance: f32) -> f32 {
    let difference = max_difference(logits, expected);
    report(format_args!(
        "{what}: largest difference {difference:e}, tolerance {tolerance:e}"
    ));
    assert!(
        difference <= tolerance,
        "{what}: logits differ by {difference:e}, more than {tolerance:e}"
    );
    difference
}

/// How far two f32 evaluations of one transformer may differ.
///
/// A sum of k products rounds k times; in another order it rounds otherwise. Roundings of random sign add up to about
/// sqrt(k) * 2^-24 of the sum's size. A layer chains `PRODUCTS` such sums (q/k/v, scores, weighted values, output, gate
/// and up, down) and one softmax or activation, whose errors are of the same order; norms pass a relative error on and
/// residual sums add those of the layers. Both sides err (2), and the largest of thousands of outputs lies some four
/// deviations out (4).
pub(crate) fn f32_tolerance(layers: usize, longest_sum: usize, largest_output: f32) -> f32 {
    const PRODUCTS: usize = 6;
    let sums = (layers * (PRODUCTS + 1) + 1) as f32;
    2.0 * 4.0 * sums.sqrt() * (longest_sum as f32).sqrt() * 2.0_f32.powi(-24) * largest_output
}
