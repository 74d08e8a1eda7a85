// From logits to token ids: one block a row, nothing is sorted.
//
// A filter amounts to a threshold: ids whose logit is above it are kept, and of those equal to it the first few.
// Thresholds are found digit by digit from histograms. Probabilities are summed as integers (2^-40), so that the
// order of additions does not matter. A logit that is NaN counts as minus infinity, plus infinity as the largest
// finite number; a row without any number above minus infinity gives id 0.
#include "common.cuh"

#include <cfloat>

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr int BINS = 2048;
constexpr float ONE = 1099511627776.f;   // 2^40

struct Row {
    float temperature, inverse_temperature, top_p, min_p;
    float repetition, presence, frequency;
    uint32_t top_k;
    uint32_t seed[2], position[2];
    uint32_t first_change, num_changes;
};

// What bias and penalties do to one id.
struct Change {
    uint32_t id;
    float bias;
    uint32_t count;    // in what was generated
    uint32_t seen;     // anywhere
    float saved;
};

struct Shared {
    unsigned long long bins[BINS];
    unsigned long long by_warp[WARPS];
    unsigned long long found[4];
    uint32_t ties_before[WARPS];
};

// Greater for greater logits; 0 for minus infinity and what counts as it.
__device__ __forceinline__ uint32_t key_of(float x) {
    if (!(x > -INFINITY)) return 0;
    const uint32_t bits = __float_as_uint(fminf(x, FLT_MAX));
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ordered - 0x007fffffu;   // the key of minus infinity
}

