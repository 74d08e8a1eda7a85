// Attention to a block of the paged cache straight from memory.
#pragma once

#include "attention_mma.cuh"

// Which 64 rows a block has: of each sequence, with several query rows or any (`singles`), position by position the query heads
// of one key head, the longest first. False for a block past the last.
__device__ __forceinline__ bool find_tile(const Batch& batch, int group, int singles, int& seq, int& tile, int& rows) {
    tile = blockIdx.x;
    for (seq = 0;; ++seq) {
        if (seq == batch.num_seqs) return false;
        rows = batch.cu_seqlens[seq + 1] - batch.cu_seqlens[seq];
        const int tiles = rows == 1 && !singles ? 0 : (rows * group + 63) / 64;
        if (tile < tiles) {
            tile = tiles - 1 - tile;
            return true;
        }
        tile -= tiles;
    }
}

// What rows g and g + 8 of a lane, at these positions, see of block `b`; `top` is the last position of the warp's rows.
__device__ __forceinline__ Seen seen_of(const int (&position)[2], int top, int window, int b) {
    Seen seen;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        seen.low[r] = window > 0 ? position[r] + 1 - window - b * BLOCK : 0;
        seen.high[r] = position[r] + 1 - b * BLOCK;
    }
    seen.end = top + 1 - b * BLOCK;
    return seen;
}

// One block of keys and values in the cache for 16 query rows. All of it is asked for before any is used.
template <typename T, int D>
__device__ __forceinline__ void attend_cached(
    const uint32_t (&query)[D / 16][4], const T* keys, const T* values, const Seen& seen, float scale, State<D>& state) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 k[2][D / 32];
    uint2 v[D / 8];
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int c = 0; c < D / 32; ++c)
            // Column g of tile j is this token, so that a lane's scores are of tokens 4 t to 4 t + 3.
            k[j][c] = *reinterpret_cast<const uint4*>(keys + (4 * (g / 2) + g % 2 + 2 * j) * D + c * 32 + t * 8);
#pragma unroll
    for (int d = 0; d < D / 8; ++d) v[d] = *reinterpret_cast<const uint2*>(values + (8 * d + g) * BLOCK + 4 * t);
    float score[2][4] = {}, keep[2];
#pragma unroll
    for (int c = 0; c < D / 32; ++c)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            mma<T>(score[j], query[2 * c], k[j][c].x, k[j][c].y);
            mma<T>(score[j], query[2 * c + 1], k[j][c].z, k[j][c].w);
        }
    weigh<D>(score, seen, scale, state, keep);
    if (seen.end < BLOCK) {
        const uint2 mask = mask_behind(seen.end);
#pragma unroll
        for (int d = 0; d < D / 8; ++d) v[d] = make_uint2(v[d].x & mask.x, v[d].y & mask.y);
    }
    const uint32_t p[4] = {pack2<T>(score[0][0], score[0][1]), pack2<T>(score[0][2], score[0][3]),
                           pack2<T>(score[1][0], score[1][1]), pack2<T>(score[1][2], score[1][3])};
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
        decay<D>(state, d, keep);
        mma<T>(state.mixed[d], p, v[d].x, v[d].y);
    }
}
