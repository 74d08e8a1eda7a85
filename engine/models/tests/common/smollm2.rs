//! SmolLM2-135M-Instruct: prompts and what follows them.
//!
//! The ids come from the transformers library in f32 on the dequantized weights; llama.cpp gives the same on the same
//! weights. `MARGIN_CHECKED` prompts keep at least 0.5 between the two likeliest tokens on the whole path, so that
//! rounding weights or activations cannot change them; the first two of `EXACT` come as near as 0.017 and only f32 can
//! be held to them.

use ferrum_engine::OutputLayer;
use ferrum_kernels::Backend;
use ferrum_models::{LoadOptions, open};
use serde::Deserialize;

use super::{decoder::Decoder, test_model};

/// Folders and a file of `make models`.
pub(crate) const F16: &str = "smollm2-135m-instruct";
pub(crate) const F32: &str = "smollm2-135m-instruct-f32";
pub(crate) const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Made by scripts/gpu/quantize_smollm2.py.
pub(crate) const GPTQ: &str = "smollm2-135m-instruct-gptq-g64";
/// Ends an answer.
pub(crate) const END_OF_TURN: u32 = 2;
const MAX_TOKENS: usize = 32;

/// A prompt and the likeliest tokens that follow.
pub(crate) struct Prompt {
    text: &'static str,
    chat: bool,
    ids: &'static [u32],
}

pub(crate) const EXACT: [Prompt; 3] = [
    Prompt {
        text: "What is the capital of France?",
        chat: true,
        ids: &[504, 3575, 282, 4649, 314, 7042, 30, 2],
    },
    Prompt {
        text: "The quick brown fox",
        chat: false,
        ids: &[
            351, 253, 2365, 6354, 7012, 30, 198, 198, 504, 2798, 6330, 314, 253, 8170, 1183, 282, 253, 4500,
            26997, 34631, 28, 837, 827, 1924, 351, 896, 37610, 359, 804, 288, 7218, 253,
        ],
    },
    Prompt {
        text: "def fibonacci(n):\n    ",
        chat: false,
        ids: &[
            753, 3987, 46477, 24, 94, 727, 466, 585, 304, 1758, 216, 32, 42, 7396, 1003, 216, 33, 466, 4698,
            304, 1758, 216, 33, 42, 7396, 1003, 216, 33, 466, 1745, 42, 7396,
        ],
    },
];

pub(crate) const MARGIN_CHECKED: [Prompt; 3] = [
    Prompt {
        text: "What is the capital of France? Answer in one sentence.",
        chat: true,
        ids: &[504, 3575, 282, 4649, 314, 7042, 30, 2],
    },
    Prompt {
        text: "What is 2+2?",
        chat: true,
        ids: &[504, 2988, 288, 451, 8170, 4119, 1732, 314, 216, 36, 30, 2],
    },
    Prompt {
        text: "1, 2, 3, 4, 5, 6, 7,",
        chat: false,
        ids: &[
            216, 40, 28, 216, 41, 28, 216, 33, 32, 28, 216, 33, 33, 28, 216, 33, 34, 28, 216, 33, 35, 28,
            216, 33, 36, 28, 216, 33, 37, 28, 216, 33,
        ],
    },
];

impl Prompt {
    /// What the model's chat template makes of it.
    fn render(&self) -> String {
        if !self.chat {
            return self.text.to_owned();
        }
        let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
        format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
            self.text
        )
    }
}

/// Checks the likeliest tokens after each of the prompts.
pub(crate) fn check_greedy<B: Backend>(
    backend: B,
    model: &str,
    prompts: &[&[Prompt]],
    output_layer: OutputLayer,
) {
    let path = test_model(model);
    let tokenizer = open(&path)
        .expect("a checkpoint")
        .tokenizer()
        .expect("a tokenizer");
    let options = LoadOptions {
        max_model_len: Some(512),
        output_layer,
        ..LoadOptions::default()
    };
    let mut decoder = Decoder::load_on(backend, &path, &options);
    for prompt in prompts.iter().copied().flatten() {
        let encoding = tokenizer.encode(prompt.render(), false).expect("ids");
        let ids = decoder.greedy(encoding.get_ids(), MAX_TOKENS, &[END_OF_TURN]);
        assert_eq!(ids, prompt.ids, "{model}: {:?}", prompt.text);
    }
}

/// An answer in the reference.json beside [`GPTQ`].
#[derive(Deserialize)]
struct Answer {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    /// Of each of the ids: the distance of the two likeliest tokens.
    margins: Vec<f32>,
}

/// Least ids of all answers that are compared: of other weights that are quantized alike others are near.
const LEAST_COMPARED: usize = 40;

/// Checks the likeliest tokens of the GPTQ checkpoint after each prompt, as far as each keeps `margin`.
pub(crate) fn check_gptq<B: Backend>(backend: B, margin: f32) {
    let path = test_model(GPTQ);
    let reference = std::fs::read(path.join("reference.json")).expect("reference.json beside the checkpoint");
    let answers: Vec<Answer> = serde_json::from_slice(&reference).expect("answers");
    let options = LoadOptions {
        max_model_len: Some(512),
        ..LoadOptions::default()
    };
    let mut decoder = Decoder::load_on(backend, &path, &options);
    let mut compared = 0;
    for Answer { prompt, ids, margins } in &answers {
        let clear = margins.iter().take_while(|&&own| own >= margin).count();
        compared += clear;
        let made = decoder.greedy(prompt, clear, &[END_OF_TURN]);
        assert_eq!(made, ids[..clear], "after {prompt:?}");
    }
    assert!(
        compared >= LEAST_COMPARED,
        "{compared} ids keep a margin of {margin}"
    );
}