__device__ __forceinline__ float logit_of(uint32_t key) {
    const uint32_t ordered = key + 0x007fffffu;
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// Of (key, id): the greater key, of two alike the lower id.
__device__ __forceinline__ unsigned long long better(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

__device__ __forceinline__ unsigned long long ranked(uint32_t key, uint32_t id) {
    return (unsigned long long)key << 32 | (0xffffffffu - id);
}

template <typename F>
__device__ unsigned long long block_reduce(unsigned long long x, F f, Shared& shared) {
    for (int d = 16; d > 0; d /= 2) x = f(x, __shfl_xor_sync(FULL_WARP, x, d));
    if (threadIdx.x % 32 == 0) shared.by_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared.by_warp[threadIdx.x % 32];
    for (int d = 16; d > 0; d /= 2) x = f(x, __shfl_xor_sync(FULL_WARP, x, d));
    __syncthreads();
    return x;
}

__device__ __forceinline__ unsigned long long add_u64(unsigned long long a, unsigned long long b) { return a + b; }

// Philox 4x32-10 (Salmon et al. 2011): 53 random bits of (seed, position).
__device__ unsigned long long random_bits(const Row& row) {
    uint32_t c[4] = {row.position[0], row.position[1], 0, 0}, k[2] = {row.seed[0], row.seed[1]};
    for (int round = 0; round < 10; ++round) {
        if (round > 0) k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
        const unsigned long long first = 0xD2511F53ull * c[0], second = 0xCD9E8D57ull * c[2];
        const uint32_t next[4] = {uint32_t(second >> 32) ^ c[1] ^ k[0], uint32_t(second),
                                  uint32_t(first >> 32) ^ c[3] ^ k[1], uint32_t(first)};
        for (int i = 0; i < 4; ++i) c[i] = next[i];
    }
    return ((unsigned long long)c[0] << 32 | c[1]) >> 11;
}

// What is kept: keys above `key`, and the first `ties` ids of those equal to it, if they weigh `min_weight` or more.
struct Kept {
    uint32_t key, ties;
    float max, inverse_temperature, min_weight;

    __device__ float weight(uint32_t key) const { return expf((logit_of(key) - max) * inverse_temperature); }
    __device__ unsigned long long mass(float weight) const { return __float2ull_rn(weight * ONE); }
};

// Walks the bins from the top: into `found` the digit in which `goal` is reached, and what lies above it.
__device__ void find_bin(int bins, unsigned long long goal, Shared& shared) {
    // Each thread sums a run of bins, counted from the top.
    const int each = (bins + THREADS - 1) / THREADS, start = bins - 1 - int(threadIdx.x) * each;
    unsigned long long mine = 0;
    for (int i = 0; i < each && start - i >= 0; ++i) mine += shared.bins[start - i];
    unsigned long long upto = mine;
    for (int d = 1; d < 32; d *= 2) {
        const unsigned long long other = __shfl_up_sync(FULL_WARP, upto, d);
        if (threadIdx.x % 32 >= unsigned(d)) upto += other;
    }
    if (threadIdx.x % 32 == 31) shared.by_warp[threadIdx.x / 32] = upto;
    __syncthreads();
    for (unsigned w = 0; w < threadIdx.x / 32; ++w) upto += shared.by_warp[w];
    unsigned long long above = upto - mine;
    if (above < goal && upto >= goal) {
        int bin = start;
        while (above + shared.bins[bin] < goal) above += shared.bins[bin--];
        shared.found[0] = bin;
        shared.found[1] = above;
    }
    __syncthreads();
}

// Lowers `kept` to the smallest first-ranked set whose size (`COUNT`) or mass reaches `goal`, which is at most the whole.
template <bool COUNT>
__device__ void keep_until(const float* logits, uint32_t vocab, unsigned long long goal, Kept& kept, Shared& shared) {
    constexpr int SHIFT[3] = {21, 10, 0}, WIDTH[3] = {11, 11, 10};
    uint32_t prefix = 0;
    unsigned long long above = 0;
    for (int digit = 0; digit < 3; ++digit) {
        const int bins = 1 << WIDTH[digit];
        for (int i = threadIdx.x; i < bins; i += THREADS) shared.bins[i] = 0;
        __syncthreads();
        const uint32_t rounded = (vocab + 31) / 32 * 32;
        for (uint32_t id = threadIdx.x; id < rounded; id += THREADS) {
            const uint32_t key = id < vocab ? key_of(logits[id]) : 0;
            const bool inside = key != 0 && key >= kept.key &&
                                (digit == 0 || key >> SHIFT[digit - 1] == prefix >> SHIFT[digit - 1]);
            const uint32_t bin = key >> SHIFT[digit] & (bins - 1);
            if (COUNT) {
                // Most logits share their first digits: one addition for all lanes that agree.
                const uint32_t alike = __match_any_sync(FULL_WARP, inside ? bin : 0xffffffffu);
                if (inside && (threadIdx.x & 31) == unsigned(__ffs(alike) - 1)) atomicAdd(&shared.bins[bin], __popc(alike));
            } else if (inside) {
                const unsigned long long mass = kept.mass(kept.weight(key));
                if (mass) atomicAdd(&shared.bins[bin], mass);
            }
        }
        __syncthreads();
        find_bin(bins, goal - above, shared);
        prefix |= uint32_t(shared.found[0]) << SHIFT[digit];
        above += shared.found[1];
        __syncthreads();
    }
    unsigned long long ties = goal - above;
    if (!COUNT) {
        const unsigned long long each = kept.mass(kept.weight(prefix));
        ties = each ? (ties + each - 1) / each : 1;
    }
    // Of the ties at the old threshold only so many were in the running.
    kept.ties = prefix == kept.key && ties > kept.ties ? kept.ties : uint32_t(ties < 1 ? 1 : ties > 0xfffffffeull ? 0xfffffffeull : ties);
    kept.key = prefix;
}

// Calls f(id, weight, is kept) warp by warp over contiguous shares of the vocabulary, in the order of ids; f returns
// whether to go on. Ties need `ties_before`.
template <typename F>
__device__ void for_kept(const float* logits, uint32_t vocab, const Kept& kept, const Shared& shared, int warp, F f) {
    const uint32_t share = (vocab + THREADS - 1) / THREADS * 32, from = warp * share, to = min(from + share, vocab);
    const uint32_t lane = threadIdx.x % 32;
    uint32_t ties = shared.ties_before[warp];
    for (uint32_t base = from; base < to; base += 32) {
        const uint32_t id = base + lane, key = id < to ? key_of(logits[id]) : 0;
        const bool tie = key != 0 && key == kept.key;
        const uint32_t tied = __ballot_sync(FULL_WARP, tie);
        const uint32_t rank = ties + __popc(tied & ((1u << lane) - 1));
        ties += __popc(tied);
        const float weight = key != 0 ? kept.weight(key) : 0.f;
        const bool inside = key != 0 && (key > kept.key || (tie && rank < kept.ties)) && weight >= kept.min_weight;
        if (!f(id, inside ? kept.mass(weight) : 0)) return;
    }
}

__device__ void count_ties(const float* logits, uint32_t vocab, const Kept& kept, Shared& shared) {
    const int warp = threadIdx.x / 32;
    const uint32_t share = (vocab + THREADS - 1) / THREADS * 32, from = warp * share, to = min(from + share, vocab);
    uint32_t ties = 0;
    for (uint32_t id = from + threadIdx.x % 32; id < to; id += 32) {
        const uint32_t key = key_of(logits[id]);
        ties += key != 0 && key == kept.key;
    }
    ties = __reduce_add_sync(FULL_WARP, ties);
    if (threadIdx.x % 32 == 0) shared.by_warp[warp] = ties;
    __syncthreads();
    if (threadIdx.x == 0)
        for (uint32_t w = 0, before = 0; w < WARPS; ++w) {
            shared.ties_before[w] = before;
            before += uint32_t(shared.by_warp[w]);
        }
    __syncthreads();
}

__device__ unsigned long long kept_mass(const float* logits, uint32_t vocab, const Kept& kept, Shared& shared) {
    unsigned long long mass = 0;
    for_kept(logits, vocab, kept, shared, threadIdx.x / 32, [&](uint32_t, unsigned long long m) {
        mass += m;
        return true;
    });
    return block_reduce(mass, add_u64, shared);
}

// The id at `bits` * 2^-53 of the way through what is kept.
__device__ uint32_t walk(const float* logits, uint32_t vocab, const Kept& kept, unsigned long long bits, Shared& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned long long mass = 0;
    for_kept(logits, vocab, kept, shared, warp, [&](uint32_t, unsigned long long m) {
        mass += m;
        return true;
    });
    for (int d = 16; d > 0; d /= 2) mass += __shfl_xor_sync(FULL_WARP, mass, d);
    if (lane == 0) shared.by_warp[warp] = mass;
    __syncthreads();
    unsigned long long total = 0, before = 0;
    for (int w = 0; w < WARPS; ++w) total += shared.by_warp[w];
    const unsigned long long target = __umul64hi(total, bits << 11);
    int chosen = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (before + shared.by_warp[w] > target) {
            chosen = w;
            break;
        }
        before += shared.by_warp[w];
    }
    if (warp == 0)
        for_kept(logits, vocab, kept, shared, chosen, [&](uint32_t id, unsigned long long m) {
            unsigned long long upto = m;
            for (int d = 1; d < 32; d *= 2) {
                const unsigned long long other = __shfl_up_sync(FULL_WARP, upto, d);
                if (lane >= d) upto += other;
            }
            const uint32_t past = __ballot_sync(FULL_WARP, before + upto > target);
            if (past) {
                const uint32_t winner = __shfl_sync(FULL_WARP, id, __ffs(past) - 1);
                if (lane == 0) shared.found[2] = winner;
                return false;
            }
            before += __shfl_sync(FULL_WARP, upto, 31);
            return true;
        });
    __syncthreads();
    return uint32_t(shared.found[2]);
}

__device__ uint32_t draw(const float* logits, uint32_t vocab, const Row& row, float max, Shared& shared) {
    Kept kept = {1, 0xfffffffeu, max, row.inverse_temperature, row.min_p > 0.f ? fminf(row.min_p, 1.f) : 0.f};
    const float min_weight = kept.min_weight;
    kept.min_weight = 0.f;
    if (row.top_k > 0 && row.top_k < vocab) {
        unsigned long long finite = 0;
        for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) finite += key_of(logits[id]) != 0;
        finite = block_reduce(finite, add_u64, shared);
        if (row.top_k < finite) keep_until<true>(logits, vocab, row.top_k, kept, shared);
    }
    count_ties(logits, vocab, kept, shared);
    if (row.top_p < 1.f) {
        const unsigned long long total = kept_mass(logits, vocab, kept, shared);
        const double goal = ceil(double(row.top_p) * double(total));
        const unsigned long long reach = goal < 1. ? 1ull : goal > double(total) ? total : (unsigned long long)goal;
        keep_until<false>(logits, vocab, reach < total ? reach : total, kept, shared);
        count_ties(logits, vocab, kept, shared);
    }
    kept.min_weight = min_weight;
    return walk(logits, vocab, kept, random_bits(row), shared);
}

