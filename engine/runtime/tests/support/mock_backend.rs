//! A device that holds vectors. It has what a runner needs; what only layers need, it refuses.

use std::time::Duration;

use ferrum_kernels::{
    Backend, BackendError, HostTensor,
    backend::{BackendTypes, KvLayout},
    ops::{
        ActivationOps, AttentionMask, AttentionOps, CollectiveOps, Gelu, HeadLayout, KNOWN, LinearOps,
        NormOps, PagedBatch, PoolingOps, SampleRow, SamplingOps, TokenLogprobs,
    },
};

pub struct MockBackend;

type Buffer = Vec<f32>;
type Indices = Vec<u32>;
type Done = Result<(), BackendError>;

fn not_here<T>() -> Result<T, BackendError> {
    Err(BackendError::Shape("the mock has no layers".to_owned()))
}

fn write<T: Copy>(src: &[T], dst: &mut [T]) -> Done {
    let room = dst.len();
    let Some(front) = dst.get_mut(..src.len()) else {
        return Err(BackendError::Shape(format!("{} elements into {room}", src.len())));
    };
    front.copy_from_slice(src);
    Ok(())
}

impl BackendTypes for MockBackend {
    type Buffer = Buffer;
    type Indices = Indices;
    type Weight = ();
    /// The id whose keys and values each slot holds.
    type KvCache = Vec<Option<u32>>;
    type Recorded = ();
    type Step = Vec<u32>;
}

impl Backend for MockBackend {
    fn device_name(&self) -> &'static str {
        "mock"
    }

    fn alloc(&self, len: usize) -> Result<Buffer, BackendError> {
        Ok(vec![0.0; len])
    }

    fn alloc_indices(&self, len: usize) -> Result<Indices, BackendError> {
        Ok(vec![0; len])
    }

    fn write(&self, src: &[f32], dst: &mut Buffer) -> Done {
        write(src, dst)
    }

    fn write_indices(&self, src: &[u32], dst: &mut Indices) -> Done {
        write(src, dst)
    }

    fn read_into(&self, src: &Buffer, dst: &mut [f32]) -> Done {
        write(&src[..dst.len()], dst)
    }

    fn read_indices_into(&self, src: &Indices, dst: &mut [u32]) -> Done {
        write(&src[..dst.len()], dst)
    }

    fn prepare_weight(&self, _: &[HostTensor]) -> Done {
        not_here()
    }

    fn prepare_vector(&self, _: &[HostTensor]) -> Result<Buffer, BackendError> {
        not_here()
    }

    fn prepare_rope(&self, _: &[f32], _: usize) -> Result<Buffer, BackendError> {
        not_here()
    }

    fn alloc_kv_cache(&self, layout: &KvLayout) -> Result<Vec<Option<u32>>, BackendError> {
        Ok(vec![None; layout.num_blocks * layout.block_size])
    }

    fn allocated_bytes(&self) -> usize {
        0
    }

    fn begin_step(&self, _: &mut Vec<u32>) -> Done {
        Ok(())
    }

    fn end_step(&self, step: &mut Vec<u32>, drawn: &Indices, count: usize) -> Done {
        *step = drawn[..count].to_vec();
        Ok(())
    }

    fn finish_step(&self, step: &mut Vec<u32>, tokens: &mut Vec<u32>) -> Result<Duration, BackendError> {
        *tokens = std::mem::take(step);
        Ok(Duration::ZERO)
    }
}

