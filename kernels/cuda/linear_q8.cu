// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n), for up to 64 rows of 16-bit elements and weights of 8-bit levels with
// a scale for each 32 columns (Q8_0 of GGUF): the time that it takes to read the weights.
//
// Of each 64 columns the levels of all rows lie behind one another, (k / 64, n, 64), each more by 128, and their scales, (k / 64,
// n) pairs: what a warp brings at once is one piece of memory. Of the 64 columns a row has eight of the first 32, eight of the
// second, and so on: 16 bytes of a lane are then what two tensor-core products of each block of 32 want of it.
#include "mma.cuh"

constexpr int WARPS = 8;
constexpr int TILE = 8;            // weight rows of a tensor-core product
constexpr int TILES = 6;           // that are summed up at once: a group
constexpr int GROUP = TILES * TILE;
constexpr int SLICE = 64;          // columns of a warp at once
constexpr int CHUNK = WARPS * SLICE;
constexpr int UNITS = SLICE / 16;  // of 16 bytes
constexpr int STAGE = GROUP * UNITS + GROUP / 4;   // levels, then scales
constexpr int DEPTH = 3;           // stages of a warp's ring
constexpr int PAIR0 = 0x4140, PAIR1 = 0x4342;   // bytes 0 and 1, 2 and 3, each before one of another word
constexpr int BLOCK = 32;          // columns that share a scale

template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool some) {
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                     "r"(some ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                     "r"(some ? 4 : 0)
                     : "memory");
}

// A block's share of the rows of a weight, in groups.
struct Share {
    int first, count, groups;

    __device__ __forceinline__ Share(int n) {
        first = int(size_t(n) * blockIdx.x / gridDim.x);
        count = int(size_t(n) * (blockIdx.x + 1) / gridDim.x) - first;
        groups = max(1, (count + GROUP - 1) / GROUP);
    }
    __device__ __forceinline__ int row(int group) const { return first + count * group / groups; }
};

// Has a warp's slice of levels and scales brought into its ring: of each group chunk after chunk of k.
struct Bringer {
    const uint8_t* levels;
    const uint32_t* scales;
    uint4* ring;
    int n, k, column, group = 0, stage = 0;

    __device__ __forceinline__ void next(const Share& share) {
        if (group < share.groups) {
            const int lane = threadIdx.x % 32, line = lane / UNITS, unit = lane % UNITS;
            const int row0 = share.row(group), rows = column < k ? share.row(group + 1) - row0 : 0;
            uint4* to = ring + stage * STAGE;
            const uint8_t* from = levels + (size_t(column / SLICE) * n + row0 + line) * SLICE + unit * 16;
#pragma unroll
            for (int i = 0; i < TILES; ++i)
                copy_async<16>(to + (i * TILE + line) * UNITS + unit, from + i * TILE * SLICE, i * TILE + line < rows);
            uint32_t* to_scales = reinterpret_cast<uint32_t*>(to + GROUP * UNITS);
            const uint32_t* from_scales = scales + size_t(column / SLICE) * n + row0;
#pragma unroll
            for (int i = lane; i < GROUP; i += 32) copy_async<4>(to_scales + i, from_scales + i, i < rows);
            column += CHUNK;
            if (column / CHUNK * CHUNK >= k) {
                ++group;
                column = threadIdx.x / 32 * SLICE;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }
};

// A lane's part of x: of 16 rows of a tensor-core product 16 bytes of row g and, with HIGH, of row g + 8, of each block.
template <typename X, bool HIGH> struct Slice {
    uint4 low[2], high[2];

    __device__ __forceinline__ void load(const X* x, int first, int rows, int k, int at) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int i = at + h * BLOCK + t * 8, row = first + g;
            low[h] = i < k && row < rows ? *reinterpret_cast<const uint4*>(x + size_t(row) * k + i) : zero;
            high[h] = HIGH && i < k && row + 8 < rows ? *reinterpret_cast<const uint4*>(x + size_t(row + 8) * k + i) : zero;
        }
    }
};

