// out (rows, n) = silu(x . the first half of weight (2 n, k)^T + bias) * (x . the second half + bias) for up to 16 rows, the weight
// as in int4.cuh, n a multiple of 16.
//
// A tile of the first half, the one beside it in the second, and 128 columns are an item. A block has a share of the pairs of
// tiles, and its warps even shares of their items, whatever pairs those begin and end in.
#include "int4.cuh"

constexpr int WARPS = 16;
constexpr int TILES = 2;             // of an item
constexpr int COLUMNS = 2 * UNIT;    // of an item
constexpr int OUTS = TILES * 16;     // sums of a row
constexpr int DEPTH = 2;             // stages of a warp's ring

// A stage of a ring in 16 bytes: levels, then scales, then zero levels.
template <int G> struct Stage {
    static constexpr int GROUPS = COLUMNS / G;
    static constexpr int LEVELS = TILES * 2 * 32, SCALES = TILES * GROUPS * 2, ZEROS = TILES * GROUPS;
    static constexpr int SIZE = LEVELS + SCALES + ZEROS;
};

// Which items there are, and whose they are; warps of a block differ by one at most.
struct Share {
    int steps, pairs;   // steps: items of the same tiles

    __device__ __forceinline__ Share(const Weight& w) : steps((w.units + 1) / 2), pairs(w.tiles / 2) {}
    __device__ __forceinline__ int pair(int block) const { return int(unsigned(pairs) * unsigned(block) / gridDim.x); }
    __device__ __forceinline__ int begin(int warp) const {
        const int first = pair(blockIdx.x), count = (pair(blockIdx.x + 1) - first) * steps;
        return first * steps + warp * (count / WARPS) + min(warp, count % WARPS);
    }
};

__device__ __forceinline__ int tile_of(const Weight& w, int pair, int j) { return pair + j * (w.tiles / 2); }

// Has a warp's items brought into its ring. A lane brings what it reads of the levels, and 16 bytes of the scales and zeros.
template <int G> struct Bringer {
    using S = Stage<G>;
    uint4* ring;
    int item, end, pair, step, stage = 0;

    __device__ __forceinline__ Bringer(uint4* ring, const Share& share, int begin, int end)
        : ring(ring), item(begin), end(end), pair(begin / share.steps), step(begin % share.steps) {}

    __device__ __forceinline__ void next(const Weight& w, const Share& share) {
        if (item < end) {
            const int lane = threadIdx.x % 32;
            uint4* to = ring + stage * S::SIZE;
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                const int tile = tile_of(w, pair, j);
                const uint4* from = w.levels + (size_t(tile) * w.units + 2 * step) * 32 + lane;
                copy16(to + j * 64 + lane, from, true);
                copy16(to + j * 64 + 32 + lane, from + 32, 2 * step + 1 < w.units);
            }
            groups(w, to + S::LEVELS, lane);
            ++item;
            if (++step == share.steps) {
                step = 0;
                ++pair;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
    }

    __device__ __forceinline__ void groups(const Weight& w, uint4* to, int lane) {
        const int all = w.units * UNIT / G;
        auto place = [&](int i, bool& there) {
            const int tile = tile_of(w, pair, i / S::GROUPS), at = step * S::GROUPS + i % S::GROUPS;
            there = at < all;
            return there ? size_t(tile) * all + at : 0;
        };
        bool there;
        if (lane < S::SCALES) {
            const size_t at = place(lane / 2, there);
            copy16(to + lane, w.scales + at * 8 + lane % 2 * 4, there);
        }
        if (w.zeros && lane >= 32 - S::ZEROS) {
            const int i = lane - (32 - S::ZEROS);
            const size_t at = place(i, there);
            copy16(to + S::SCALES + i, w.zeros + at * 8, there);
        }
    }
};

// Scales and zero levels of rows g and g + 8 of group `at` of tile j.
template <int G> __device__ __forceinline__ Group group_of(const uint4* stage, bool zeros, int j, int at) {
    using S = Stage<G>;
    const int i = j * S::GROUPS + at, g = threadIdx.x % 32 / 4;
    Group group;
    group.scale = reinterpret_cast<const uint32_t*>(stage + S::LEVELS)[i * 8 + g];
    group.zero = reinterpret_cast<const uint16_t*>(stage + S::LEVELS + S::SCALES)[i * 8 + g];
    if (!zeros) group.zero = 0x808;
    return group;
}

template <typename X> __device__ __forceinline__ uint4 load_x(const X* x, int rows, int k, int row, int column) {
    return column < k && row < rows ? *reinterpret_cast<const uint4*>(x + size_t(row) * k + column)
                                    : make_uint4(0, 0, 0, 0);
}

// A warp's products; what it has of a pair of tiles goes to `partial` (2, rows, OUTS): first what begins inside of the
// pair, then what begins with it. There is at most one of each.
template <typename X, int NT, int G>
__device__ __forceinline__ void products(const X* __restrict__ x, const Weight& w, const Share& share, int begin, int end,
    int rows, int k, uint4* ring, float* partial) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Bringer<G> bringer(ring, share, begin, end);
#pragma unroll 1
    for (int i = 0; i < DEPTH - 1; ++i) bringer.next(w, share);
    await_predecessor();
    int step = begin % share.steps, stage = 0, slot = step == 0;
    uint4 now[4][NT];
#pragma unroll
    for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int i = 0; i < NT; ++i)
            now[c][i] = load_x(x, begin < end ? rows : 0, k, 8 * i + g, step * COLUMNS + 32 * c + 8 * t);
    const bool zeros = w.zeros != nullptr;
    float sum[TILES][NT][4] = {}, part[TILES][NT][4] = {};
