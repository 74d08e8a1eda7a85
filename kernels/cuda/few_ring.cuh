// What products of few rows have in common (linear_few.cu): where things are in shared memory, the ring of boxes of weights and
// of x that one thread has copied, and the products of four warps that empty it.
#pragma once

#include "tma.cuh"

constexpr int BRINGER = 128;                   // the thread that has boxes copied, behind the warps that multiply
constexpr int COLUMNS = 64;                    // of k in a stage
constexpr int LINE_BYTES = COLUMNS * 2;        // of a row in a stage
constexpr int LEFT_BYTES = 64 * LINE_BYTES;    // of x, that a product reads

// A product of up to 64 rows.
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
    bool joined;  // sums go through shared memory: in clusters, where only some of four warps have rows, and before a norm
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Where things are in shared memory: stages of two sides of weights and of x; sums of this block's rows from all of its
// cluster, then if ADDED the norm's weight and rows of the residual, whose place is also what products read past the last stage;
// barriers; scales of rows. And the turns of k that are this block's, and which rows it finishes: one of as many as it has
// neighbours. Nothing is divided: a block is as fast as its beginning is short.
template <int SIDE, bool ADDED> struct Layout {
    static constexpr int OTHER = SIDE, LINE = 2 * SIDE + 8;   // where the second side of a row's sums begins, and their end
    unsigned char* memory;
    int side_bytes, x_bytes, stage_bytes, shift, rank, each, count;
    uint32_t ring, sums, before, full, empty, ready, given, scales;
    int first, last;

    __device__ __forceinline__ Layout(unsigned char* memory, int rows, int k, const Plan& plan) : memory(memory) {
        side_bytes = (plan.own + 7) / 8 * 8 * LINE_BYTES;
        x_bytes = (rows + 7) / 8 * 8 * LINE_BYTES;
        stage_bytes = 2 * side_bytes + x_bytes;
        shift = __ffs(plan.slices) - 1;
        rank = plan.slices > 1 ? cluster_rank() : 0;
        each = (rows + plan.slices - 1) >> shift;
        count = (rows + plan.slices - 1 - rank) >> shift;
        ring = shared_address(memory);
        sums = ring + plan.stages * stage_bytes;
        const int lines = plan.slices * each;
        before = sums + lines * LINE * 4;
        const int room = plan.joined ? (ADDED ? lines + 1 + each : lines) * LINE * 4 : 0;
        full = sums + max(room, LEFT_BYTES + SIDE * LINE_BYTES - side_bytes);
        empty = full + 8 * plan.stages;
        ready = empty + 8 * plan.stages;
        given = ready + 8;
        scales = given + 8;
        const int turns = (k + COLUMNS - 1) / COLUMNS;
        first = turns * rank >> shift;
        last = turns * (rank + 1) >> shift;
    }
    __device__ __forceinline__ uint32_t stage(int i) const { return ring + i * stage_bytes; }
    __device__ __forceinline__ float* floats(uint32_t address) const {
        return reinterpret_cast<float*>(memory + (address - ring));
    }
    // The i-th of the rows that this block finishes.
    __device__ __forceinline__ int row(int i) const { return rank + (i << shift); }
};

// A place in the ring, and how often it has been gone around.
struct Cursor {
    int stage = 0, phase = 0;

    __device__ __forceinline__ void next(int stages) {
        if (++stage == stages) stage = 0, phase ^= 1;
    }
};

// Has everything brought that a block multiplies; one thread.
template <bool GATED, typename L> struct Bringer {
    const Plan& plan;
    const L& at;
    const Maps& maps;
    int n;

    __device__ __forceinline__ void bring_weights(int stage, int tile, int turn) const {
        const uint32_t to = at.stage(stage), barrier = at.full + 8 * stage;
        const int row = tile * plan.own * (GATED ? 1 : 2), other = GATED ? n + row : row + plan.own;
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
#pragma unroll 1
        for (int i = 0; i < ahead(); ++i) bring_weights(i, tile, at.first + i);
    }
    // x of what is on its way, and then the rest.
    __device__ __forceinline__ void follow() const {
#pragma unroll 1
        for (int i = 0; i < ahead(); ++i) bring_x(i, at.first + i);
    }
    __device__ __forceinline__ void go_on(int tile, int step) const {
        const int done = ahead();
        Cursor cursor{done < plan.stages ? done : 0, done < plan.stages};
#pragma unroll 1
        for (int turn = at.first + done; tile < plan.tiles; tile += step, turn = at.first)
#pragma unroll 1
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
template <int SIDE> struct Totals {
    float side[2][SIDE / 2];
};

// Goes on at `cursor` with the block's turns of a tile.
template <typename T, int SIDE, typename L>
__device__ __forceinline__ void multiply(const L& at, int stages, Cursor& cursor, Totals<SIDE>& sums) {
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

#endif