// Two of four bytes, levels + 128, as a pair of 16-bit floats, which they fit exactly but for a factor: SELECT says which.
template <typename X> struct Levels;
template <> struct Levels<f16> {
    static constexpr float UNIT = 1.f;
    template <int SELECT> static __device__ __forceinline__ uint32_t pair(uint32_t bytes) {
        const uint32_t v = __byte_perm(bytes, 0x64646464u, SELECT), less = 0x64806480u;   // 1024 + level + 128, less 1152
        const __half2 pair = __hsub2(*reinterpret_cast<const __half2*>(&v), *reinterpret_cast<const __half2*>(&less));
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
};
template <> struct Levels<bf16> {
    // In the lowest bits of an element they are as many times its smallest number, 2^-133: times 2^127, less 128 / 64.
    static constexpr float UNIT = 64.f;
    template <int SELECT> static __device__ __forceinline__ uint32_t pair(uint32_t bytes) {
        uint32_t d;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(__byte_perm(bytes, 0, SELECT)), "r"(0x7f007f00u), "r"(0xc000c000u));
        return d;
    }
};

// sum[m][j] += x of 16 rows m . weights of tile j, columns 2 t and 2 t + 1 of rows g and g + 8. Products of a block are
// summed as they are, then scaled.
template <typename X, int M, bool HIGH>
__device__ __forceinline__ void multiply(const Slice<X, HIGH> (&x)[M], const uint4* stage, float (&sum)[M][TILES][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint2* scales = reinterpret_cast<const uint2*>(stage + GROUP * UNITS);
#pragma unroll
    for (int j = 0; j < TILES; ++j) {
        const uint4 bytes = stage[(j * TILE + g) * UNITS + t];
        const uint2 pairs = scales[j * (TILE / 2) + t];   // of columns 2 t and 2 t + 1
        const float2 even = __half22float2(*reinterpret_cast<const __half2*>(&pairs.x));
        const float2 odd = __half22float2(*reinterpret_cast<const __half2*>(&pairs.y));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint32_t front = h ? bytes.z : bytes.x, back = h ? bytes.w : bytes.y;
            const uint32_t weights[4] = {Levels<X>::template pair<PAIR0>(front), Levels<X>::template pair<PAIR1>(front),
                                         Levels<X>::template pair<PAIR0>(back), Levels<X>::template pair<PAIR1>(back)};
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const uint4 low = x[m].low[h], high = x[m].high[h];
                const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
                float product[4] = {};
                mma_anywhere<X>(product, first, weights[0], weights[1]);
                mma_anywhere<X>(product, second, weights[2], weights[3]);
#pragma unroll
                for (int i = 0; i < (HIGH ? 4 : 2); ++i) sum[m][j][i] += product[i] * (i % 2 ? (h ? odd.y : odd.x) : (h ? even.y : even.x));
            }
        }
    }
}

// Up to 16 M rows; k a multiple of 64. A block has a share of the weight rows, its warps share out k, and each has a ring of
// its own that copies fill, for the first time before the predecessor has ended. A result depends on its row alone. Dynamic
// shared memory: the rings, then (WARPS, rows, GROUP) partial sums.
template <typename X, typename O, int M, bool HIGH>
__device__ __forceinline__ void stream_body(
    const X* __restrict__ x, const uint8_t* levels, const uint32_t* scales, const float* bias, int rows, int n, int k, O* out) {
    extern __shared__ __align__(128) uint4 rings[];
    release_successor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Share share(n);
    const uint4* ring = rings + warp * DEPTH * STAGE;
    float* partial = reinterpret_cast<float*>(rings + WARPS * DEPTH * STAGE);
    Bringer bringer{levels, scales, rings + warp * DEPTH * STAGE, n, k, warp * SLICE};
#pragma unroll 1
    for (int i = 0; i < DEPTH - 1; ++i) bringer.next(share);
    int stage = 0;
    await_predecessor();
    for (int group = 0; group < share.groups; ++group) {
        float sum[M][TILES][4] = {};
        Slice<X, HIGH> next[M];
        if (M == 1) next[0].load(x, 0, rows, k, warp * SLICE);
#pragma unroll 1
        for (int chunk = 0; chunk < k; chunk += CHUNK) {
            Slice<X, HIGH> now[M];
            if (M == 1) {
                now[0] = next[0];
                if (chunk + CHUNK < k) next[0].load(x, 0, rows, k, chunk + CHUNK + warp * SLICE);
            } else {
#pragma unroll
                for (int m = 0; m < M; ++m) now[m].load(x, 16 * m, rows, k, chunk + warp * SLICE);
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
            __syncwarp();   // a stage is there, and every lane has done with the one before
            bringer.next(share);
            multiply<X, M, HIGH>(now, ring + stage * STAGE, sum);
            stage = stage + 1 == DEPTH ? 0 : stage + 1;
        }
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int j = 0; j < TILES; ++j)
#pragma unroll
                for (int i = 0; i < (HIGH ? 4 : 2); ++i) {
                    const int row = 16 * m + g + i / 2 * 8;
                    if (row < rows) partial[(warp * rows + row) * GROUP + TILE * j + 2 * t + i % 2] = sum[m][j][i] * Levels<X>::UNIT;
                }
        __syncthreads();
        const int col0 = share.row(group), here = share.row(group + 1) - col0;
        for (int i = threadIdx.x; i < rows * GROUP; i += WARPS * 32) {
            const int row = i / GROUP, column = i % GROUP, col = col0 + column;
            if (column >= here) continue;
            float y = bias ? bias[col] : 0.f;
#pragma unroll
            for (int v = 0; v < WARPS; ++v) y += partial[(v * rows + row) * GROUP + column];
            out[size_t(row) * n + col] = from_float<O>(y);
        }
        __syncthreads();
    }
}

