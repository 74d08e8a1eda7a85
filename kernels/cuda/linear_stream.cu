// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n), for up to 16 rows: the time that it takes to read the weights.
#include "mma.cuh"

constexpr int WARPS = 8;
constexpr int TILE = 8;            // weight rows of a tensor-core product
constexpr int TILES = 3;           // that are summed up at once: a group
constexpr int GROUP = TILES * TILE;
constexpr int SLICE = 64;          // elements of k of a warp at once: a cache line of each row
constexpr int CHUNK = WARPS * SLICE;
constexpr int UNITS = SLICE / 8;   // of 16 bytes
constexpr int STAGE = GROUP * UNITS;
constexpr int DEPTH = 3;           // stages of a warp's ring

// 16 bytes from memory to shared memory, on their own; zeros if there are none.
__device__ __forceinline__ void copy_unit(uint4* to, const void* from, bool some) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                 "r"(some ? 16 : 0)
                 : "memory");
}

// A block's share of the rows of a weight, in groups. With GATED a row is one of the upper half of the weight and the one
// beside it in the lower half; a group has both halves' rows, one half after the other.
template <bool GATED> struct Share {
    static constexpr int OWN = GATED ? GROUP / 2 : GROUP;
    int first, count, groups;

    __device__ __forceinline__ Share(int n) {
        first = int(size_t(n) * blockIdx.x / gridDim.x);
        count = int(size_t(n) * (blockIdx.x + 1) / gridDim.x) - first;
        groups = max(1, (count + OWN - 1) / OWN);
    }
    __device__ __forceinline__ int row(int group) const { return first + count * group / groups; }
};

// Has a warp's slice of the weights brought into its ring: of each group chunk after chunk of k. A lane brings 16 bytes of
// each fourth row.
template <typename X, bool GATED> struct Bringer {
    const X* from;   // of the lane's first row
    uint4* to;
    int column, rows, group = 0, stage = 0;

    __device__ __forceinline__ Bringer(const X* weight, uint4* ring, const Share<GATED>& share, int k) {
        const int line = threadIdx.x % 32 / UNITS, unit = threadIdx.x % UNITS;
        to = ring + line * UNITS + (unit ^ line % 2 * 4);
        start(weight, share, k);
    }

    __device__ __forceinline__ void start(const X* weight, const Share<GATED>& share, int k) {
        const int line = threadIdx.x % 32 / UNITS, unit = threadIdx.x % UNITS;
        column = threadIdx.x / 32 * SLICE + unit * 8;
        const int row = share.row(group);
        rows = group < share.groups ? share.row(group + 1) - row - line : 0;
        from = weight + size_t(row + line) * k + column;
    }

    __device__ __forceinline__ void next(const X* weight, const Share<GATED>& share, int n, int k) {
        if (group < share.groups) {
#pragma unroll
            for (int i = 0; i < GROUP / 4; ++i) {
                const int own = 4 * i % Share<GATED>::OWN;
                const size_t row = 4 * i < Share<GATED>::OWN ? own : own + n;
                copy_unit(to + stage * STAGE + i * 4 * UNITS, from + row * k, column < k && own < rows);
            }
            column += CHUNK;
            from += CHUNK;
            if (column / CHUNK * CHUNK >= k) {
                ++group;
                start(weight, share, k);
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }
};

// A warp's slice of a chunk of x: twice 16 bytes of row g and, with more than 8 rows, of row g + 8.
template <typename X, bool HIGH> struct Slice {
    uint4 low[2], high[HIGH ? 2 : 1];

    __device__ __forceinline__ void load(const X* x, int rows, int k, int at) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int i = at + h * 32 + t * 8;
            low[h] = i < k && g < rows ? *reinterpret_cast<const uint4*>(x + size_t(g) * k + i) : zero;
            if (HIGH) high[h] = i < k && g + 8 < rows ? *reinterpret_cast<const uint4*>(x + size_t(g + 8) * k + i) : zero;
        }
    }
};

