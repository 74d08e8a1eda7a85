// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n) for up to 64 rows, in the time that it takes to read the weights,
// by Hopper's products of four warps. Gated: out = silu(x . the first half of weight (2 n, k)^T + bias) * (x . the second).
//
// x is the left side, 64 rows of which those past `rows` are whatever lies in shared memory: nobody looks at their results.
// Weights are the right side, so that a block's share of their rows may be of any size. One thread has boxes of weights copied
// into a ring, for the first time before the predecessor has ended, and of x when it has; four warps multiply. Where a share
// would be small beside x, a cluster of blocks has a larger one and shares out k.
#include "tma.cuh"

constexpr int THREADS = 160, BRINGER = 128;    // the thread that has boxes copied
constexpr int COLUMNS = 64;                    // of k in a stage
constexpr int LINE_BYTES = COLUMNS * 2;        // of a row in a stage
constexpr int LEFT_BYTES = 64 * LINE_BYTES;    // of x, that a product reads

template <typename O> struct Few {
    const float* bias;   // or none
    int rows, n, k;      // n of the output
    O* out;
};

// The matrices as copies see them.
struct Maps {
    const CUtensorMap &weight, &x;
};

// How a product is laid out; src/cuda/few.rs makes it.
struct Plan {
    int own;      // weight rows of each side of a tile: gated, in the weight's halves, otherwise one side behind the other
    int tiles;
    int slices;   // blocks of a cluster, which share out k of a tile; a block alone has tiles in turn
    int stages;
    bool joined;  // sums go through shared memory: in clusters, and where only some of four warps have rows
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Where things are in shared memory: stages of two sides of weights and of x; sums of this block's rows from all of its
// cluster, whose place is also what products read past the last stage; barriers. And the turns of k that are this block's.
template <int SIDE> struct Layout {
    static constexpr int LINE = 2 * SIDE + 8;   // sums of a row
    int side_bytes, x_bytes, stage_bytes, rank, each;
    uint32_t ring, sums, full, empty;
    int first, last;

    __device__ __forceinline__ Layout(uint32_t memory, int rows, int k, const Plan& plan) {
        side_bytes = (plan.own + 7) / 8 * 8 * LINE_BYTES;
        x_bytes = (rows + 7) / 8 * 8 * LINE_BYTES;
        stage_bytes = 2 * side_bytes + x_bytes;
        rank = plan.slices > 1 ? cluster_rank() : 0;
        each = (rows + plan.slices - 1) / plan.slices;
        ring = memory;
        sums = ring + plan.stages * stage_bytes;
        const int room = plan.joined ? plan.slices * each * LINE * 4 : 0;
        full = sums + max(room, LEFT_BYTES + SIDE * LINE_BYTES - side_bytes);
        empty = full + 8 * plan.stages;
        const int turns = (k + COLUMNS - 1) / COLUMNS;
        first = turns * rank / plan.slices;
        last = turns * (rank + 1) / plan.slices;
    }
    __device__ __forceinline__ uint32_t stage(int i) const { return ring + i * stage_bytes; }
};

// A place in the ring, and how often it has been gone around.
struct Cursor {
    int stage = 0, phase = 0;