__device__ void adjust(float* logits, const Row& row, Change* changes) {
    for (uint32_t i = threadIdx.x; i < row.num_changes; i += THREADS) {
        Change& change = changes[row.first_change + i];
        float x = logits[change.id];
        change.saved = x;
        x += change.bias;
        if (change.seen) x = x > 0.f ? x / row.repetition : x * row.repetition;
        if (change.count) x -= row.presence + row.frequency * float(change.count);
        logits[change.id] = x;
    }
    __syncthreads();
}

// Logits (rows, vocab) are as before when it ends. Grid (rows).
extern "C" __global__ void __launch_bounds__(THREADS) sample_rows(
    float* all_logits, uint32_t vocab, const Row* rows, Change* changes, uint32_t* out) {
    __shared__ Shared shared;
    begin();
    float* logits = all_logits + size_t(blockIdx.x) * vocab;
    const Row row = rows[blockIdx.x];
    if (row.num_changes > 0) adjust(logits, row, changes);
    unsigned long long best = 0;
    for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) best = better(best, ranked(key_of(logits[id]), id));
    best = block_reduce(best, better, shared);
    const uint32_t key = best >> 32;
    uint32_t id = key ? 0xffffffffu - uint32_t(best) : 0;
    if (key && row.temperature > 0.f) id = draw(logits, vocab, row, logit_of(key), shared);
    if (threadIdx.x == 0) out[blockIdx.x] = id;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.num_changes; i += THREADS)
        logits[changes[row.first_change + i].id] = changes[row.first_change + i].saved;
}

