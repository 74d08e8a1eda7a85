//! What the machine can do: the bounds that the kernels are held against.

use std::{
    fmt,
    hint::black_box,
    sync::{Barrier, Mutex},
};

use ferrum_kernels::cpu::CpuBackend;

/// Rates of some threads together.
pub(crate) struct Machine {
    pub(crate) threads: usize,
    /// Reading memory, as much of it as the weights of the cases.
    pub(crate) read_gbps: f64,
    /// 8-bit multiply-adds, two operations each.
    pub(crate) int8_gops: f64,
    /// f32 multiply-adds, two operations each.
    pub(crate) f32_gflops: f64,
}

impl Machine {
    pub(crate) fn measure(threads: usize) -> Self {
        Self {
            threads,
            read_gbps: read_gbps(threads),
            int8_gops: compute(threads, int8_ops),
            f32_gflops: compute(threads, f32_ops),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            threads,
            read_gbps,
            int8_gops,
            f32_gflops,
        } = self;
        write!(
            f,
            "{threads} threads: read {read_gbps:.1} GB/s, int8 {int8_gops:.0} GOP/s, f32 {f32_gflops:.0} GFLOP/s"
        )
    }
}

const READ_BYTES: usize = 96 << 20;
const REPETITIONS: usize = 12;

fn read_gbps(threads: usize) -> f64 {
    let len = READ_BYTES / threads / 8;
    let seconds = best_of(
        threads,
        || huge_pages(len),
        |data| {
            black_box(sum(data));
        },
    );
    (threads * len * 8) as f64 / seconds / 1e9
}

/// `len` words in huge pages where the system has them, as packed weights are.
fn huge_pages(len: usize) -> Vec<u64> {
    let mut data: Vec<u64> = Vec::with_capacity(len);
    #[cfg(target_os = "linux")]
    {
        let page = 2 << 20;
        let offset = data.as_ptr().cast::<u8>().align_offset(page);
        if let Some(rest) = (8 * len).checked_sub(offset) {
            // SAFETY: inside the vector's memory, of which nothing is used yet.
            unsafe {
                libc::madvise(
                    data.as_mut_ptr().byte_add(offset).cast(),
                    rest,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }
    data.resize(len, 1);
    data
}

fn compute(threads: usize, ops: fn() -> f64) -> f64 {
    let done = Mutex::new(0.0);
    let seconds = best_of(
        threads,
        || (),
        |()| {
            let ops = black_box(ops)();
            *done.lock().expect("no panic elsewhere") = ops;
        },
    );
    let ops = *done.lock().expect("no panic elsewhere");
    threads as f64 * ops / seconds / 1e9
}

/// Seconds in which `work` is done on all threads at once, the best of some repetitions. Of the threads' own
/// computing: other programs on the machine are none of its limits.
fn best_of<T>(threads: usize, init: impl Fn() -> T + Sync, work: impl Fn(&mut T) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    // Of each repetition, the slowest thread.
    let seconds = Mutex::new([0.0_f64; REPETITIONS]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = init();
                for repetition in 0..REPETITIONS {
                    barrier.wait();
                    let start = thread_seconds();
                    work(&mut state);
                    let taken = thread_seconds() - start;
                    let slowest = &mut seconds.lock().expect("no panic elsewhere")[repetition];
                    *slowest = slowest.max(taken);
                }
            });
        }
    });
    seconds
        .into_inner()
        .expect("no panic")
        .into_iter()
        .fold(f64::INFINITY, f64::min)
}

/// Seconds: of this thread's own computing when it is the only one, so that other programs on the machine do
/// not count; else of the wall.
pub(crate) fn clock(backend: &CpuBackend) -> f64 {
    if backend.pool().threads() == 1 {
        thread_seconds()
    } else {
        seconds(libc::CLOCK_MONOTONIC)
    }
}

fn thread_seconds() -> f64 {
    seconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn sum(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: just detected.
        return unsafe { x86::sum_avx512(data) };
    }
    data.iter().fold(0, |sum, x| sum ^ x)
}

/// Does as many operations as it returns.
fn int8_ops() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") {
            // SAFETY: just detected.
            return unsafe { x86::int8_avx512() };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: just detected.
            return unsafe { x86::int8_avx2() };
        }
    }
    f32_ops()
}

/// Does as many operations as it returns.
fn f32_ops() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just detected.
            return unsafe { x86::f32_avx512() };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: just detected.
            return unsafe { x86::f32_avx2() };
        }
    }
    let mut acc = black_box([1.0_f32; 64]);
    let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
    for _ in 0..ROUNDS {
        for acc in &mut acc {
            *acc = *acc * a + b;
        }
    }
    black_box(acc);
    2.0 * 64.0 * ROUNDS as f64
}

const ROUNDS: usize = 1 << 20;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::ROUNDS;

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(data: &[u64]) -> u64 {
        let mut acc = [_mm512_setzero_si512(); 8];
        for chunk in data.chunks_exact(64) {
            for (acc, at) in acc.iter_mut().zip(chunk.chunks_exact(8)) {
                // As the kernels do.
                _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().wrapping_byte_add(4096).cast());
                // SAFETY: 8 words of 64 bits.
                *acc = _mm512_xor_si512(*acc, unsafe { _mm512_loadu_si512(at.as_ptr().cast()) });
            }
        }
        acc.iter()
            .fold(0, |sum, acc| sum ^ _mm512_reduce_or_epi64(*acc) as u64)
    }

    // 12 chains hide the latency of 4 or 5 cycles at 2 instructions a cycle.

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_avx512() -> f64 {
        let mut acc = black_box([_mm512_setzero_si512(); 12]);
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, b);
            }
        }
        black_box(acc);
        2.0 * 64.0 * 12.0 * ROUNDS as f64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2() -> f64 {
        let mut acc = black_box([_mm256_setzero_si256(); 12]);
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm256_maddubs_epi16(_mm256_add_epi16(*acc, a), b);
            }
        }
        black_box(acc);
        2.0 * 32.0 * 12.0 * ROUNDS as f64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512() -> f64 {
        let mut acc = black_box([_mm512_set1_ps(1.0); 12]);
        let (a, b) = black_box((_mm512_set1_ps(0.999), _mm512_set1_ps(0.001)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
        2.0 * 16.0 * 12.0 * ROUNDS as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2() -> f64 {
        let mut acc = black_box([_mm256_set1_ps(1.0); 12]);
        let (a, b) = black_box((_mm256_set1_ps(0.999), _mm256_set1_ps(0.001)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
        2.0 * 8.0 * 12.0 * ROUNDS as f64
    }
}