    __device__ __forceinline__ void next(int stages) {
        if (++stage == stages) stage = 0, phase ^= 1;
    }
};

// Has everything brought that a block multiplies; one thread.
template <int SIDE, bool GATED, typename O> struct Bringer {
    const Few<O>& few;
    const Plan& plan;
    const Layout<SIDE>& at;
    const Maps& maps;

    __device__ __forceinline__ void bring_weights(int stage, int tile, int turn) const {
        const uint32_t to = at.stage(stage), barrier = at.full + 8 * stage;
        const int row = tile * plan.own * (GATED ? 1 : 2), other = GATED ? few.n + row : row + plan.own;
        barrier_expect(barrier, 2 * plan.own * LINE_BYTES + at.x_bytes);
        copy_box<Keep::SHORT>(to, maps.weight, turn * COLUMNS, row, barrier);
        copy_box<Keep::SHORT>(to + at.side_bytes, maps.weight, turn * COLUMNS, other, barrier);
    }
    __device__ __forceinline__ void bring_x(int stage, int turn) const {
        copy_box<Keep::LONG>(at.stage(stage) + 2 * at.side_bytes, maps.x, turn * COLUMNS, 0, at.full + 8 * stage);
    }
    __device__ __forceinline__ int ahead() const { return min(plan.stages, at.last - at.first); }

    __device__ __forceinline__ void begin(int tile) const {
        fetch_map(maps.weight);
        fetch_map(maps.x);
        for (int i = 0; i < ahead(); ++i) bring_weights(i, tile, at.first + i);
    }
    __device__ __forceinline__ void go_on(int tile, int step) const {
        const int done = ahead();
        await_predecessor();
        Cursor cursor{0, 1};
        for (int i = 0; i < done; ++i, cursor.next(plan.stages)) bring_x(i, at.first + i);
        for (int turn = at.first + done; tile < plan.tiles; tile += step, turn = at.first)
            for (; turn < at.last; ++turn, cursor.next(plan.stages)) {
                barrier_wait(at.empty + 8 * cursor.stage, cursor.phase);
                bring_weights(cursor.stage, tile, turn);
                bring_x(cursor.stage, turn);
            }
    }
};

// d (64, N) += a (64, 16) . b (N, 16)^T, both sides operands; `d` as `product` has it.
template <typename T> __device__ __forceinline__ void add_product(float (&d)[8], uint64_t a, uint64_t b);
template <typename T> __device__ __forceinline__ void add_product(float (&d)[16], uint64_t a, uint64_t b);
template <typename T> __device__ __forceinline__ void add_product(float (&d)[24], uint64_t a, uint64_t b);

#define SUMS8(i)                                                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define SUMS16 SUMS8(0), SUMS8(8)
#define SUMS24 SUMS16, SUMS8(16)
#define NAMES8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NAMES16 NAMES8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES24 NAMES16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define DEFINE_PRODUCT(T, type, N, COUNT, A, B, SUMS)                                                              \
    template <> __device__ __forceinline__ void add_product<T>(float (&d)[COUNT], uint64_t a, uint64_t b) {            \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" NAMES##COUNT "}, " A ", " B  \
                     ", 1, 1, 1, 0, 0;" : SUMS : "l"(a), "l"(b));                                                      \
    }
#define DEFINE_PRODUCTS(T, type)                                                                                   \
    DEFINE_PRODUCT(T, type, 16, 8, "%8", "%9", SUMS8(0)) DEFINE_PRODUCT(T, type, 32, 16, "%16", "%17", SUMS16)         \
    DEFINE_PRODUCT(T, type, 48, 24, "%24", "%25", SUMS24)
DEFINE_PRODUCTS(bf16, "bf16")
DEFINE_PRODUCTS(f16, "f16")
#undef DEFINE_PRODUCTS
#undef DEFINE_PRODUCT
#undef SUMS8
#undef SUMS16
#undef SUMS24
#undef NAMES8
#undef NAMES16
#undef NAMES24

// Sums of 64 rows of x with both sides of a tile, as `product` has them.
template <int SIDE> struct Sums {
    float side[2][SIDE / 2];
};

// Goes on at `cursor` with the block's turns of a tile.
template <typename T, int SIDE>
__device__ __forceinline__ void multiply(const Layout<SIDE>& at, int stages, Cursor& cursor, Sums<SIDE>& sums) {
    const bool tells = threadIdx.x % 32 == 0;
#pragma unroll
    for (int i = 0; i < SIDE / 2; ++i) sums.side[0][i] = sums.side[1][i] = 0.f;
    int before = -1;
#pragma unroll 1
    for (int turn = at.first; turn < at.last; ++turn, cursor.next(stages)) {
        barrier_wait(at.full + 8 * cursor.stage, cursor.phase);
        const uint64_t weights = operand<Swizzle::OF_128>(at.stage(cursor.stage)), other = weights + at.side_bytes / 16;
        const uint64_t x = other + at.side_bytes / 16;
        pin(sums.side[0]);
        pin(sums.side[1]);
        products_begin();
#pragma unroll
        for (int i = 0; i < COLUMNS / 16; ++i) {   // 32 bytes a step
            add_product<T>(sums.side[0], x + 2 * i, weights + 2 * i);
            add_product<T>(sums.side[1], x + 2 * i, other + 2 * i);
        }
        products_commit();
        products_wait<1>();
        if (tells && before >= 0) barrier_arrive(at.empty + 8 * before);
        before = cursor.stage;
    }
    products_wait<0>();
    pin(sums.side[0]);
    pin(sums.side[1]);
    if (tells && before >= 0) barrier_arrive(at.empty + 8 * before);
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// What a tile's results are made of and where they go: two neighbouring columns of both sides at once.
template <typename T, typename O, bool GATED> struct Results {
    const Few<O>& few;
    int own, tile;
    bool even;   // pairs lie at even addresses

    __device__ __forceinline__ Results(const Few<O>& few, int own, int tile)
        : few(few), own(own), tile(tile), even(few.n % 2 == 0 && own % 2 == 0) {}

    __device__ __forceinline__ float2 biased(float2 y, int col, bool second) const {
        if (few.bias) y.x += few.bias[col], y.y += second ? few.bias[col + 1] : 0.f;
        return y;
    }
    __device__ __forceinline__ void store(int row, int col, float2 y, bool second) const {
        O* to = few.out + size_t(row) * few.n + col;
        if (second && even && sizeof(O) == 2) {
            *reinterpret_cast<uint32_t*>(to) = pack2<T>(y.x, y.y);
        } else {
            to[0] = from_float<O>(y.x);
            if (second) to[1] = from_float<O>(y.y);
        }
    }
    // Columns `c` and the next of a side; gated, both sides make one.
    __device__ __forceinline__ void finish(int row, int c, float2 low, float2 high) const {
        if (c >= own) return;
        const int col = tile * own * (GATED ? 1 : 2) + c, other = col + own;
        auto pair = [&](int at) { return c + 1 < own && at + 1 < few.n; };
        if (GATED) {
            if (col >= few.n) return;
            const float2 gate = biased(low, col, pair(col)), up = biased(high, few.n + col, pair(col));
            // As from memory.
            auto mixed = [](float g, float u) { return silu(to_float(from_float<O>(g))) * to_float(from_float<O>(u)); };
            store(row, col, make_float2(mixed(gate.x, up.x), mixed(gate.y, up.y)), pair(col));
            return;
        }
        if (col < few.n) store(row, col, biased(low, col, pair(col)), pair(col));
        if (other < few.n) store(row, other, biased(high, other, pair(other)), pair(other));
    }
};

// Straight from registers.
template <int SIDE, typename R> __device__ __forceinline__ void store_sums(const Sums<SIDE>& sums, int rows, const R& results) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = warp * 16 + g + 8 * r;
        if (row >= rows) continue;
#pragma unroll
        for (int i = 0; i < SIDE / 8; ++i) {
            auto two = [&](int side) { return make_float2(sums.side[side][4 * i + 2 * r], sums.side[side][4 * i + 2 * r + 1]); };
            results.finish(row, 8 * i + 2 * t, two(0), two(1));
        }
    }
}

