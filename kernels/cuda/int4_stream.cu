// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n) for up to 64 rows, the weight as in int4.cuh, where reading it takes
// long. Gated: out = silu(x . the first half of weight (2 n, k)^T + bias) * (x . the second half + bias), n even.
//
// A cluster of blocks has a share of the weight's rows and shares out k; a block has its part of x in shared memory, all of it.
// Its warps share out groups of 16 weight rows, and chunks of k if there are warps enough, each with a ring of levels and
// scales that asynchronous copies fill, for the first time before the predecessor has ended.
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

// Chunks `begin..end` of x into shared memory, with zeros past its last column.
template <typename X>
__device__ __forceinline__ void bring_x(const X* x, unsigned to, int rows, int k, int begin, int end, int pitch) {
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Warps beside one another in a row, if there are more warps than rows.
    const int beside = max(1, unsigned(warps) / unsigned(rows)), step = beside == 1 ? warps : rows;
    const int part = beside == 1 ? 0 : unsigned(warp) / unsigned(rows);
    const int pieces = (end - begin) * (CHUNK / 8), there = (k - begin * CHUNK) / 8;
    for (int row = warp - part * step; part < beside && row < rows; row += step) {
        const X* from = x + size_t(row) * k + begin * CHUNK;
        for (int p = part * 32 + lane; p < pieces; p += 32 * beside)
            copy16_or_zeros(to + row * pitch + 16 * p, p < there ? from + 8 * p : x, p < there);
    }
    asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;" ::: "memory");
    __syncthreads();
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

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// Where results go, and which.
template <typename X> struct Results {
    const float* bias;
    int rows, stride;
    bool exact;
    void* out;
};

// Joins the sums (along, groups, rows, WIDTH) of `groups` groups from `first` on, and those of the cluster's other blocks.
template <typename X>
__device__ __forceinline__ void finish(const Share& share, const Plan& plan, float* sums, int rank, int first, int groups, const Results<X>& to) {
    const int size = groups * to.rows * WIDTH;
    if (plan.slices > 1) {
        for (int i = 4 * threadIdx.x; i < size && plan.along > 1; i += 4 * blockDim.x) {
            float4* at = reinterpret_cast<float4*>(sums + i);
            for (int v = 1; v < plan.along; ++v) *at = *at + *reinterpret_cast<const float4*>(sums + v * size + i);
        }
        cluster_barrier();
    }
    auto total = [&](const float* at) {
        float4 y = make_float4(0.f, 0.f, 0.f, 0.f);
        if (plan.slices > 1)
            for (int v = 0; v < plan.slices; v += 2) {   // both are under way before one is waited for
                const float4 one = load_of(at, v), other = load_of(at, v + 1);
                y = y + one;
                y = y + other;
            }
        else
            for (int v = 0; v < plan.along; ++v) y = y + *reinterpret_cast<const float4*>(at + v * size);
        return y;
    };
    const int quads = plan.gated ? 2 : 4;
    const float inverse = 1.f / to.rows;
    for (int i = rank * blockDim.x + threadIdx.x; i < groups * to.rows * quads; i += plan.slices * blockDim.x) {
        const int at = plan.gated ? i / 2 : i / 4, quad = i % quads;
        const int group = int((at + 0.5f) * inverse), row = at - group * to.rows;
        const int col = share.row(first + group) + 4 * quad, end = share.end(first + group);
        if (col >= end) continue;
        const float4 y = total(sums + at * WIDTH + 4 * quad);
        float values[4] = {y.x, y.y, y.z, y.w}, ups[4] = {};
        if (plan.gated) {
            const float4 up = total(sums + at * WIDTH + 8 + 4 * quad);
            ups[0] = up.x, ups[1] = up.y, ups[2] = up.z, ups[3] = up.w;
        }
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            if (col + v >= end) continue;
            float value = values[v] + (to.bias ? to.bias[col + v] : 0.f);
            if (plan.gated) {   // as from memory
                const float up = ups[v] + (to.bias ? to.bias[share.n + col + v] : 0.f);
                value = silu(to_float(from_float<X>(value))) * to_float(from_float<X>(up));
            }
            store_result(to.out, to.exact, size_t(row) * to.stride + col + v, value, X());
        }
    }
}

// Up to 8 * NT rows. Dynamic shared memory: the block's part of x in rows of `pitch` bytes, a ring a warp, then sums, or these
// over the former. A result depends on its row and the plan alone.
template <typename X, int NT, int G, int DEPTH>
__device__ __forceinline__ void stream(const X* x, const Weight& w, int n, int k, const Plan& plan, const Results<X>& to) {
    using S = Stage<G>;
    extern __shared__ __align__(128) unsigned char memory[];
    release_successor();
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int rank = plan.slices > 1 ? cluster_rank() : 0, rows = to.rows;
    const Parts slices(w.chunks, plan.slices);
    const int begin = slices.begin(rank), end = slices.begin(rank + 1);
    const int q = unsigned(warp) / unsigned(plan.across), place = warp - q * plan.across;
    const Parts along(end - begin, plan.along);
    const int c0 = begin + along.begin(q), c1 = begin + along.begin(q + 1);
    const int pitch = (slices.each + (slices.more > 0)) * CHUNK * 2 + 64;   // eight lanes read from all banks
    const int x_bytes = (rows * pitch + 127) / 128 * 128;
    const unsigned here = shared_address(memory), ring = here + x_bytes + warp * DEPTH * S::SIZE + 16 * lane;
    float* sums = reinterpret_cast<float*>(memory + (plan.over ? 0 : x_bytes + warps * DEPTH * S::SIZE));
    const unsigned cluster = unsigned(blockIdx.x - rank) / unsigned(plan.slices);
    const Share share(Parts((n + 1) / 2, unsigned(gridDim.x) / unsigned(plan.slices)), cluster, n, plan);
    // Where no zero levels are brought there are eights.
    for (int i = 4 * lane; i < DEPTH * S::SCALES && !w.zeros; i += 128)
        store4(ring - 16 * lane + i / S::SCALES * S::SIZE + S::LEVELS + S::SCALES + i % S::SCALES, 8 * BOTH);
    Bringer<G> bringer(w, share, plan, c0, c1, place);
#pragma unroll 1
    for (int i = 0; i < DEPTH - 1; ++i) {
        bringer.place = ring + i * S::SIZE;
        bringer.next();
    }
    bringer.place = ring + (DEPTH - 1) * S::SIZE;
    await_predecessor();
    bring_x(x, here, rows, k, begin, end, pitch);
    unsigned from_x[NT], stage = ring;
#pragma unroll
    for (int i = 0; i < NT; ++i)   // rows that are not there are as the last
        from_x[i] = here + min(8 * i + g, rows - 1) * pitch + (c0 - begin) * CHUNK * 2 + 16 * t;
    const int kept = plan.across * (plan.often ? 1 : plan.rounds);
    for (int round = 0; round < plan.rounds; ++round) {
        float sum[NT][4] = {};
#pragma unroll 1
        for (int c = c0; c < c1; ++c) {
            asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
            __syncwarp();   // a stage is there, and every lane has done with the one before
            bringer.next();
            bringer.place = stage;
            add_chunk<X, NT, G>(stage, from_x, sum);
#pragma unroll
            for (int i = 0; i < NT; ++i) from_x[i] += CHUNK * 2;
            stage = stage + S::SIZE == ring + DEPTH * S::SIZE ? ring : stage + S::SIZE;
        }
#pragma unroll
        for (int i = 0; i < NT; ++i) from_x[i] -= (c1 - c0) * CHUNK * 2;
        if (plan.over) __syncthreads();
        const int slot = q * kept + place + (plan.often ? 0 : round * plan.across);
#pragma unroll
        for (int i = 0; i < NT; ++i)
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int row = 8 * i + 2 * t + v % 2;
                if (row < rows) sums[(slot * rows + row) * WIDTH + g + v / 2 * 8] = sum[i][v];
            }
        if (!plan.often && round + 1 < plan.rounds) continue;
        __syncthreads();
        finish<X>(share, plan, sums, rank, plan.often ? round * plan.across : 0, kept, to);
        // Nobody leaves, or writes other sums, while these are read.
        if (plan.slices > 1) cluster_barrier();
        else if (round + 1 < plan.rounds) __syncthreads();
    }
}

#define STREAM(X, NT, G, DEPTH, THREADS)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) int4_stream_##NT##_g##G##_##X(const X* x,             \
        const uint4* levels, const f16* scales, const uint16_t* zeros, const float* bias, int rows, int n, int k,   \
        int stride, int exact, void* out, int slices, int across, int along, int rounds, int often, int gated, int over) { \
        const Weight weight(levels, scales, zeros, gated ? 2 * n : n, k);                                          \
        const Plan plan = {slices, across, along, rounds, often != 0, gated != 0, over != 0};                      \
        stream<X, NT, G, DEPTH>(x, weight, n, k, plan, Results<X>{bias, rows, stride, exact != 0, out});           \
    }
#define DEFINE(X, G) STREAM(X, 1, G, 4, 512) STREAM(X, 2, G, 4, 512) STREAM(X, 4, G, 4, 384) STREAM(X, 8, G, 4, 384)
DEFINE(bf16, 32) DEFINE(bf16, 64) DEFINE(bf16, 128) DEFINE(f16, 32) DEFINE(f16, 64) DEFINE(f16, 128)
#undef DEFINE
