// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n), the weight as in int4.cuh.
#include "int4.cuh"

__device__ __forceinline__ uint4 load_levels(const uint4* p) {
    uint4 v;
    // Read once: it shall not push out of the cache what is read again.
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Reads the shared memory of block `rank` of the cluster, at the place that `p` has in this one.
__device__ __forceinline__ float load_of(const float* p, unsigned rank) {
    float x = 0.f;
#if __CUDA_ARCH__ >= 900
    unsigned at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(p)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
#endif
    return x;
}

constexpr int CHUNK = 8;   // units that a warp takes at once

// Up to 8 * NT rows. A cluster of `slices` blocks makes 16 columns, its warps share out the chunks of k. Levels of
// the first chunk are on their way before the predecessor has ended. Products go to two sums in turn, as each waits for the
// one before.
template <typename X, int NT, int G>
__device__ __forceinline__ void few_rows(const X* __restrict__ x, const Weight& weight, const float* bias, int rows,
    int n, int k, int stride, bool exact, int slices, void* out) {
    constexpr int GROUPS = CHUNK * UNIT / G, WIDTH = 17;
    extern __shared__ float partial[];   // (warps, 8 * NT, WIDTH)
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int rank = slices > 1 ? cluster_rank() : 0, warp = threadIdx.x / 32;
    const int tile = blockIdx.x / slices, units = weight.units;
    release_successor();
    const uint4* levels = weight.levels + size_t(tile) * units * 32 + lane;
    uint4 word[CHUNK];
    Group group[GROUPS];
    auto fetch_word = [&](int first, int u) {
        word[u] = first + u < units ? load_levels(levels + size_t(first + u) * 32) : make_uint4(0, 0, 0, 0);
    };
    auto fetch_group = [&](int first, int i) {
        const int at = first * UNIT / G + i;
        if (at < units * UNIT / G) load_group<G>(weight, tile, at, g, group[i]);
    };
    const int first_unit = (rank * warps + warp) * CHUNK, stride_units = warps * slices * CHUNK;
#pragma unroll
    for (int u = 0; u < CHUNK; ++u) fetch_word(first_unit, u);
#pragma unroll
    for (int i = 0; i < GROUPS; ++i) {
        group[i] = {0, 0x808};
        fetch_group(first_unit, i);
    }
    await_predecessor();
    float sum[NT][4] = {}, even[NT][4] = {}, odd[NT][4] = {};
    for (int first = first_unit; first < units; first += stride_units) {
        const int next = first + stride_units;
#pragma unroll
        for (int u = 0; u < CHUNK; ++u) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = (first + u) * UNIT + 32 * h + 8 * t;
                uint4 b[NT];
#pragma unroll
                for (int j = 0; j < NT; ++j)
                    b[j] = at < k && 8 * j + g < rows ? *reinterpret_cast<const uint4*>(x + size_t(8 * j + g) * k + at)
                                                      : make_uint4(0, 0, 0, 0);
                const Group& of = group[(u * UNIT + 32 * h) / G];
                uint32_t zero[2], a[4], c[4];
                offsets<X>(of, zero);
                unpack<X>(h ? word[u].z : word[u].x, zero, a);
                unpack<X>(h ? word[u].w : word[u].y, zero, c);
#pragma unroll
                for (int j = 0; j < NT; ++j) mma<X>(even[j], a, b[j].x, b[j].y);
#pragma unroll
                for (int j = 0; j < NT; ++j) mma<X>(odd[j], c, b[j].z, b[j].w);
                if ((u * UNIT + 32 * h + 32) % G == 0) {
                    add_group<NT>(sum, even, of);
                    add_group<NT>(sum, odd, of);
                    fetch_group(next, (u * UNIT + 32 * h) / G);
                }
            }
            fetch_word(next, u);
        }
    }
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            partial[(warp * 8 * NT + 8 * j + 2 * t + i % 2) * WIDTH + g + i / 2 * 8] = sum[j][i];
    __syncthreads();
    for (int i = threadIdx.x; i < rows * 16; i += blockDim.x) {
        const int row = i / 16, column = i % 16, col = tile * 16 + column;
        float total = 0.f;
        for (int v = 0; v < warps; ++v) total += partial[(v * 8 * NT + row) * WIDTH + column];
        if (slices > 1) partial[row * WIDTH + column] = total;
        else if (col < n) store_result(out, exact, size_t(row) * stride + col, total + (bias ? bias[col] : 0.f), X());
    }
    if (slices == 1) return;
    cluster_barrier();
    for (int i = rank * blockDim.x + threadIdx.x; i < rows * 16; i += slices * blockDim.x) {
        const int row = i / 16, column = i % 16, col = tile * 16 + column;
        if (col >= n) continue;
        float total = 0.f;
        for (int v = 0; v < slices; ++v) total += load_of(partial + row * WIDTH + column, v);
        store_result(out, exact, size_t(row) * stride + col, total + (bias ? bias[col] : 0.f), X());
    }
    cluster_barrier();   // nobody leaves while its sums are read
}

