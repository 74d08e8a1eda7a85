//! Sampling: the host says how each row is drawn, the device draws.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::{
    backend::BackendError,
    cpu::{check_mask, shape_error},
    cuda::{CudaBackend, CudaBuffer, CudaIndices, Element, buffer::bytes_of, device::DeviceMemory},
    ops::{SampleRow, SamplingOps, TokenLogprobs},
};

/// Words of `Row` and of `Change` in cuda/sampling.cu.
const ROW_WORDS: usize = 15;
const CHANGE_WORDS: usize = 5;
/// In the place of a mask's first word.
const NO_MASK: usize = u32::MAX as usize;
const THREADS: usize = 1024;
const FEED_THREADS: usize = 128;
/// Blocks of a cluster on any device that knows them.
const MAX_CLUSTER: usize = 8;

/// Memory for the logits that change and for masks; grown when a step needs more.
#[derive(Default)]
pub(super) struct Scratch(Mutex<Option<DeviceMemory>>);

impl SamplingOps for CudaBackend {
    fn sample(
        &self,
        logits: &CudaBuffer,
        vocab: usize,
        rows: &[SampleRow<'_>],
        out: &mut CudaIndices,
    ) -> Result<(), BackendError> {
        check_logits("sample", logits, vocab, rows.len())?;
        out.check("sample: out", rows.len())?;
        let (mut row_words, mut words, mut masks) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            check_mask(row, vocab)?;
            let changes = changes(row, vocab)?;
            let places = [
                words.len() / CHANGE_WORDS,
                changes.len(),
                row.allowed.map_or(NO_MASK, |_| masks.len()),
            ];
            push_row(row, places, &mut row_words);
            masks.extend_from_slice(row.allowed.unwrap_or_default());
            for (id, change) in changes {
                let seen = u32::from(change.seen);
                words.extend([id, change.bias.to_bits(), change.count, seen, 0]);
            }
        }
        // Masks lie behind changes.
        let first_mask = words.len() * 4;
        words.extend(masks);
        let mut scratch = self.sampling.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = scratch.as_ref().map_or(0, DeviceMemory::size);
        if words.len() * 4 > room {
            let bytes = (words.len() * 8).max(1 << 20);
            *scratch = Some(self.device.alloc(bytes, "what a step samples with")?);
        }
        if let Some(memory) = scratch.as_ref().filter(|_| !words.is_empty()) {
            self.device.upload(&bytes_of(&words), memory, 0)?;
        }
        let scratch = scratch.as_ref().map_or(0, DeviceMemory::address);
        let blocks = self.blocks_a_row(rows.len());
        self.device.staged(&bytes_of(&row_words), |row_words| {
            self.device
                .kernel("sample_rows")?
                .grid(blocks, rows.len(), 1)
                .cluster(blocks)
                .threads(THREADS)
                .wide(logits.address())
                .int(vocab)
                .wide(row_words)
                .wide(scratch)
                .wide(scratch + first_mask as u64)
                .wide(out.address())
                .run()
        })
    }

    fn feed(
        &self,
        drawn: &CudaIndices,
        sources: &CudaIndices,
        rows: usize,
        ids: &mut CudaIndices,
    ) -> Result<(), BackendError> {
        sources.check("feed: sources", rows)?;
        ids.check("feed: ids", rows)?;
        self.device
            .kernel("feed_ids")?
            .grid(rows.div_ceil(FEED_THREADS), 1, 1)
            .threads(FEED_THREADS)
            .wide(drawn.address())
            .wide(sources.address())
            .int(rows)
            .wide(ids.address())
            .run()
    }

