// What drawing is made of: keys that rank logits, random bits, the blocks of a row and their histograms.
#pragma once

#include "cluster.cuh"
#include "common.cuh"

#include <cfloat>

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr int LOG_BINS = 10;
constexpr uint32_t BINS = 1 << LOG_BINS;
constexpr int BINS_EACH = BINS / THREADS;
constexpr float ONE = 1099511627776.f;   // 2^40

struct Row {
    float temperature, inverse_temperature, top_p, min_p;
    float repetition, presence, frequency;
    uint32_t top_k;
    uint32_t seed[2], position[2];
    uint32_t first_change, num_changes;
    uint32_t mask;   // the first of its words, NO_MASK if everything is allowed
};
constexpr uint32_t NO_MASK = 0xffffffffu;

// What bias and penalties do to one id.
struct Change {
    uint32_t id;
    float bias;
    uint32_t count;    // in what was generated
    uint32_t seen;     // anywhere
    float saved;
};

struct Found {
    uint32_t bin;
    unsigned long long above, here;   // in better bins, in this one
};

struct Shared {
    // Counts, or masses in two halves, from the likeliest on. Two in turn: while others read one, the next is filled.
    uint32_t low[2][BINS], high[2][BINS];
    unsigned long long best, ties, mass;   // of this block, for the others of the row
    unsigned long long by_warp[WARPS];
    Found found;
};

// Greater for greater logits; 0 for minus infinity and what counts as it.
__device__ __forceinline__ uint32_t key_of(float x) {
    if (!(x > -INFINITY)) return 0;
    const uint32_t bits = __float_as_uint(fminf(x, FLT_MAX) + 0.f);   // no negative zero
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

// Philox 4x32-10 (Salmon et al. 2011): 53 random bits of (seed, position).
__device__ inline unsigned long long random_bits(const Row& row) {
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

__device__ __forceinline__ unsigned long long block_best(unsigned long long x, Shared& shared) {
    for (int d = 16; d > 0; d /= 2) x = better(x, __shfl_xor_sync(FULL_WARP, x, d));
    if (threadIdx.x % 32 == 0) shared.by_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared.by_warp[threadIdx.x % WARPS];
    for (int d = 16; d > 0; d /= 2) x = better(x, __shfl_xor_sync(FULL_WARP, x, d));
    __syncthreads();
    return x;
}

__device__ __forceinline__ unsigned long long warp_total(unsigned long long x) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}

// The sum up to and with this lane.
__device__ __forceinline__ unsigned long long warp_scan(unsigned long long x) {
    for (int d = 1; d < 32; d *= 2) {
        const unsigned long long other = __shfl_up_sync(FULL_WARP, x, d);
        if (threadIdx.x % 32 >= unsigned(d)) x += other;
    }
    return x;
}

struct Scan { unsigned long long before, total; };

// Sums over the block's warps of `x`, of which each has one.
__device__ __forceinline__ Scan scan_warps(unsigned long long x, Shared& shared) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) shared.by_warp[warp] = x;
    __syncthreads();
    const unsigned long long upto = warp_scan(lane < WARPS ? shared.by_warp[lane] : 0);
    __syncthreads();
    const unsigned long long before = __shfl_sync(FULL_WARP, upto, (warp + 31) % 32);
    return {warp == 0 ? 0 : before, __shfl_sync(FULL_WARP, upto, 31)};
}

__device__ __forceinline__ void cluster_barrier(uint32_t blocks) {
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) return cluster_sync();
#endif
    __syncthreads();
}

// What block `rank` of `blocks` has at `p`.
__device__ __forceinline__ uint32_t read(const uint32_t* p, uint32_t rank, uint32_t blocks) {
    uint32_t x = 0;
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
        asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(x) : "r"(in_block(uint32_t(__cvta_generic_to_shared(p)), rank)) : "memory");
        return x;
    }
#endif
    return *p;
}

__device__ __forceinline__ unsigned long long read(const unsigned long long* p, uint32_t rank, uint32_t blocks) {
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
        unsigned long long x;
        asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(x) : "r"(in_block(uint32_t(__cvta_generic_to_shared(p)), rank)) : "memory");
        return x;
    }