// Log probabilities of `token`, then of the `top` likeliest with their ids (a NaN past the last). One block.
extern "C" __global__ void __launch_bounds__(THREADS) logprobs_row(
    const float* logits, uint32_t vocab, uint32_t token, uint32_t top, float* out, uint32_t* ids) {
    __shared__ Shared shared;
    __shared__ double sums[WARPS];
    begin();
    unsigned long long best = 0;
    for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) best = better(best, ranked(key_of(logits[id]), id));
    best = block_reduce(best, better, shared);
    const bool any = (best >> 32) != 0;
    const double max = any ? double(logit_of(uint32_t(best >> 32))) : 0.;
    double sum = 0.;
    for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) {
        const uint32_t key = key_of(logits[id]);
        if (key) sum += double(expf(float(double(logit_of(key)) - max)));
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.;
    for (int w = 0; w < WARPS; ++w) sum += sums[w];
    const double log_sum = log(sum);
    auto logprob = [&](uint32_t key) { return key ? float(double(logit_of(key)) - max - log_sum) : -INFINITY; };
    if (threadIdx.x == 0) out[0] = logprob(key_of(logits[token]));
    unsigned long long bar = ~0ull;
    for (uint32_t i = 0; i < top; ++i) {
        unsigned long long next = 0;
        for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) {
            const unsigned long long r = ranked(key_of(logits[id]), id);
            if (r < bar) next = better(next, r);
        }
        next = bar = block_reduce(next, better, shared);
        if (threadIdx.x == 0) {
            out[1 + i] = next >> 32 ? logprob(uint32_t(next >> 32)) : NAN;
            ids[i] = 0xffffffffu - uint32_t(next);
        }
    }
}