// Gives sums to the block of the cluster that joins their rows.
template <int SIDE>
__device__ __forceinline__ void give_sums(const Sums<SIDE>& sums, const Layout<SIDE>& at, const Plan& plan, int rows) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = warp * 16 + g + 8 * r;
        if (row >= rows) continue;
        const int block = row / at.each, line = at.rank * at.each + row % at.each;
        const uint32_t here = at.sums + (line * at.LINE + 2 * t) * 4, to = plan.slices > 1 ? in_block(here, block) : here;
#pragma unroll
        for (int i = 0; i < SIDE / 8; ++i) {
            if (8 * i >= plan.own) break;
#pragma unroll
            for (int side = 0; side < 2; ++side)
                give(to + (side * SIDE + 8 * i) * 4, sums.side[side][4 * i + 2 * r], sums.side[side][4 * i + 2 * r + 1]);
        }
    }
}

// Adds up what the cluster's blocks gave, in their order.
template <int SIDE, typename R>
__device__ __forceinline__ void join_sums(const float* sums, const Layout<SIDE>& at, const Plan& plan, int rows, const R& results) {
    const int first = at.rank * at.each, mine = min(at.each, rows - first), pairs = (plan.own + 1) / 2;
    for (int i = threadIdx.x; i < mine * pairs; i += THREADS) {
        const int row = i / pairs, c = (i - row * pairs) * 2;
        float2 side[2] = {};
        for (int v = 0; v < plan.slices; ++v) {
            const float* line = sums + (v * at.each + row) * at.LINE + c;
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                const float2 y = *reinterpret_cast<const float2*>(line + s * SIDE);
                side[s].x += y.x, side[s].y += y.y;
            }
        }
        results.finish(first + row, c, side[0], side[1]);
    }
}

