// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n).
#include "common.cuh"

// Any element type and shape: a tile of 64 x 64 a block, 4 x 4 a thread. A result's products are added in the
// order of k, whatever else is in the call.
template <typename X, typename O>
__device__ void linear_tiled_body(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float xs[DEPTH][TILE + 1], ws[DEPTH][TILE + 1];
    begin();
    const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += 256) {
            const int line = i / DEPTH, d = i % DEPTH;
            const bool inside = k0 + d < k;
            xs[d][line] = inside && row0 + line < rows ? to_float(x[size_t(row0 + line) * k + k0 + d]) : 0.f;
            ws[d][line] = inside && col0 + line < n ? to_float(weight[size_t(col0 + line) * k + k0 + d]) : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += xs[d][ty + 16 * i] * ws[d][tx + 16 * j];
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const int row = row0 + ty + 16 * i, col = col0 + tx + 16 * j;
            if (row < rows && col < n)
                out[size_t(row) * n + col] = from_float<O>(sum[i][j] + (bias ? bias[col] : 0.f));
        }
}

#define DEFINE(X, O)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
    linear_tiled_##X##_##O(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {       \
        linear_tiled_body(x, weight, bias, rows, n, k, out);                                                       \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE
