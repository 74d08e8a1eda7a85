// The RMS norm between two products, with no kernel of its own: what it multiplies a row by commutes with the product after it.
// The product before adds to the residual, writes it times the norm's weight, and of each row a sum of squares a block; the
// product after multiplies its results by the row's scale, on which nothing waits until then.
#pragma once

#include "common.cuh"

// The scale of each row of x, still to be multiplied by: as `parts` sums of squares a row. Null: there is none.
struct Owed {
    const float* squares;
    int parts;
    float eps;
};

// A lane's part of the sums of squares of a row, AT_ONCE on their way together.
__device__ __forceinline__ float owed_part(const Owed& owed, int row, bool some) {
    constexpr int AT_ONCE = 5;
    const int lane = threadIdx.x % 32, parts = owed.squares && some ? owed.parts : 0;
    const float* from = owed.squares + unsigned(row * owed.parts + lane);
    float sum = 0.f;
    auto add = [&](int first) {
        float part[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) part[i] = lane + first + 32 * i < parts ? from[first + 32 * i] : 0.f;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) sum += part[i];
    };
    add(0);
    for (int first = 32 * AT_ONCE; first < parts; first += 32 * AT_ONCE) add(first);
    return sum;
}

// The scale of a row of x of `width`, of its lanes' parts.
__device__ __forceinline__ float owed_scale(float part, int width, float eps) {
    return rsqrtf(warp_sum(part) / width + eps);
}

// Of the sums of twice COUNT rows a lane goes on with COUNT, of which it gets what another lane has, and so on until it has one.
template <int COUNT> __device__ __forceinline__ void keep_half(float (&sum)[16]) {
    const bool upper = threadIdx.x & 2 * COUNT;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const float low = sum[i], high = sum[i + COUNT];
        sum[i] = (upper ? high : low) + __shfl_xor_sync(FULL_WARP, upper ? low : high, 2 * COUNT);
    }
    if constexpr (COUNT > 1) keep_half<COUNT / 2>(sum);
}

// The same of 16 rows, each `apart` from the one before, of which lanes 2 i and 2 i + 1 get that of the i-th; those from `count`
// on mean nothing. Few instructions, which nothing has fetched before.
__device__ __forceinline__ float owed_scales(const Owed& owed, int row, int apart, int count, int width) {
    const int lane = threadIdx.x % 32;
    float sum[16] = {};
#pragma unroll 1
    for (int part = lane; part < (owed.parts + 31) / 32 * 32; part += 32) {
        float more[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const unsigned at = (row + min(i, count - 1) * apart) * owed.parts + part;
            more[i] = part < owed.parts ? owed.squares[at] : 0.f;
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) sum[i] += more[i];
    }
    keep_half<8>(sum);
    return rsqrtf((sum[0] + __shfl_xor_sync(FULL_WARP, sum[0], 1)) / width + owed.eps);
}

// Where a product's results are added, and what the next one needs.
struct Sums {
    float* residual;      // (rows, n), in and out
    const float* weight;  // of the norm
    float* squares;       // (rows, blocks)
};

// A row's new residual, and out; its square.
template <typename X>
__device__ __forceinline__ float add_result(const Sums& to, size_t at, float y, float weight, X* out) {
    out[at] = from_float<X>(y * weight);
    to.residual[at] = y;
    return y * y;
}