template <typename T, typename O, int SIDE, bool GATED>
__device__ __forceinline__ void few_body(const Few<O>& few, const Plan& plan, const Maps& maps) {
    extern __shared__ __align__(1024) unsigned char memory[];
    release_successor();
    const Layout<SIDE> at(shared_address(memory), few.rows, few.k, plan);
    const Bringer<SIDE, GATED, O> bringer{few, plan, at, maps};
    const int tile = blockIdx.x / plan.slices, step = gridDim.x / plan.slices;
    if (plan.slices > 1) cluster_arrive();
    if (threadIdx.x == BRINGER) {
        for (int i = 0; i < plan.stages; ++i) barrier_init(at.full + 8 * i, 1), barrier_init(at.empty + 8 * i, 4);
        publish_barriers();
        bringer.begin(tile);
    }
    __syncthreads();
    Sums<SIDE> sums;
    if (threadIdx.x >= BRINGER) {
        if (threadIdx.x == BRINGER) bringer.go_on(tile, step);
        __syncwarp();
    } else {
        Cursor cursor;
        for (int i = tile; i < plan.tiles; i += step) {
            multiply<T, SIDE>(at, plan.stages, cursor, sums);
            if (plan.joined) break;   // this was the only one
            await_predecessor();
            store_sums<SIDE>(sums, few.rows, Results<T, O, GATED>(few, plan.own, i));
        }
    }
    if (!plan.joined) return;
    if (plan.slices > 1) cluster_wait();   // all have begun
    if (threadIdx.x < BRINGER) give_sums<SIDE>(sums, at, plan, few.rows);
    if (plan.slices > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
    await_predecessor();
    const float* given = reinterpret_cast<const float*>(memory + (at.sums - at.ring));
    join_sums<SIDE>(given, at, plan, few.rows, Results<T, O, GATED>(few, plan.own, tile));
}
#define FEW_BODY(T, O, SIDE, GATED) few_body<T, O, SIDE, GATED>(Few<O>{bias, rows, n, k, out}, \
    Plan{own, tiles, slices, stages, bool(joined)}, Maps{weight, x})
#else
#define FEW_BODY(T, O, SIDE, GATED)
#endif

#define DEFINE(kind, T, O, SIDE, GATED)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) kind##_few_##SIDE##_##T##_##O(                            \
        const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x, const float* bias,          \
        int rows, int n, int k, O* out, int own, int tiles, int slices, int stages, int joined) {                                                                   \
        FEW_BODY(T, O, SIDE, GATED);                                                                                   \
    }
#define DEFINE_SIDE(T, SIDE)                                                                                       \
    DEFINE(linear, T, T, SIDE, false) DEFINE(linear, T, f32, SIDE, false) DEFINE(gated, T, T, SIDE, true)
#define DEFINE_ALL(T)                                                                                              \
    DEFINE_SIDE(T, 16) DEFINE_SIDE(T, 32) DEFINE_SIDE(T, 48)
DEFINE_ALL(f16) DEFINE_ALL(bf16)
#undef DEFINE_ALL
#undef DEFINE_SIDE
#undef DEFINE