    fn logprobs(
        &self,
        logits: &CudaBuffer,
        vocab: usize,
        row: usize,
        token: u32,
        top: usize,
    ) -> Result<TokenLogprobs, BackendError> {
        check_logits("logprobs", logits, vocab, row + 1)?;
        if token as usize >= vocab {
            return Err(shape_error(format!(
                "logprobs: token {token} of a vocabulary of {vocab}"
            )));
        }
        let top = top.min(vocab);
        let values = CudaBuffer::alloc(&self.device, Element::F32, 1 + top, "log probabilities")?;
        let ids = CudaIndices::alloc(&self.device, top)?;
        self.device
            .kernel("logprobs_row")?
            .threads(THREADS)
            .wide(logits.address() + (row * vocab * Element::F32.size()) as u64)
            .int(vocab)
            .int(token as usize)
            .int(top)
            .wide(values.address())
            .wide(ids.address())
            .run()?;
        let (mut logprobs, mut tokens) = (vec![0.0; 1 + top], vec![0; top]);
        values.read(&self.device, &mut logprobs)?;
        ids.read(&self.device, &mut tokens)?;
        let likeliest = tokens.into_iter().zip(logprobs[1..].iter().copied());
        Ok(TokenLogprobs {
            chosen: logprobs[0],
            top: likeliest.take_while(|(_, logprob)| !logprob.is_nan()).collect(),
        })
    }
}

impl CudaBackend {
    /// Blocks that share a row: as many as leave a multiprocessor to each block, in a cluster. The draw does not depend on it.
    fn blocks_a_row(&self, rows: usize) -> usize {
        match self.device.facts.capability >= (9, 0) {
            true => {
                1 << (self.device.facts.num_sms / rows.max(1))
                    .clamp(1, MAX_CLUSTER)
                    .ilog2()
            }
            false => 1,
        }
    }
}

/// What happens to the logit of one id.
#[derive(Clone, Copy, Default)]
struct Change {
    bias: f32,
    /// In what was generated.
    count: u32,
    /// Anywhere, if that is penalised.
    seen: bool,
}

/// The ids of `row` whose logits change.
fn changes(row: &SampleRow<'_>, vocab: usize) -> Result<BTreeMap<u32, Change>, BackendError> {
    let mut changes = BTreeMap::<u32, Change>::new();
    for &(id, bias) in row.logit_bias {
        changes.entry(id).or_default().bias += bias;
    }
    let repeats = row.repetition_penalty != 1.0;
    let counts = row.presence_penalty != 0.0 || row.frequency_penalty != 0.0;
    if repeats {
        for &id in row.prompt.iter().chain(row.generated) {
            changes.entry(id).or_default().seen = true;
        }
    }
    if counts {
        for &id in row.generated {
            changes.entry(id).or_default().count += 1;
        }
    }
    match changes.last_key_value() {
        Some((&id, _)) if id as usize >= vocab => Err(shape_error(format!(
            "sample: a bias or penalty names token {id} of a vocabulary of {vocab}"
        ))),
        _ => Ok(changes),
    }
}

/// As `struct Row`; `places` are its first change, how many there are, and the first word of its mask.
fn push_row(row: &SampleRow<'_>, places: [usize; 3], words: &mut Vec<u32>) {
    let start = words.len();
    // Bounded, so that zero (the likeliest token's distance) stays zero.
    let inverse_temperature = row.temperature.recip().min(f32::MAX);
    words.extend(
        [
            row.temperature,
            inverse_temperature,
            row.top_p,
            row.min_p,
            row.repetition_penalty,
            row.presence_penalty,
            row.frequency_penalty,
        ]
        .map(f32::to_bits),
    );
    words.push(row.top_k);
    for wide in [row.seed, row.position] {
        words.extend([wide as u32, (wide >> 32) as u32]);
    }
    words.extend(places.map(|place| place as u32));
    debug_assert_eq!(words.len() - start, ROW_WORDS);
}

fn check_logits(what: &str, logits: &CudaBuffer, vocab: usize, rows: usize) -> Result<(), BackendError> {
    if vocab == 0 || i32::try_from(vocab).is_err() {
        return Err(shape_error(format!(
            "{what}: a vocabulary has 1 to 2^31 - 1 tokens, not {vocab}"
        )));
    }
    if logits.element() != Element::F32 {
        return Err(shape_error(format!(
            "{what}: logits are f32, not {}",
            logits.element().name()
        )));
    }
    logits.check(what, rows * vocab)
}