#pragma unroll 1
    for (int item = begin; item < end; ++item) {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
        __syncwarp();   // a stage is there, and every lane has done with the one before
        bringer.next(w, share);
        const uint4* from = ring + stage * Stage<G>::SIZE;
        const int next = step + 1 == share.steps ? 0 : step + 1;
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            uint4 words[TILES];
#pragma unroll
            for (int j = 0; j < TILES; ++j) words[j] = from[j * 64 + u * 32 + lane];
#pragma unroll
            for (int h = 0; h < 2; ++h) {   // 32 columns
                const int c = 2 * u + h;
#pragma unroll
                for (int j = 0; j < TILES; ++j) {
                    const Group group = group_of<G>(from, zeros, j, 32 * c / G);
                    uint32_t zero[2], first[4], second[4];
                    offsets<X>(group, zero);
                    unpack<X>(h ? words[j].z : words[j].x, zero, first);
                    unpack<X>(h ? words[j].w : words[j].y, zero, second);
#pragma unroll
                    for (int i = 0; i < NT; ++i) mma_anywhere<X>(part[j][i], first, now[c][i].x, now[c][i].y);
#pragma unroll
                    for (int i = 0; i < NT; ++i) mma_anywhere<X>(part[j][i], second, now[c][i].z, now[c][i].w);
                    if ((32 * c + 32) % G == 0) add_group<NT>(sum[j], part[j], group);
                }
#pragma unroll
                for (int i = 0; i < NT; ++i)
                    now[c][i] = load_x(x, item + 1 < end ? rows : 0, k, 8 * i + g, next * COLUMNS + 32 * c + 8 * t);
            }
        }
        stage = stage + 1 == DEPTH ? 0 : stage + 1;
        step = next;
        if (step != 0 && item + 1 < end) continue;
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int i = 0; i < NT; ++i)
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    const int row = 8 * i + 2 * t + v % 2;
                    if (row < rows) partial[(slot * rows + row) * OUTS + 16 * j + g + v / 2 * 8] = sum[j][i][v];
                    sum[j][i][v] = 0.f;
                }
        slot = 1;
    }
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// Adds up what the warps have of each result.
template <typename X>
__device__ __forceinline__ void finish(
    const Share& share, const float* partial, const float* bias, int rows, int n, X* out) {
    const int first = share.pair(blockIdx.x), pairs = share.pair(blockIdx.x + 1) - first;
    for (int i = threadIdx.x; i < pairs * rows * 16; i += WARPS * 32) {
        const int pair = first + i / (rows * 16), row = i / 16 % rows, column = i % 16, col = pair * 16 + column;
        const int from = pair * share.steps, to = from + share.steps;
        float gate = 0.f, up = 0.f;
#pragma unroll
        for (int v = 0; v < WARPS; ++v) {
            const int begin = share.begin(v), end = share.begin(v + 1);
            if (begin >= min(to, end) || end <= from) continue;
            const float* sums = partial + ((2 * v + (begin <= from)) * rows + row) * OUTS + column;
            gate += sums[0];
            up += sums[16];
        }
        gate += bias ? bias[col] : 0.f;
        up += bias ? bias[n + col] : 0.f;
        // As from memory.
        out[size_t(row) * n + col] = from_float<X>(silu(to_float(from_float<X>(gate))) * to_float(from_float<X>(up)));
    }
}

// Every warp has at most as many items as a pair of tiles. Dynamic shared memory: the rings, then (WARPS, 2, rows, OUTS)
// partial sums. A result depends on its row and the grid alone.
template <typename X, int NT, int G>
__device__ __forceinline__ void gated_rows(
    const X* __restrict__ x, const Weight& weight, const float* bias, int rows, int n, int k, X* out) {
    extern __shared__ __align__(128) uint4 rings[];
    release_successor();
    const int warp = threadIdx.x / 32;
    const Share share(weight);
    float* partial = reinterpret_cast<float*>(rings + WARPS * DEPTH * Stage<G>::SIZE);
    products<X, NT, G>(x, weight, share, share.begin(warp), share.begin(warp + 1), rows, k,
        rings + warp * DEPTH * Stage<G>::SIZE, partial + warp * 2 * rows * OUTS);
    __syncthreads();
    finish<X>(share, partial, bias, rows, n, out);
}

#define DEFINE_FOR(X, NT, G)                                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) int4_gated_##NT##_g##G##_##X(const X* x,           \
        const uint4* levels, const uint32_t* scales, const uint16_t* zeros, const float* bias, int rows, int n, int k, \
        X* out) {                                                                                                  \
        const Weight weight = {levels, scales, zeros, n / 8, (k + UNIT - 1) / UNIT};                               \
        gated_rows<X, NT, G>(x, weight, bias, rows, n, k, out);                                                    \
    }
#define DEFINE(X, G) DEFINE_FOR(X, 1, G) DEFINE_FOR(X, 2, G)
DEFINE(bf16, 32) DEFINE(bf16, 64) DEFINE(bf16, 128) DEFINE(f16, 32) DEFINE(f16, 64) DEFINE(f16, 128)
#undef DEFINE