// sum[j] += x . weights of tile j, columns 2 t and 2 t + 1 of rows g and g + 8. The products of 16 bytes of a weight row
// with 16 bytes of an x row are two steps of a tensor-core product, in which both sides are permuted alike.
template <typename X, bool HIGH>
__device__ __forceinline__ void multiply(const Slice<X, HIGH>& x, const uint4* stage, float (&sum)[TILES][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        uint4 weights[TILES];
#pragma unroll
        for (int j = 0; j < TILES; ++j) weights[j] = stage[(j * TILE + g) * UNITS + ((h * 4 + t) ^ (g % 2 * 4))];
        const uint4 low = x.low[h], high = HIGH ? x.high[h * HIGH] : make_uint4(0, 0, 0, 0);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int j = 0; j < TILES; ++j) mma_anywhere<X>(sum[j], first, weights[j].x, weights[j].y);
#pragma unroll
        for (int j = 0; j < TILES; ++j) mma_anywhere<X>(sum[j], second, weights[j].z, weights[j].w);
    }
}

// The sum of what the warps have of one result.
__device__ __forceinline__ float total(const float* partial, int rows, int row, int column) {
    float sum = 0.f;
#pragma unroll
    for (int v = 0; v < WARPS; ++v) sum += partial[(v * rows + row) * GROUP + column];
    return sum;
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// Up to 16 rows; k a multiple of 8. A block has a share of the weight rows, its warps share out k, and each has a ring of
// its own that copies fill, for the first time before the predecessor has ended. A result depends on its row alone. With
// GATED the weight is (2 n, k), and out silu(the first half's product) * the second half's. Dynamic shared memory: the
// rings, then (WARPS, rows, GROUP) partial sums.
template <typename X, typename O, bool HIGH, bool GATED>
__device__ __forceinline__ void stream_body(
    const X* __restrict__ x, const X* __restrict__ weight, const float* bias, int rows, int n, int k, O* out) {
    extern __shared__ __align__(128) uint4 rings[];
    release_successor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Share<GATED> share(n);
    uint4* ring = rings + warp * DEPTH * STAGE;
    float* partial = reinterpret_cast<float*>(rings + WARPS * DEPTH * STAGE);
    Bringer<X, GATED> bringer(weight, ring, share, k);
#pragma unroll 1
    for (int i = 0; i < DEPTH - 1; ++i) bringer.next(weight, share, n, k);
    int stage = 0;
    await_predecessor();
    for (int group = 0; group < share.groups; ++group) {
        float sum[TILES][4] = {};
        Slice<X, HIGH> next;
        next.load(x, rows, k, warp * SLICE);
#pragma unroll 1
        for (int chunk = 0; chunk < k; chunk += CHUNK) {
            const Slice<X, HIGH> now = next;
            if (chunk + CHUNK < k) next.load(x, rows, k, chunk + CHUNK + warp * SLICE);
            asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
            __syncwarp();   // a stage is there, and every lane has done with the one before
            bringer.next(weight, share, n, k);
            multiply<X, HIGH>(now, ring + stage * STAGE, sum);
            stage = stage + 1 == DEPTH ? 0 : stage + 1;
        }
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int i = 0; i < (HIGH ? 4 : 2); ++i) {
                const int row = g + i / 2 * 8;
                if (row < rows) partial[(warp * rows + row) * GROUP + 8 * j + 2 * t + i % 2] = sum[j][i];
            }
        __syncthreads();
        constexpr int OWN = Share<GATED>::OWN;
        const int col0 = share.row(group), here = share.row(group + 1) - col0;
        for (int i = threadIdx.x; i < rows * OWN; i += WARPS * 32) {
            const int row = i / OWN, column = i % OWN, col = col0 + column;
            if (column >= here) continue;
            float y = total(partial, rows, row, column) + (bias ? bias[col] : 0.f);
            if (GATED) {
                const float up = total(partial, rows, row, OWN + column) + (bias ? bias[n + col] : 0.f);
                y = silu(to_float(from_float<O>(y))) * to_float(from_float<O>(up));   // as from memory
            }
            out[size_t(row) * n + col] = from_float<O>(y);
        }
        __syncthreads();
    }
}

#define DEFINE_FOR(name, X, O, HIGH, GATED)                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) name##_##X##_##O(                                  \
        const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out) {                \
        stream_body<X, O, HIGH, GATED>(x, weight, bias, rows, n, k, out);                                    \
    }
#define DEFINE(X, O) DEFINE_FOR(linear_stream_8, X, O, false, false) DEFINE_FOR(linear_stream_16, X, O, true, false)
DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#undef DEFINE
#define DEFINE(X) DEFINE_FOR(gated_stream_8, X, X, false, true) DEFINE_FOR(gated_stream_16, X, X, true, true)
DEFINE(f16) DEFINE(bf16)
#undef DEFINE
