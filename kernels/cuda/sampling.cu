// From logits to token ids: a cluster of blocks a row (one block before Hopper), nothing is sorted.
//
// A filter amounts to a threshold: ids whose logit is above it are kept, and of those equal to it the first few.
// Thresholds are found from histograms, finer and finer. Probabilities are summed as integers (2^-40), so that neither
// the order of additions matters nor how many blocks share them. A logit that is NaN counts as minus infinity, plus
// infinity as the largest finite number; a row without any number above minus infinity gives id 0.
#include "sampling.cuh"

// What is kept: logits above `floor`, and the first `ties` ids of those equal to it, if they weigh `min_weight` or more.
struct Kept {
    float floor;
    uint32_t ties, excess;   // `excess` more are equal and not kept
    float max, inverse_temperature, min_weight;

    __device__ float weight(float logit) const { return expf((fminf(logit, FLT_MAX) - max) * inverse_temperature); }
    __device__ unsigned long long mass(float weight) const { return __float2ull_rn(weight * ONE); }
    __device__ unsigned long long mass_of(float logit) const { return mass(weight(logit)); }
};

// Logits at one distance from the largest, then keys within: what a threshold is known to lie in.
struct Range {
    float near, far;
    uint32_t low, high;
};

// Fills this block's histogram: into `bin_of(logit)` counts (`COUNT`) or masses, where that is a bin.
template <bool COUNT, typename F>
__device__ void fill(Part& part, const Kept& kept, F bin_of) {
    part.turn ^= 1;
    Shared& shared = part.shared;
    uint32_t *low = shared.low[part.turn], *high = shared.high[part.turn];
    for (int i = threadIdx.x; i < BINS; i += THREADS) low[i] = high[i] = 0;
    __syncthreads();
    part.for_each([&](uint32_t, float x) {
        if (!(x >= kept.floor)) return;
        const uint32_t bin = bin_of(fminf(x, FLT_MAX));
        if (bin >= BINS) return;
        if (COUNT) {
            atomicAdd(&low[bin], 1u);
            return;
        }
        // Additions of 64 bits would be loops that wait for one another.
        const unsigned long long mass = kept.mass_of(x);
        const uint32_t half = uint32_t(mass);
        uint32_t rest = uint32_t(mass >> 32);
        if (half) rest += atomicAdd(&low[bin], half) > ~half;
        if (rest) atomicAdd(&high[bin], rest);
    });
}

// Lowers `kept` to the smallest first-ranked set of `top_k` (`COUNT`) or whose mass reaches `top_p` of what is kept.
template <bool COUNT>
__device__ void keep_until(Part& part, uint32_t top_k, float top_p, Kept& kept) {
    // Bins by distance from the largest logit: 32 of it, or as far as there is any mass.
    const float scale = COUNT ? BINS / 32.f : scale_for(kept.inverse_temperature);
    fill<COUNT>(part, kept, [&](float x) { return min(__float2uint_rz((kept.max - x) * scale), BINS - 1u); });
    Sums sums = add_up<COUNT>(part);
    unsigned long long goal = top_k;
    if (COUNT) {
        if (goal >= sums.total) return;
    } else {
        const unsigned long long total = sums.total - kept.excess * kept.mass_of(kept.floor);
        const double part_of = ceil(double(top_p) * double(total));
        goal = part_of < 1. ? 1ull : part_of >= double(total) ? total : (unsigned long long)part_of;
    }
    Found found = find(sums, goal, part.shared);
    unsigned long long above = found.above;

    // Rounding of the distance moves its ends by less than 2^-23 of it.
    const float near = found.bin / scale, far = found.bin == BINS - 1 ? INFINITY : (found.bin + 1) / scale;
    uint32_t low = max(key_of(kept.floor), key_of(__fsub_rd(kept.max, far * (1.f + 0x1p-22f))));
    uint32_t high = min(key_of(kept.max), key_of(__fsub_ru(kept.max, near * (1.f - 0x1p-22f))));
    for (int shift = 32; shift > 0;) {
        shift = max(0, 32 - __clz(high - low) - LOG_BINS);
        fill<COUNT>(part, kept, [&](float x) {
            const float distance = kept.max - x;
            const uint32_t key = key_of(x);
            const bool inside = distance >= near && (distance < far || far == INFINITY) && key >= low && key <= high;
            return inside ? (high - key) >> shift : BINS;
        });
        sums = add_up<COUNT>(part);
        found = find(sums, goal - above, part.shared);
        above += found.above;
        high -= found.bin << shift;
        low = max(low, high - min(high, (1u << shift) - 1));
    }
    const float floor = logit_of(high);
    const unsigned long long each = COUNT ? 1 : kept.mass_of(floor), equal = found.here / each;
    uint32_t ties = uint32_t((goal - above + each - 1) / each);
    // Of the ties at the old threshold only so many were in the running.
    if (floor == kept.floor && kept.excess > 0) ties = min(ties, kept.ties);
    kept.floor = floor;
    kept.ties = ties;
    kept.excess = uint32_t(equal) - ties;
}