impl SamplingOps for MockBackend {
    /// Greedy, or else a hash of the greedy token with seed and position.
    fn sample(&self, logits: &Buffer, vocab: usize, rows: &[SampleRow<'_>], out: &mut Indices) -> Done {
        for (row, (sample, logits)) in rows.iter().zip(logits.chunks(vocab)).enumerate() {
            assert_eq!(
                sample.position as usize,
                sample.prompt.len() + sample.generated.len()
            );
            let greedy = logits
                .iter()
                .position(|&logit| logit == 1.0)
                .expect("one is likeliest") as u32;
            out[row] = if sample.temperature == 0.0 {
                greedy
            } else {
                let (seed, position) = (sample.seed as u32, sample.position as u32);
                super::next_token(&[greedy, seed, position])
            };
        }
        Ok(())
    }

    fn feed(&self, drawn: &Indices, sources: &Indices, rows: usize, ids: &mut Indices) -> Done {
        for (id, &source) in ids.iter_mut().zip(&sources[..rows]) {
            if source != KNOWN {
                *id = drawn[source as usize];
            }
        }
        Ok(())
    }

    fn logprobs(
        &self,
        logits: &Buffer,
        vocab: usize,
        row: usize,
        token: u32,
        top: usize,
    ) -> Result<TokenLogprobs, BackendError> {
        let logits = &logits[row * vocab..][..vocab];
        let mut order: Vec<u32> = (0..vocab as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let top = order
            .into_iter()
            .take(top)
            .map(|id| (id, logits[id as usize]))
            .collect();
        Ok(TokenLogprobs {
            chosen: logits[token as usize],
            top,
        })
    }
}

impl LinearOps for MockBackend {
    fn linear(&self, _: &Buffer, (): &(), _: Option<&Buffer>, _: usize, _: &mut Buffer) -> Done {
        not_here()
    }

    fn embed(&self, (): &(), _: &Indices, _: usize, _: &mut Buffer) -> Done {
        not_here()
    }
}

impl ActivationOps for MockBackend {
    fn add(&self, _: &Buffer, _: &mut Buffer, _: usize) -> Done {
        not_here()
    }

    fn silu_mul(&self, _: &Buffer, _: usize, _: usize, _: &mut Buffer) -> Done {
        not_here()
    }

    fn gelu(&self, _: &mut Buffer, _: Gelu, _: usize) -> Done {
        not_here()
    }

    fn gather_rows(&self, _: &Buffer, _: &Indices, _: usize, _: usize, _: &mut Buffer) -> Done {
        not_here()
    }
}

impl NormOps for MockBackend {
    fn rms_norm(&self, _: &Buffer, _: &Buffer, _: f32, _: (usize, usize), _: &mut Buffer) -> Done {
        not_here()
    }

    fn layer_norm(
        &self,
        _: &Buffer,
        _: (&Buffer, &Buffer),
        _: f32,
        _: (usize, usize),
        _: &mut Buffer,
    ) -> Done {
        not_here()
    }

    fn qk_norm(&self, _: &mut Buffer, _: HeadLayout, _: (&Buffer, &Buffer), _: f32, _: usize) -> Done {
        not_here()
    }
}

impl PoolingOps for MockBackend {
    fn mean_pool(&self, _: &Buffer, _: &Indices, _: usize, _: usize, _: &mut Buffer) -> Done {
        not_here()
    }

    fn l2_normalize(&self, _: &mut Buffer, _: usize, _: usize) -> Done {
        not_here()
    }
}

impl CollectiveOps for MockBackend {}

impl AttentionOps for MockBackend {
    fn rope(&self, _: &mut Buffer, _: HeadLayout, _: &Indices, _: &Buffer, _: usize) -> Done {
        not_here()
    }

    fn write_kv(
        &self,
        _: &Buffer,
        _: HeadLayout,
        _: &mut Vec<Option<u32>>,
        _: usize,
        _: &Indices,
        _: usize,
    ) -> Done {
        not_here()
    }

    fn paged_attention(
        &self,
        _: &Buffer,
        _: HeadLayout,
        _: &Vec<Option<u32>>,
        _: usize,
        _: &PagedBatch<'_, Indices>,
        _: f32,
        _: Option<usize>,
        _: &mut Buffer,
    ) -> Done {
        not_here()
    }

    fn varlen_attention(
        &self,
        _: &Buffer,
        _: HeadLayout,
        _: &Indices,
        _: usize,
        _: AttentionMask,
        _: f32,
        _: &mut Buffer,
    ) -> Done {
        not_here()
    }
}