constexpr int COLUMNS = 128, STAGES = 4;   // of a block with 8 warps

// A tile of 8 * NT rows and 128 columns a block: 16 weight rows a warp. x comes through shared memory, levels straight
// into registers. `slices` blocks of a cluster share out k; each then adds up some of the rows.
template <typename X, int NT, int G>
__device__ __forceinline__ void more_rows(const X* __restrict__ x, const Weight& weight, const float* bias, int rows,
    int n, int k, int stride, bool exact, int slices, void* out) {
    constexpr int TILE_ROWS = 8 * NT, WIDTH = COLUMNS + 4, AHEAD = 4;
    constexpr int STAGE_BYTES = TILE_ROWS * UNIT * 2, SUM_BYTES = TILE_ROWS * WIDTH * 4;
    __shared__ __align__(128) unsigned char memory[STAGES * STAGE_BYTES > SUM_BYTES ? STAGES * STAGE_BYTES : SUM_BYTES];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int rank = slices > 1 ? cluster_rank() : 0;
    const int col0 = blockIdx.x / slices * COLUMNS, row0 = blockIdx.y * TILE_ROWS;
    // Slices are of whole groups: units come in pairs.
    const int share = (weight.units + 2 * slices - 1) / (2 * slices) * 2;
    const int begin_unit = rank * share, end_unit = min(begin_unit + share, weight.units);
    const int tile = min(col0 / 16 + warp, weight.tiles - 1);
    const uint4* levels = weight.levels + size_t(tile) * weight.units * 32 + lane;
    release_successor();
    constexpr int GROUPS = G == 32 ? 2 : 1;   // of a unit
    uint4 word[AHEAD];
    Group group[AHEAD][GROUPS];
    // Past the end is what lies there, which nobody uses.
    auto fetch_word = [&](int slot, int unit) {
        unit = min(unit, weight.units - 1);
        word[slot] = load_levels(levels + size_t(unit) * 32);
#pragma unroll
        for (int i = 0; i < GROUPS; ++i) load_group<G>(weight, tile, unit * UNIT / G + i, g, group[slot][i]);
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch_word(i, begin_unit + i);
    await_predecessor();
    // Halves of a row change places in odd rows, so that eight lanes read from all banks.
    auto fetch_x = [&](int unit) {
        unsigned char* to = memory + unit % STAGES * STAGE_BYTES;
        for (int i = threadIdx.x; i < TILE_ROWS * 8; i += 256) {
            const int row = i / 8, piece = i % 8, at = unit * UNIT + 8 * piece;
            const bool there = unit < end_unit && row0 + row < rows && at < k;
            copy16(to + row * 128 + (piece ^ (row % 2 * 4)) * 16, there ? x + size_t(row0 + row) * k + at : x, there);
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) fetch_x(begin_unit + i);
    float sum[NT][4] = {}, part[NT][4] = {};
    for (int unit0 = begin_unit; unit0 < end_unit; unit0 += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int unit = unit0 + i;
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
            __syncthreads();
            fetch_x(unit + STAGES - 1);
            if (unit >= end_unit) continue;
            const unsigned char* from = memory + unit % STAGES * STAGE_BYTES;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const Group& of = group[i][h * GROUPS / 2];
                uint32_t zero[2], first[4], second[4];
                offsets<X>(of, zero);
                unpack<X>(h ? word[i].z : word[i].x, zero, first);
                unpack<X>(h ? word[i].w : word[i].y, zero, second);
#pragma unroll
                for (int j0 = 0; j0 < NT; j0 += 4) {   // four sums in turn, as each waits for its last product
                    uint4 b[4];
#pragma unroll
                    for (int j = 0; j < 4; ++j)
                        b[j] = *reinterpret_cast<const uint4*>(
                            from + (8 * (j0 + j) + g) * 128 + ((4 * h + t) ^ (g % 2 * 4)) * 16);
#pragma unroll
                    for (int j = 0; j < 4; ++j) mma<X>(part[j0 + j], first, b[j].x, b[j].y);
#pragma unroll
                    for (int j = 0; j < 4; ++j) mma<X>(part[j0 + j], second, b[j].z, b[j].w);
                }
                if (G == 32 || (h == 1 && (G == 64 || unit % 2 == 1))) add_group<NT>(sum, part, of);
            }
            fetch_word(i, unit + AHEAD);
        }
    }
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    float* sums = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[(8 * j + 2 * t + i % 2) * WIDTH + 16 * warp + g + i / 2 * 8] = sum[j][i];
    if (slices > 1) cluster_barrier();
    else __syncthreads();
    const int each = TILE_ROWS / slices;
    for (int i = threadIdx.x; i < each * COLUMNS; i += 256) {
        const int row = rank * each + i / COLUMNS, column = i % COLUMNS, col = col0 + column;
        if (row0 + row >= rows || col >= n) continue;
        const float* at = sums + row * WIDTH + column;
        float total = slices > 1 ? 0.f : *at;
        if (slices > 1)
            for (int v = 0; v < slices; ++v) total += load_of(at, v);
        store_result(out, exact, size_t(row0 + row) * stride + col, total + (bias ? bias[col] : 0.f), X());
    }
    if (slices > 1) cluster_barrier();   // nobody leaves while its sums are read
}