#define DEFINE_FOR(most, X, O, M, HIGH, BLOCKS)                                                                    \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) linear_q8_##most##_##X##_##O(                 \
        const X* x, const uint8_t* levels, const uint32_t* scales, const float* bias, int rows, int n, int k, O* out) {\
        stream_body<X, O, M, HIGH>(x, levels, scales, bias, rows, n, k, out);                                      \
    }
#define DEFINE(X, O)                                                                                               \
    DEFINE_FOR(8, X, O, 1, false, 2)                                                                               \
    DEFINE_FOR(16, X, O, 1, true, 2) DEFINE_FOR(32, X, O, 2, true, 1) DEFINE_FOR(64, X, O, 4, true, 1)
DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#undef DEFINE
#undef DEFINE_FOR

// From Q8_0 as a file has it, (n, k / 32) blocks of an f16 scale and 32 levels: a thread brings 64 columns of a row.
extern "C" __global__ void q8_pack(
    const uint8_t* blocks, int n, int k, int first_row, int all_rows, uint4* levels, uint32_t* scales) {
    begin();
    const int groups = k / SLICE;
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(n) * groups) return;
    const size_t row = i / groups, group = i % groups;
    const uint16_t* from = reinterpret_cast<const uint16_t*>(blocks + i * 2 * (BLOCK + 2));
    constexpr int STEP = (BLOCK + 2) / 2;
    const auto word = [&](int block, int at) {
        return (uint32_t(from[block * STEP + 1 + at]) | uint32_t(from[block * STEP + 2 + at]) << 16) ^ 0x80808080u;
    };
    uint4* to = levels + (group * all_rows + first_row + row) * UNITS;
#pragma unroll
    for (int t = 0; t < UNITS; ++t)
        to[t] = make_uint4(word(0, 4 * t), word(0, 4 * t + 2), word(1, 4 * t), word(1, 4 * t + 2));
    scales[group * all_rows + first_row + row] = uint32_t(from[0]) | uint32_t(from[STEP]) << 16;
}

// Column `i` of a row.
__device__ __forceinline__ float weight_at(const uint8_t* levels, const uint32_t* scales, int n, size_t row, int i) {
    const size_t at = size_t(i / SLICE) * n + row;
    const int level = levels[at * SLICE + i % BLOCK / 8 * 16 + i % SLICE / BLOCK * 8 + i % 8];
    const uint16_t bits = uint16_t(i % SLICE / BLOCK ? scales[at] >> 16 : scales[at]);
    return float(level - 128) * __half2float(__ushort_as_half(bits));
}

// The matrix as it was, (n, k); a block a row.
#define DEFINE(X)                                                                                                  \
    extern "C" __global__ void q8_dequantize_##X(const uint8_t* levels, const uint32_t* scales, int n, int k, X* out) {\
        begin();                                                                                                   \
        for (int i = threadIdx.x; i < k; i += blockDim.x)                                                          \
            out[size_t(blockIdx.x) * k + i] = from_float<X>(weight_at(levels, scales, n, blockIdx.x, i));          \
    }
DEFINE(f16) DEFINE(bf16)
#undef DEFINE

// Rows `ids` of the matrix, a block each.
#define DEFINE(O)                                                                                                  \
    extern "C" __global__ void q8_embed_##O(                                                                       \
        const uint8_t* levels, const uint32_t* scales, const uint32_t* ids, int n, int k, O* out) {                \
        begin();                                                                                                   \
        for (int i = threadIdx.x; i < k; i += blockDim.x)                                                          \
            out[size_t(blockIdx.x) * k + i] = from_float<O>(weight_at(levels, scales, n, ids[blockIdx.x], i));     \
    }
DEFINE(f16) DEFINE(bf16) DEFINE(f32)
#undef DEFINE
