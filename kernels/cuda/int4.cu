// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n) for up to 16 rows and small weights, which are as in int4.cuh.
#include "int4.cuh"

__device__ __forceinline__ uint4 load_levels(const uint4* p) {
    uint4 v;
    // Read once: it shall not push out of the cache what is read again.
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ uint32_t word_of(const uint4& v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

// Scales and zero levels of a group as they are stored, for rows g and g + 8: a load that is looked at is waited for.
struct Group {
    uint16_t scale[2], zero[2];

    __device__ __forceinline__ void load(const Weight& w, int row, int group) {
        const size_t at = size_t(group) * w.padded + row;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            scale[i] = __ldg(reinterpret_cast<const uint16_t*>(w.scales) + at + 8 * i);
            zero[i] = w.zeros ? __ldg(w.zeros + at + 8 * i) : 8;
        }
    }
};

constexpr int TURN = 4;   // chunks that a warp takes at once

// Up to 8 * NT rows. A cluster of `slices` blocks makes 16 columns, its warps share out the turns of k. Levels of
// the first turn are on their way before the predecessor has ended. Products go to two sums in turn, as each waits for the
// one before.
template <typename X, int NT, int G>
__device__ __forceinline__ void few_rows(const X* __restrict__ x, const Weight& weight, const float* bias, int rows,
    int n, int k, int stride, bool exact, int slices, void* out) {
    constexpr int GROUPS = TURN * CHUNK / G, WIDTH = 20;
    extern __shared__ __align__(16) float partial[];   // (warps, 8 * NT, WIDTH)
    __shared__ float4 given[8 * NT * 4 + 4];           // by each block, of the quads that this one finishes
    __shared__ uint64_t barrier;
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int rank = slices > 1 ? cluster_rank() : 0, warp = threadIdx.x / 32;
    const int tile = blockIdx.x / slices, chunks = weight.chunks;
    release_successor();
    const Arrivals arrivals{&barrier};
    if (slices > 1) {
        if (threadIdx.x == 0) arrivals.begin((rows * 4 + slices - 1 - rank) / slices * slices * sizeof(float4));
        cluster_arrive();
    }
    uint4 low[TURN], high[TURN];
    Group group[GROUPS];
    auto fetch_levels = [&](int first, int c) {
        const uint4* from = weight.at(16 * tile + g, first + c);
        const bool there = first + c < chunks;
        low[c] = there ? load_levels(from) : make_uint4(0, 0, 0, 0);
        high[c] = there ? load_levels(from + size_t(8) * chunks * PIECES) : make_uint4(0, 0, 0, 0);
    };
    auto fetch_group = [&](int first, int i) {
        const int at = first * CHUNK / G + i;
        if (at < chunks * CHUNK / G) group[i].load(weight, 16 * tile + g, at);
    };
    const int first_chunk = (rank * warps + warp) * TURN, stride_chunks = warps * slices * TURN;
#pragma unroll
    for (int c = 0; c < TURN; ++c) fetch_levels(first_chunk, c);
#pragma unroll
    for (int i = 0; i < GROUPS; ++i) {
        group[i] = {{0, 0}, {8, 8}};
        fetch_group(first_chunk, i);
    }
    await_predecessor();
    float sum[NT][4] = {}, even[NT][4] = {}, odd[NT][4] = {};
    for (int first = first_chunk; first < chunks; first += stride_chunks) {
        const int next = first + stride_chunks;
#pragma unroll
        for (int c = 0; c < TURN; ++c) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = (first + c) * CHUNK + 32 * j + 8 * t, i = (c * CHUNK + 32 * j) / G;
                uint4 b[NT];
#pragma unroll
                for (int v = 0; v < NT; ++v)
                    b[v] = at < k && 8 * v + g < rows ? *reinterpret_cast<const uint4*>(x + size_t(8 * v + g) * k + at)
                                                      : make_uint4(0, 0, 0, 0);
                const uint32_t zero[2] = {offset<X>(group[i].zero[0]), offset<X>(group[i].zero[1])};
                uint32_t a[4], d[4];
                unpack<X>(word_of(low[c], j), word_of(high[c], j), 0, zero, a);
                unpack<X>(word_of(low[c], j), word_of(high[c], j), 1, zero, d);
#pragma unroll
                for (int v = 0; v < NT; ++v) mma<X>(even[v], a, b[v].x, b[v].y);
#pragma unroll
                for (int v = 0; v < NT; ++v) mma<X>(odd[v], d, b[v].z, b[v].w);
                if ((c * CHUNK + 32 * j + 32) % G == 0) {
                    add_group<X>(sum, even, scale_of(group[i].scale[0]), scale_of(group[i].scale[1]));
                    add_group<X>(sum, odd, scale_of(group[i].scale[0]), scale_of(group[i].scale[1]));
                    fetch_group(next, i);
                }
            }
            fetch_levels(next, c);
        }
    }
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            partial[(warp * 8 * NT + 8 * j + 2 * t + i % 2) * WIDTH + g + i / 2 * 8] = sum[j][i];
    __syncthreads();
    auto store = [&](int row, int column, float total) {
        const int col = tile * 16 + column;
        if (col < n) store_result(out, exact, size_t(row) * stride + col, total + (bias ? bias[col] : 0.f), X());
    };
    for (int i = threadIdx.x; i < rows * 16 && slices == 1; i += blockDim.x) {
        const int row = i / 16, column = i % 16;
        float total = 0.f;
        for (int v = 0; v < warps; ++v) total += partial[(v * 8 * NT + row) * WIDTH + column];
        store(row, column, total);
    }
    if (slices == 1) return;
    const int shift = __ffs(slices) - 1, most = rows * 4 + slices - 1, each = most >> shift, count = (most - rank) >> shift;
    cluster_wait();   // all have begun
    for (int i = threadIdx.x; i < rows * 4; i += blockDim.x) {
        const float* from = partial + i / 4 * WIDTH + i % 4 * 4;
        float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
        for (int v = 0; v < warps; ++v, from += 8 * NT * WIDTH) total = total + *reinterpret_cast<const float4*>(from);
        Neighbour(i & (slices - 1), arrivals).send(given + rank * each + (i >> shift), total);
    }
    arrivals.wait();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int quad = rank + (i << shift), row = quad / 4, column = quad % 4 * 4;
        float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
        for (int v = 0; v < slices; ++v) total = total + given[v * each + i];
        store(row, column, total.x);
        store(row, column + 1, total.y);
        store(row, column + 2, total.z);
        store(row, column + 3, total.w);
    }
}

#define FEW(X, NT, G)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                           \
    int4_few_##NT##_g##G##_##X(const X* x, const uint4* levels, const f16* scales, const uint16_t* zeros,          \
        const float* bias, int rows, int n, int k, int stride, int exact, int slices, void* out) {                 \
        const Weight weight(levels, scales, zeros, n, k);                                                          \
        few_rows<X, NT, G>(x, weight, bias, rows, n, k, stride, exact, slices, out);                               \
    }
#define DEFINE(X, G) FEW(X, 1, G) FEW(X, 2, G)
DEFINE(bf16, 32) DEFINE(bf16, 64) DEFINE(bf16, 128) DEFINE(f16, 32) DEFINE(f16, 64) DEFINE(f16, 128)
#undef DEFINE
