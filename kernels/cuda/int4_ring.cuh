// Weights at 4 bits on their way through rings of shared memory, for int4_stream.cu: who brings what, and its products with x.
#pragma once

#include "int4.cuh"

constexpr int TILES = 2;      // of 8 weight rows in a group; gated: the second in the weight's second half
constexpr int WIDTH = 16;     // sums of a group and a row of x

// How a product is laid out; src/cuda/int4_stream.rs makes it.
struct Plan {
    int slices;          // blocks of a cluster
    int across, along;   // warps of a block beside one another over groups, over chunks
    int rounds;          // groups of a warp, one after another
    bool often;          // sums are joined after each round, not at the end
    bool gated;
    bool over;           // sums lie where x was; one round only
};

// A stage of a ring in bytes: levels, scales, zero levels.
template <int G> struct Stage {
    static constexpr int GROUPS = CHUNK / G;
    static constexpr int LEVELS = TILES * 512, SCALES = TILES * GROUPS * 16, SIZE = LEVELS + 2 * SCALES;
};

__device__ __forceinline__ void copy16(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy16_or_zeros(unsigned to, const void* from, bool some) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(some ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy8(unsigned to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy4(unsigned to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void load16(unsigned at, uint32_t (&v)[4]) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(at));
}
__device__ __forceinline__ uint32_t load2(unsigned at) {
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}
__device__ __forceinline__ void store4(unsigned at, uint32_t v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}

// `count` things in `parts` parts that differ by one at most.
struct Parts {
    int each, more;

    __device__ __forceinline__ Parts(int count, int parts)
        : each(unsigned(count) / unsigned(parts)), more(count - each * parts) {}
    __device__ __forceinline__ int begin(int i) const { return i * each + min(i, more); }
    __device__ __forceinline__ int count(int i) const { return each + (i < more); }
};

// The weight rows of a cluster, an even number of them, in groups that are even too.
struct Share {
    int first, n;
    Parts groups;

    __device__ __forceinline__ Share(const Parts& pairs, int cluster, int n, const Plan& plan)
        : first(2 * pairs.begin(cluster)), n(n), groups(pairs.count(cluster), plan.across * plan.rounds) {}
    __device__ __forceinline__ int row(int group) const { return first + 2 * groups.begin(group); }
    __device__ __forceinline__ int end(int group) const { return min(row(group + 1), n); }
};

// Has a warp's chunks of its groups brought into its ring. A lane brings the levels that it reads, and two scales.
template <int G> struct Bringer {
    using S = Stage<G>;
    static constexpr int ENTRIES = TILES * 4 * S::GROUPS;   // at most as many as lanes
    const Weight& w;
    const Share& share;
    const Plan& plan;
    const int c0, c1;   // chunks
    unsigned place = 0;   // of the lane in the stage that comes next
    const uint4* from[TILES];
    const f16* scales;
    bool there[TILES], scaled;
    int left, round = 0, group;

    __device__ __forceinline__ Bringer(
        const Weight& w, const Share& share, const Plan& plan, int c0, int c1, int group)
        : w(w), share(share), plan(plan), c0(c0), c1(c1), group(group) {
        start();
    }

    __device__ __forceinline__ void start() {
        const int lane = threadIdx.x % 32, g = lane / 4;
        const int first = share.row(group), count = share.end(group) - first;
        left = c1 - c0;
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            const int row = plan.gated ? g : 8 * j + g;
            there[j] = row < count;
            from[j] = w.at(first + row + (plan.gated && j > 0 ? share.n : 0), c0);
        }
        const int j = lane / 4 % TILES, row = lane % 4 * 2 + (plan.gated ? 0 : 8 * j);
        scaled = lane < ENTRIES && row < count;
        scales = w.scales + size_t(c0 * S::GROUPS + lane / (4 * TILES)) * w.padded + first + row
            + (plan.gated && j > 0 ? share.n : 0);
    }

    __device__ __forceinline__ void next() {
        if (left > 0) {
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                if (there[j]) copy16(place + j * 512, from[j]);
                from[j] += PIECES;
            }
            const unsigned to = place - threadIdx.x % 32 * 12 + S::LEVELS;
            if (scaled) {
                copy4(to, scales);
                if (w.zeros) copy4(to + S::SCALES, w.zeros + (scales - w.scales));
            }
            scales += size_t(S::GROUPS) * w.padded;
            if (--left == 0 && ++round < plan.rounds) {
                group += plan.across;
                start();
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
};

// Has chunks `begin..end` of x brought into shared memory, with zeros past its last column.
template <typename X>
__device__ __forceinline__ void begin_x(const X* x, unsigned to, int rows, int k, int begin, int end, int pitch) {
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Warps beside one another in a row, if there are more warps than rows.
    const int beside = max(1, unsigned(warps) / unsigned(rows)), step = beside == 1 ? warps : rows;
    const int part = beside == 1 ? 0 : unsigned(warp) / unsigned(rows);
    const int pieces = (end - begin) * (CHUNK / 8), there = (k - begin * CHUNK) / 8;
#pragma unroll 1
    for (int row = warp - part * step; part < beside && row < rows; row += step) {
        const X* from = x + size_t(row) * k + begin * CHUNK;
#pragma unroll 2
        for (int p = part * 32 + lane; p < pieces; p += 32 * beside)
            copy16_or_zeros(to + row * pitch + 16 * p, p < there ? from + 8 * p : x, p < there);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// A group's sums over a chunk: levels from a stage, x from shared memory, at `from_x` for each 8 rows.
template <typename X, int NT, int G>
__device__ __forceinline__ void add_chunk(unsigned stage, const unsigned (&from_x)[NT], float (&sum)[NT][4]) {
    using S = Stage<G>;
    constexpr int BESIDE = NT < 4 ? NT : 4;
    const int lane = threadIdx.x % 32;
    const unsigned scale = stage - 16 * lane + S::LEVELS + lane / 4 * 2;
    uint32_t low[4], high[4], zero[2];
    load16(stage, low);
    load16(stage + 512, high);
    float part[NT][4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {   // 32 columns
        const unsigned at = scale + 32 * j / G * TILES * 16;
        if (32 * j % G == 0)
#pragma unroll
            for (int i = 0; i < TILES; ++i) zero[i] = offset<X>(load2(at + S::SCALES + 16 * i));
        uint32_t a[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) unpack<X>(low[j], high[j], h, zero, a[h]);
#pragma unroll
        for (int first = 0; first < NT; first += BESIDE) {
            uint32_t b[BESIDE][4];
#pragma unroll
            for (int i = 0; i < BESIDE; ++i) load16(from_x[first + i] + 64 * j, b[i]);
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int i = 0; i < BESIDE; ++i) mma_anywhere<X>(part[first + i], a[h], b[i][2 * h], b[i][2 * h + 1]);
        }
        if ((32 * j + 32) % G == 0) add_group<X>(sum, part, scale_of(load2(at)), scale_of(load2(at + 16)));
    }
}
