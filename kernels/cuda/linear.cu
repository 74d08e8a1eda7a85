// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n).
#include "mma.cuh"

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

constexpr int WARPS = 8;
constexpr int AHEAD = 2048;   // bytes of a weight row that are asked for before the predecessor has ended
constexpr int STEP = 64;   // elements of k that a warp takes at once: a cache line of each weight row

__device__ __forceinline__ uint4 load_weight(const void* p) {
    uint4 v;
    // Read once: it shall not push out of the cache what is read again.
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// Asks for a row to come into the second-level cache.
__device__ __forceinline__ void prefetch_row(const void* row, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(row), "r"(bytes));
#endif
}

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Writes to the shared memory of the cluster's first block, at the place that `p` has in this one.
__device__ __forceinline__ void store_first(float* p, float x) {
#if __CUDA_ARCH__ >= 900
    unsigned at;
    asm("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(at) : "r"(unsigned(__cvta_generic_to_shared(p))));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory");
#endif
}

// Up to 16 * MT rows; k a multiple of 8. A block makes 8 * NT columns; its warps share out k. The products of
// 16 bytes of a weight row with 16 bytes of an x row are two steps of a tensor-core product, in which both sides
// are permuted alike. A result depends on its row alone. With SHARES blocks a cluster, these share
// the warps: more and smaller blocks divide better among the multiprocessors.
template <typename X, typename O, int MT, int NT, int UNROLL, int SHARES>
__device__ __forceinline__ void gemv_body(
    const X* __restrict__ x, const X* __restrict__ weight, const float* bias, int rows, int n, int k, O* out) {
    __shared__ float partial[WARPS][MT * 16][8 * NT];
    const int rank = SHARES > 1 ? cluster_rank() : 0;
    const int warp = rank * (WARPS / SHARES) + threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int col0 = blockIdx.x / SHARES * 8 * NT;
    if (SHARES > 1) cluster_arrive();
    const X* w[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) w[j] = weight + size_t(min(col0 + 8 * j + g, n - 1)) * k;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 next[UNROLL][NT][2];
    auto fetch = [&](int k0) {
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int j = 0; j < NT; ++j)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int at = k0 + u * WARPS * STEP + h * 32 + t * 8;
                    next[u][j][h] = at < k ? load_weight(w[j] + at) : zero;
                }
    };
    release_successor();
    fetch(warp * STEP);
    // While earlier kernels still run, the memory has time for more of this block's weights; too many would push one
    // another out of the cache before they are read.
    if (rank == 0 && threadIdx.x < 8 * NT)
        prefetch_row(weight + size_t(min(col0 + int(threadIdx.x), n - 1)) * k, min(k * int(sizeof(X)), AHEAD));
    await_predecessor();
    float sum[MT][NT][4] = {};
    for (int k0 = warp * STEP; k0 < k; k0 += UNROLL * WARPS * STEP) {
        uint4 now[UNROLL][NT][2];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int j = 0; j < NT; ++j)
#pragma unroll
                for (int h = 0; h < 2; ++h) now[u][j][h] = next[u][j][h];
        if (k0 + UNROLL * WARPS * STEP < k) fetch(k0 + UNROLL * WARPS * STEP);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = k0 + u * WARPS * STEP + h * 32 + t * 8;
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    const int low = 16 * m + g, high = low + 8;
                    const uint4 a = at < k && low < rows ? *reinterpret_cast<const uint4*>(x + size_t(low) * k + at) : zero;
                    const uint4 b = at < k && high < rows ? *reinterpret_cast<const uint4*>(x + size_t(high) * k + at) : zero;
                    const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
                    for (int j = 0; j < NT; ++j) {
                        mma<X>(sum[m][j], first, now[u][j][h].x, now[u][j][h].y);
                        mma<X>(sum[m][j], second, now[u][j][h].z, now[u][j][h].w);
                    }
                }
            }
    }
    if (SHARES > 1) cluster_wait();   // the first block is there
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float* to = &partial[warp][16 * m + g + i / 2 * 8][8 * j + 2 * t + i % 2];
                if (SHARES > 1 && rank > 0) store_first(to, sum[m][j][i]);
                else *to = sum[m][j][i];
            }
    if (SHARES > 1) {
        cluster_arrive();
        cluster_wait();
        if (rank > 0) return;
    } else {
        __syncthreads();
    }
    for (int i = threadIdx.x; i < rows * 8 * NT; i += WARPS / SHARES * 32) {
        const int row = i / (8 * NT), column = i % (8 * NT), col = col0 + column;
        if (col >= n) continue;
        float total = 0.f;
#pragma unroll
        for (int v = 0; v < WARPS; ++v) total += partial[v][row][column];
        out[size_t(row) * n + col] = from_float<O>(total + (bias ? bias[col] : 0.f));
    }
}

#define DEFINE(X, O)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
    linear_tiled_##X##_##O(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {       \
        linear_tiled_body(x, weight, bias, rows, n, k, out);                                                       \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

#define DEFINE(X, O)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                           \
    gemv_1_##X##_##O(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {             \
        gemv_body<X, O, 1, 1, 4, 1>(x, weight, bias, rows, n, k, out);                                             \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                           \
    gemv_2_##X##_##O(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {             \
        gemv_body<X, O, 1, 2, 2, 1>(x, weight, bias, rows, n, k, out);                                             \
    }                                                                                                              \
    extern "C" __global__ void CLUSTER_OF_2 __launch_bounds__(128, 6)                                              \
    gemv_half_##X##_##O(const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {          \
        gemv_body<X, O, 1, 1, 2, 2>(x, weight, bias, rows, n, k, out);                                             \
    }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER_OF_2
#else
#define CLUSTER_OF_2 __cluster_dims__(2, 1, 1)
#endif
DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#undef DEFINE