#define FEW(X, NT, G)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                           \
    int4_few_##NT##_g##G##_##X(const X* x, const uint4* levels, const uint32_t* scales, const uint16_t* zeros,     \
        const float* bias, int rows, int n, int k, int stride, int exact, int slices, void* out) {                 \
        const Weight weight = {levels, scales, zeros, (n + 15) / 16, (k + UNIT - 1) / UNIT};                       \
        few_rows<X, NT, G>(x, weight, bias, rows, n, k, stride, exact, slices, out);                               \
    }
#define DEFINE(X, G)                                                                                               \
    FEW(X, 1, G) FEW(X, 2, G)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                           \
    int4_more_g##G##_##X(const X* x, const uint4* levels, const uint32_t* scales, const uint16_t* zeros,           \
        const float* bias, int rows, int n, int k, int stride, int exact, int slices, void* out) {                 \
        const Weight weight = {levels, scales, zeros, (n + 15) / 16, (k + UNIT - 1) / UNIT};                       \
        more_rows<X, 4, G>(x, weight, bias, rows, n, k, stride, exact, slices, out);                               \
    }
DEFINE(bf16, 32) DEFINE(bf16, 64) DEFINE(bf16, 128) DEFINE(f16, 32) DEFINE(f16, 64) DEFINE(f16, 128)
#undef DEFINE