// Calls f(id, mass; 0 for what is not kept) for a warp's ids in their order; f returns whether to go on.
template <typename F>
__device__ void for_kept(const Part& part, const Kept& kept, Span span, uint32_t ties, F f) {
    constexpr int AT_ONCE = 4;
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t start = span.from; start < span.to; start += 32 * AT_ONCE) {
        float logits[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const uint32_t id = start + 32 * i + lane;
            logits[i] = id < span.to ? part.logit(id) : -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const float x = logits[i];
            bool inside = x >= kept.floor;
            if (kept.excess > 0) {
                const bool tie = fminf(x, FLT_MAX) == kept.floor;
                const uint32_t tied = __ballot_sync(FULL_WARP, tie);
                inside &= !tie || ties + __popc(tied & ((1u << lane) - 1)) < kept.ties;
                ties += __popc(tied);
            }
            const float weight = inside ? kept.weight(x) : 0.f;
            if (!f(start + 32 * i + lane, inside && weight >= kept.min_weight ? kept.mass(weight) : 0)) return;
        }
    }
}

// Ids equal to the threshold that come before those of this warp.
__device__ uint32_t ties_before(Part& part, const Kept& kept, Span span) {
    Shared& shared = part.shared;
    uint32_t ties = 0;
    for (uint32_t id = span.from + threadIdx.x % 32; id < span.to; id += 32)
        ties += fminf(part.logit(id), FLT_MAX) == kept.floor;
    ties = __reduce_add_sync(FULL_WARP, ties);
    const Scan scan = scan_warps(ties, shared);
    if (threadIdx.x == 0) shared.ties = scan.total;
    cluster_barrier(part.blocks);
    uint32_t before = uint32_t(scan.before);
    for (uint32_t rank = 0; rank < part.rank; ++rank) before += uint32_t(read(&shared.ties, rank, part.blocks));
    return before;
}

// The id at `bits` * 2^-53 of the way through what is kept; in one block of the row, nothing in the others.
__device__ void walk(Part& part, const Kept& kept, unsigned long long bits, uint32_t* out) {
    Shared& shared = part.shared;
    const Span span = part.of_warp(threadIdx.x / 32);
    const uint32_t ties = kept.excess > 0 ? ties_before(part, kept, span) : 0;
    unsigned long long mass = 0;
    for_kept(part, kept, span, ties, [&](uint32_t, unsigned long long m) {
        mass += m;
        return true;
    });
    mass = warp_total(mass);
    const Scan scan = scan_warps(mass, shared);
    if (threadIdx.x == 0) shared.mass = scan.total;
    cluster_barrier(part.blocks);
    unsigned long long total = 0, before = scan.before;
    for (uint32_t rank = 0; rank < part.blocks; ++rank) {
        const unsigned long long of_block = read(&shared.mass, rank, part.blocks);
        total += of_block;
        if (rank < part.rank) before += of_block;
    }
    const unsigned long long target = __umul64hi(total, bits << 11);
    if (target < before || target >= before + mass) return;
    const uint32_t lane = threadIdx.x % 32;
    for_kept(part, kept, span, ties, [&](uint32_t id, unsigned long long m) {
        const unsigned long long upto = before + warp_scan(m);
        const uint32_t past = __ballot_sync(FULL_WARP, upto > target);
        if (past && lane == __ffs(past) - 1) *out = id;
        before = __shfl_sync(FULL_WARP, upto, 31);
        return past == 0;
    });
}

__device__ void draw(Part& part, const Row& row, float max, uint32_t* out) {
    Kept kept = {-FLT_MAX, 0, 0, max, row.inverse_temperature, 0.f};
    if (row.top_k > 0 && row.top_k < part.vocab) keep_until<true>(part, row.top_k, 0.f, kept);
    if (row.top_p < 1.f) keep_until<false>(part, 0, row.top_p, kept);
    kept.min_weight = row.min_p > 0.f ? fminf(row.min_p, 1.f) : 0.f;
    walk(part, kept, random_bits(row), out);
}

__device__ void adjust(float* logits, const Part& part, const Row& row, Change* changes) {
    for (uint32_t i = threadIdx.x; i < row.num_changes; i += THREADS) {
        Change& change = changes[row.first_change + i];
        if (!part.has(change.id)) continue;
        float x = logits[change.id];
        change.saved = x;
        x += change.bias;
        if (change.seen) x = x > 0.f ? x / row.repetition : x * row.repetition;
        if (change.count) x -= row.presence + row.frequency * float(change.count);
        logits[change.id] = x;
    }
    __syncthreads();
}

__device__ void restore(float* logits, const Part& part, const Row& row, const Change* changes) {
    for (uint32_t i = threadIdx.x; i < row.num_changes; i += THREADS) {
        const Change& change = changes[row.first_change + i];
        if (part.has(change.id)) logits[change.id] = change.saved;
    }
}

// The largest logit of the row with its lowest id, as `ranked`.
__device__ unsigned long long largest(Part& part) {
    uint32_t key = 0, id = 0;
    part.for_each([&](uint32_t i, float x) {
        const uint32_t other = key_of(x);
        if (other > key) key = other, id = i;
    });
    const unsigned long long best = block_best(key ? ranked(key, id) : 0, part.shared);
    if (threadIdx.x == 0) part.shared.best = best;
    cluster_barrier(part.blocks);
    unsigned long long of_all = 0;
    for (uint32_t rank = 0; rank < part.blocks; ++rank) of_all = better(of_all, read(&part.shared.best, rank, part.blocks));
    return of_all;
}

// Logits (rows, vocab) are as before when it ends; `rows` are in the host's memory. Grid (blocks, rows): a cluster a row.
extern "C" __global__ void __launch_bounds__(THREADS) sample_rows(
    float* all_logits, uint32_t vocab, const Row* rows, Change* changes, const uint32_t* masks, uint32_t* out) {
    __shared__ Shared shared;
    __shared__ Row row;
    release_successor();
    // Once a block, and no kernel writes it.
    if (threadIdx.x < sizeof(Row) / 4)
        reinterpret_cast<uint32_t*>(&row)[threadIdx.x] = reinterpret_cast<const uint32_t*>(rows + blockIdx.y)[threadIdx.x];
    await_predecessor();
    __syncthreads();
    float* logits = all_logits + size_t(blockIdx.y) * vocab;
    Part part(logits, row.mask == NO_MASK ? nullptr : masks + row.mask, vocab, shared);
    if (row.num_changes > 0) adjust(logits, part, row, changes);
    const unsigned long long best = largest(part);
    const uint32_t key = best >> 32;
    if (key && row.temperature > 0.f) draw(part, row, logit_of(key), &out[blockIdx.y]);
    else if (part.rank == 0 && threadIdx.x == 0) out[blockIdx.y] = key ? 0xffffffffu - uint32_t(best) : 0;
    cluster_barrier(part.blocks);   // nobody leaves while its sums are read
    restore(logits, part, row, changes);
}

// ids[i] = drawn[sources[i]], but where the source is none. Grid (over rows).
extern "C" __global__ void feed_ids(const uint32_t* drawn, const uint32_t* sources, int rows, uint32_t* ids) {
    begin();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows && sources[i] != 0xffffffffu) ids[i] = drawn[sources[i]];
}

// Log probabilities of `token`, then of the `top` likeliest with their ids (a NaN past the last). One block.
extern "C" __global__ void __launch_bounds__(THREADS) logprobs_row(
    const float* logits, uint32_t vocab, uint32_t token, uint32_t top, float* out, uint32_t* ids) {
    __shared__ Shared shared;
    __shared__ double sums[WARPS];
    begin();
    unsigned long long best = 0;
    for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) best = better(best, ranked(key_of(logits[id]), id));
    best = block_best(best, shared);
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
        next = bar = block_best(next, shared);
        if (threadIdx.x == 0) {
            out[1 + i] = next >> 32 ? logprob(uint32_t(next >> 32)) : NAN;
            ids[i] = 0xffffffffu - uint32_t(next);
        }
    }
}
