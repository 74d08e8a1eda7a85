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

// A lane's parts of the sums of squares of the rows from `row` on that come before `end`, AT_ONCE of each on their way together.
template <int AT_ONCE, int ROWS>
__device__ __forceinline__ void owed_parts(const Owed& owed, int row, int end, float (&sum)[ROWS]) {
    const int lane = threadIdx.x % 32, parts = owed.squares ? owed.parts : 0;
    const float* from = owed.squares + unsigned(row * owed.parts + lane);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sum[r] = 0.f;
    auto add = [&](int first) {
        float part[ROWS][AT_ONCE];
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i)
                part[r][i] = row + r < end && lane + first + 32 * i < parts ? from[r * parts + first + 32 * i] : 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) sum[r] += part[r][i];
    };
    add(0);
    for (int first = 32 * AT_ONCE; first < parts; first += 32 * AT_ONCE) add(first);
}

// The same of one row, if there is one.
__device__ __forceinline__ float owed_part(const Owed& owed, int row, bool some) {
    float sum[1];
    owed_parts<5>(owed, row, row + some, sum);
    return sum[0];
}

// The scale of a row of x of `width`, of its lanes' parts.
__device__ __forceinline__ float owed_scale(float part, int width, float eps) {
    return rsqrtf(warp_sum(part) / width + eps);
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