#endif
    return *p;
}

struct Span { uint32_t from, to; };

// The part of a row that this block has.
struct Part {
    const float* logits;
    const uint32_t* allowed;   // one bit an id; none if everything is
    uint32_t vocab, blocks, rank;
    Span span;
    Shared& shared;
    int turn = 0;

    __device__ Part(const float* logits, const uint32_t* allowed, uint32_t vocab, Shared& shared)
        : logits(logits), allowed(allowed), vocab(vocab), blocks(gridDim.x), rank(blockIdx.x), shared(shared) {
        const uint32_t each = ((vocab + blocks - 1) / blocks + 31) / 32 * 32;
        span.from = min(rank * each, vocab);
        span.to = min(span.from + each, vocab);
    }

    __device__ __forceinline__ float logit(uint32_t id) const {
        const float x = logits[id];
        return !allowed || allowed[id / 32] >> id % 32 & 1 ? x : -INFINITY;
    }

    __device__ bool has(uint32_t id) const { return id >= span.from && id < span.to; }

    // A contiguous share, so that warps follow one another as ids do.
    __device__ Span of_warp(uint32_t warp) const {
        const uint32_t each = (span.to - span.from + THREADS - 1) / THREADS * 32;
        const uint32_t from = min(span.from + warp * each, span.to);
        return {from, min(from + each, span.to)};
    }

    // f(id, logit) for each id, ascending in every thread.
    template <typename F>
    __device__ __forceinline__ void for_each(F f) const {
        constexpr int AT_ONCE = 4;
        uint32_t id = span.from + threadIdx.x;
        for (; id + (AT_ONCE - 1) * THREADS < span.to; id += AT_ONCE * THREADS) {
            float x[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) x[i] = logit(id + i * THREADS);
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) f(id + i * THREADS, x[i]);
        }
        for (; id < span.to; id += THREADS) f(id, logit(id));
    }
};

// A thread's bins of a whole row, and what lies before the first of them.
struct Sums {
    unsigned long long bin[BINS_EACH], above, total;
};

// Adds up the histograms of the row's blocks.
template <bool COUNT>
__device__ Sums add_up(const Part& part) {
    const Shared& shared = part.shared;
    cluster_barrier(part.blocks);
    Sums sums;
    unsigned long long mine = 0;
#pragma unroll
    for (int i = 0; i < BINS_EACH; ++i) {
        const uint32_t bin = threadIdx.x * BINS_EACH + i;
        unsigned long long low = 0, high = 0;
#pragma unroll 8
        for (uint32_t rank = 0; rank < part.blocks; ++rank) {
            low += read(&shared.low[part.turn][bin], rank, part.blocks);
            if (!COUNT) high += read(&shared.high[part.turn][bin], rank, part.blocks);
        }
        sums.bin[i] = low + (high << 32);
        mine += sums.bin[i];
    }
    const unsigned long long upto = warp_scan(mine);
    const Scan scan = scan_warps(__shfl_sync(FULL_WARP, upto, 31), part.shared);
    sums.above = scan.before + upto - mine;
    sums.total = scan.total;
    return sums;
}

// The bin in which `goal` is reached: at least 1, at most the total.
__device__ inline Found find(const Sums& sums, unsigned long long goal, Shared& shared) {
    unsigned long long above = sums.above;
#pragma unroll
    for (int i = 0; i < BINS_EACH; ++i) {
        if (above < goal && above + sums.bin[i] >= goal)
            shared.found = {threadIdx.x * BINS_EACH + i, above, sums.bin[i]};
        above += sums.bin[i];
    }
    __syncthreads();
    const Found found = shared.found;
    __syncthreads();
    return found;
}

// Bins for one unit of a logit, a power of two: all of them for the distance at which nothing has a mass, or twice that.
__device__ inline float scale_for(float inverse_temperature) {
    const float wanted = inverse_temperature * (BINS / 28.f);   // exp(-28) < 2^-40
    return __uint_as_float(__float_as_uint(fminf(fmaxf(wanted, 0x1p-100f), 0x1p60f)) & 0x7f800000u);
}
