// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n), for many rows, with the very sums of linear_stream.cu: a row has
// the same bits in a prompt and alone.
#include "mma.cuh"

// The order of linear_stream.cu: k in slices of 64, of which SHARES are summed up side by side (there by a warp each), slice
// after slice; then the shares in their order.
constexpr int SLICE = 64, SHARES = 8;
constexpr int UNITS = SLICE / 8;                   // of 16 bytes, of a row's slice
constexpr int ROWS = 128, COLUMNS = 128;           // of a block
constexpr int ROW_TILES = 4, COLUMN_TILES = 4;     // of a warp: 16 rows, 8 columns each
constexpr int WARPS = 8, COLUMN_WARPS = COLUMNS / (COLUMN_TILES * 8);
constexpr int STAGE = (ROWS + COLUMNS) * UNITS;
constexpr int DEPTH = 3;

__device__ __forceinline__ void copy_unit(uint4* to, const void* from, bool some) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                 "r"(some ? 16 : 0)
                 : "memory");
}

// Slices in the order in which they are summed up.
struct Slices {
    int share = 0, at = 0;

    __device__ __forceinline__ bool last_of_share(int k) const { return at + SHARES * SLICE >= k; }
    __device__ __forceinline__ void next(int k) {
        if (last_of_share(k)) ++share, at = share * SLICE;
        else at += SHARES * SLICE;
    }
};

// 16 bytes of each 32nd line of a block's operands: lines of x, then lines of the weight. Halves of a line change places in
// odd lines, so that the lanes of two read from different banks.
template <typename X> struct Bringer {
    const X *x, *weight;
    int row0, column0, rows, n, k;

    __device__ __forceinline__ void bring(uint4* stage, const Slices& slices) const {
        const int line0 = threadIdx.x / UNITS, unit = threadIdx.x % UNITS, column = slices.at + unit * 8;
        const bool there = slices.share < SHARES && column < k;
#pragma unroll
        for (int i = 0; i < (ROWS + COLUMNS) / 32; ++i) {
            const int line = line0 + 32 * i, own = line < ROWS ? row0 + line : column0 + line - ROWS;
            const bool inside = there && own < (line < ROWS ? rows : n);
            const X* from = line < ROWS ? x : weight;
            copy_unit(stage + line * UNITS + (unit ^ line % 2 * 4), inside ? from + size_t(own) * k + column : from, inside);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
};

// Grid (row tiles, column tiles); k a multiple of 8. Dynamic shared memory: DEPTH stages.
template <typename X, typename O>
__device__ __forceinline__ void ordered_body(
    const X* __restrict__ x, const X* __restrict__ weight, const float* bias, int rows, int n, int k, O* out) {
    extern __shared__ __align__(128) uint4 stages[];
    begin();
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int own_row = warp / COLUMN_WARPS * (16 * ROW_TILES), own_column = warp % COLUMN_WARPS * (8 * COLUMN_TILES);
    const Bringer<X> bringer{x, weight, int(blockIdx.x) * ROWS, int(blockIdx.y) * COLUMNS, rows, n, k};
    Slices now, ahead;
#pragma unroll
    for (int i = 0; i < DEPTH - 1; ++i) {
        bringer.bring(stages + i * STAGE, ahead);
        if (ahead.share < SHARES) ahead.next(k);
    }
    float total[ROW_TILES][COLUMN_TILES][4] = {}, sum[ROW_TILES][COLUMN_TILES][4] = {};
    for (int stage = 0; now.share < SHARES && now.at < k;) {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
        __syncthreads();   // the stage is there, and everybody has done with the one before
        bringer.bring(stages + (stage + DEPTH - 1) % DEPTH * STAGE, ahead);
        if (ahead.share < SHARES) ahead.next(k);
        const uint4* from = stages + stage * STAGE;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int unit = (h * 4 + t) ^ (g % 2 * 4);
            uint4 low[ROW_TILES], high[ROW_TILES], weights[COLUMN_TILES];
#pragma unroll
            for (int j = 0; j < COLUMN_TILES; ++j) weights[j] = from[(ROWS + own_column + 8 * j + g) * UNITS + unit];
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i) {
                low[i] = from[(own_row + 16 * i + g) * UNITS + unit];
                high[i] = from[(own_row + 16 * i + g + 8) * UNITS + unit];
            }
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i) {
                const uint32_t first[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
                const uint32_t second[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
#pragma unroll
                for (int j = 0; j < COLUMN_TILES; ++j) mma_anywhere<X>(sum[i][j], first, weights[j].x, weights[j].y);
#pragma unroll
                for (int j = 0; j < COLUMN_TILES; ++j) mma_anywhere<X>(sum[i][j], second, weights[j].z, weights[j].w);
            }
        }
        if (now.last_of_share(k)) {
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
                for (int j = 0; j < COLUMN_TILES; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) total[i][j][e] += sum[i][j][e], sum[i][j][e] = 0.f;
        }
        now.next(k);
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int column = bringer.column0 + own_column + 8 * j + 2 * t + e;
            if (column >= n) continue;
            const float more = bias ? bias[column] : 0.f;
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int row = bringer.row0 + own_row + 16 * i + g + 8 * r;
                    if (row < rows) out[size_t(row) * n + column] = from_float<O>(total[i][j][2 * r + e] + more);
                }
        }
}

#define DEFINE(X, O)                                                                                               \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) linear_ordered_##X##_##O(                          \
        const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {                          \
        ordered_body<X, O>(x, weight, bias, rows, n, k, out);                                                      \
    }
DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#undef DEFINE
