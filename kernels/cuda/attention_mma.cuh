// Attention over the paged cache on tensor cores: 16-bit elements, blocks of 16 tokens, heads of 64 or 128.
//
// The query heads that share a key head are rows of one product. Of keys, a lane takes 16 bytes of a token (both sides
// of the product are permuted alike), of values four neighbouring tokens, which are just those whose probabilities it
// holds: straight from the cache, or from a ring in shared memory that copies fill.
#pragma once

#include "mma.cuh"

constexpr int BLOCK = 16;   // tokens

struct Batch {
    const uint32_t *cu_seqlens, *context_lens, *tables;
    int max_blocks, num_seqs;
};

struct Shape {
    int heads, kv_heads;
    float scale;   // times log2(e)
    int window;    // 0 sees everything
};

// Of 16 rows: the running maximum, the sum of probabilities and the mixed values. Row g and row g + 8 of lane
// 4 g + t.
template <int D> struct State {
    float largest[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.f, 0.f};
    float mixed[D / 8][4] = {};
};

// The tokens of a block that 16 query rows may see: the first and the last + 1 of rows g and g + 8, and the last + 1 that
// any row of the warp may see, all in the block's own numbering.
struct Seen {
    int low[2], high[2], end;
};

// Turns scores into probabilities, relative to the largest score so far, and says how much of what was summed before
// `keep`s its weight.
template <int D>
__device__ __forceinline__ void weigh(
    float (&score)[2][4], const Seen& seen, float scale, State<D>& state, float (&keep)[2]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float largest = state.largest[r];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = 4 * t + i;
            float& s = score[i / 2][2 * r + i % 2];
            s = token >= seen.low[r] && token < seen.high[r] ? s * scale : -INFINITY;
            largest = fmaxf(largest, s);
        }
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        // Nothing seen yet: any finite number does.
        const float base = largest == -INFINITY ? 0.f : largest;
        keep[r] = state.largest[r] == -INFINITY ? 1.f : exp2f(state.largest[r] - base);
        state.largest[r] = largest;
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float& s = score[i / 2][2 * r + i % 2];
            s = exp2f(s - base);
            sum += s;
        }
        state.sum[r] = state.sum[r] * keep[r] + sum;
    }
}

template <int D> __device__ __forceinline__ void decay(State<D>& state, int d, const float (&keep)[2]) {
    state.mixed[d][0] *= keep[0];
    state.mixed[d][1] *= keep[0];
    state.mixed[d][2] *= keep[1];
    state.mixed[d][3] *= keep[1];
}

// What of a pair of values of tokens 4 t to 4 t + 3 counts: what lies behind the last token was never written, or by
// another sequence, and may be no number.
__device__ __forceinline__ uint2 mask_behind(int end) {
    const int t = threadIdx.x % 4;
    return make_uint2((4 * t < end ? 0xffffu : 0u) | (4 * t + 1 < end ? 0xffff0000u : 0u),
                      (4 * t + 2 < end ? 0xffffu : 0u) | (4 * t + 3 < end ? 0xffff0000u : 0u));
}

// The lanes of a row each summed four tokens of a block.
template <int D> __device__ __forceinline__ void finish_sums(State<D>& state) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        state.sum[r] += __shfl_xor_sync(FULL_WARP, state.sum[r], 1);
        state.sum[r] += __shfl_xor_sync(FULL_WARP, state.sum[r], 2);
    }
}

// A row's query as a lane of the product needs it; nothing where there is no row.
template <typename T, int D>
__device__ __forceinline__ void load_query(const T* low, const T* high, uint32_t (&query)[D / 16][4]) {
    const int t = threadIdx.x % 4;
    const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int c = 0; c < D / 32; ++c) {
        const uint4 a = low ? *reinterpret_cast<const uint4*>(low + c * 32 + t * 8) : zero;
        const uint4 b = high ? *reinterpret_cast<const uint4*>(high + c * 32 + t * 8) : zero;
        query[2 * c][0] = a.x, query[2 * c][1] = b.x, query[2 * c][2] = a.y, query[2 * c][3] = b.y;
        query[2 * c + 1][0] = a.z, query[2 * c + 1][1] = b.z, query[2 * c + 1][2] = a.w, query[2 * c + 1][3] = b.w;
    }
}
