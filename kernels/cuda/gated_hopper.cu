// silu(gate) * up of many rows on Hopper, where gate and up (rows, n) are x (rows, k) . weight (2 n, k)^T + bias (2 n).
//
// A block makes tiles of 128 rows and N columns, half of them of gate and the same of up, one tile after the other. One
// thread brings both sides, 64 columns of k at a time, into a ring in shared memory; two groups of four warps have 64 rows
// each. A group at its results leaves the tensor cores to the other, which may be as far ahead as the ring is deep. Two blocks
// of a cluster have the same columns and different rows: each brings one half of the weights for both.
#include "tma.cuh"
#include "wgmma_wide.cuh"

template <int N_, int STAGES_, int CLUSTER_> struct Tiles {
    static constexpr int M = 128, N = N_, K = 64, STAGES = STAGES_, CLUSTER = CLUSTER_, COLUMNS = N / 2;
    static constexpr int WARPS = 8, THREADS = WARPS * 32 + 128;
    static constexpr int X_BYTES = M * K * 2, HALF_BYTES = COLUMNS * K * 2, STAGE_BYTES = X_BYTES + 2 * HALF_BYTES;
    // Through which a warp's 16 rows of 64 results leave.
    static constexpr int OUT_BYTES = 16 * 128;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Sizes {
    int rows, n, k;
    int group;      // how many tiles (of a whole cluster) below one another are made before those of the next columns
    bool written;   // the kernel before has written the weights
};

struct Place {
    int row, column;
};

// Which tiles a block makes: those that run at once share rows and columns, which stay in the second-level cache.
template <typename C> struct Order {
    int down, across, group, rank;

    __device__ __forceinline__ explicit Order(const Sizes& sizes)
        : down((sizes.rows + C::M * C::CLUSTER - 1) / (C::M * C::CLUSTER)),
          across((sizes.n + C::COLUMNS - 1) / C::COLUMNS), group(sizes.group), rank(C::CLUSTER > 1 ? cluster_rank() : 0) {}
    __device__ __forceinline__ int first() const { return blockIdx.x / C::CLUSTER; }
    __device__ __forceinline__ int step() const { return gridDim.x / C::CLUSTER; }
    __device__ __forceinline__ int count() const { return down * across; }
    __device__ __forceinline__ Place at(int index) const {
        const int before = index / (group * across) * group, high = min(group, down - before);
        const int within = index - before * across;
        return {((before + within % high) * C::CLUSTER + rank) * C::M, within / high * C::COLUMNS};
    }
};

// Addresses in shared memory: of a stage, x, then gate's and up's weights.
struct Ring {
    uint32_t stages, full, empty;
};

template <typename C> __device__ __forceinline__ Ring ring_at(uint32_t shared) {
    const uint32_t full = shared + C::STAGES * C::STAGE_BYTES + C::WARPS * C::OUT_BYTES;
    return {shared, full, full + 8 * C::STAGES};
}

// The one thread that brings what a block multiplies.
template <typename C> struct Bringer {
    const Ring& ring;
    const CUtensorMap &x, &weights;
    const Sizes& sizes;
    Order<C> order;

    __device__ __forceinline__ void bring_x(int stage, const Place& place, int k) const {
        copy_box(ring.stages + stage * C::STAGE_BYTES, x, k, place.row, ring.full + 8 * stage);
    }

    __device__ __forceinline__ void bring_weights(int stage, const Place& place, int k) const {
        const uint32_t to = ring.stages + stage * C::STAGE_BYTES + C::X_BYTES, barrier = ring.full + 8 * stage;
        barrier_expect(barrier, C::STAGE_BYTES);
        if (C::CLUSTER == 1) {
            copy_box(to, weights, k, place.column, barrier);
            copy_box(to + C::HALF_BYTES, weights, k, place.column + sizes.n, barrier);
        } else {
            copy_box_to_both(
                to + order.rank * C::HALF_BYTES, weights, k, place.column + order.rank * sizes.n, barrier);
        }
    }

    __device__ __forceinline__ void bring_all() const {
        const int turns = (sizes.k + C::K - 1) / C::K, early = min(turns, C::STAGES);
        if (order.first() >= order.count()) return;
        if (sizes.written) await_predecessor();
        const Place begin = order.at(order.first());
        for (int j = 0; j < early; ++j) bring_weights(j, begin, j * C::K);
        await_predecessor();
        for (int j = 0; j < early; ++j) bring_x(j, begin, j * C::K);
        int stage = early % C::STAGES, phase = early == C::STAGES ? 0 : 1, j = early;
        for (int index = order.first(); index < order.count(); index += order.step(), j = 0) {
            const Place place = order.at(index);
            for (; j < turns; ++j) {
                barrier_wait(ring.empty + 8 * stage, phase);
                bring_weights(stage, place, j * C::K);
                bring_x(stage, place, j * C::K);
                if (++stage == C::STAGES) stage = 0, phase ^= 1;
            }
        }
    }
};

// 1 + e^-x; far below, where silu is nothing, so small that two of them can still be multiplied.
__device__ __forceinline__ float silu_divisor(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fminf(x * -1.4426950409f, 62.f)));
    return 1.f + power;
}

// silu(gate) * up of two, with one reciprocal.
__device__ __forceinline__ float2 gated(float2 gate, float2 up) {
    const float x = silu_divisor(gate.x), y = silu_divisor(gate.y);
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x * y));
    return make_float2(gate.x * up.x * (inverse * y), gate.y * up.y * (inverse * x));
}

// Four 8 x 8 matrices, as `mma` gives them to lanes; lane 8 i + r says where row r of matrix i goes.
__device__ __forceinline__ void store_matrices(uint32_t to, const uint32_t (&part)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(part[0]), "r"(part[1]),
                 "r"(part[2]), "r"(part[3])
                 : "memory");
}
__device__ __forceinline__ uint4 load_shared16(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

// A warp's 16 rows of a tile, from sums to memory.
template <typename T, typename C> struct Results {
    static constexpr int BLOCKS = C::COLUMNS / 8;
    const float* bias;
    T* out;
    int rows, n;
    uint32_t lines;   // in shared memory: 16 of 64 elements, swizzled

    // Columns 8 i + 2 t and the next of row g (or g + 8 with `high`).
    __device__ __forceinline__ uint32_t pair(const float (&sums)[C::N / 2], int i, int high, int column) const {
        const float *gate_sums = sums + 4 * i + 2 * high, *up_sums = gate_sums + 4 * BLOCKS;
        float2 gate = make_float2(gate_sums[0], gate_sums[1]), up = make_float2(up_sums[0], up_sums[1]);
        const int at = column + 8 * i + threadIdx.x % 4 * 2;
        if (bias != nullptr && at < n) {
            gate.x += bias[at], gate.y += bias[at + 1];
            up.x += bias[n + at], up.y += bias[n + at + 1];
        }
        const float2 y = gated(gate, up);
        return pack2<T>(y.x, y.y);
    }

    __device__ __forceinline__ void store(const float (&sums)[C::N / 2], const Place& place) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int block = 0; block < BLOCKS; block += 8) {
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 8 && block + i < BLOCKS; i += 2) {
                uint32_t part[4] = {};
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (block + i + j / 2 < BLOCKS) part[j] = pair(sums, block + i + j / 2, j % 2, place.column);
                store_matrices(lines + lane % 16 * 128 + ((i + lane / 16) ^ (lane % 8)) * 16, part);
            }
            __syncwarp();
            store_lines(place, block);
        }
    }

    // The lines, of 64 columns from block `block` on.
    __device__ __forceinline__ void store_lines(const Place& place, int block) const {
        const int lane = threadIdx.x % 32, chunk = lane % 8, column = place.column + (block + chunk) * 8;
        const int first = place.row + threadIdx.x / 32 * 16 + lane / 8;
        if (column >= n || block + chunk >= BLOCKS) return;
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
            const int line = i + lane / 8;
            if (first + i < rows)
                *reinterpret_cast<uint4*>(out + size_t(first + i) * n + column) =
                    load_shared16(lines + line * 128 + (chunk ^ (line % 8)) * 16);
        }
    }
};

// A group of four warps at its 64 rows of each tile.
template <typename T, typename C> struct Group {
    const Ring& ring;
    const Sizes& sizes;
    const Order<C> order;

    __device__ __forceinline__ void free(int stage) const {
        const int lane = threadIdx.x % 32;
        if (C::CLUSTER == 1) {
            if (lane == 0) barrier_arrive(ring.empty + 8 * stage);
        } else if (lane < C::CLUSTER) {
            barrier_arrive_at(ring.empty + 8 * stage, lane);   // both blocks' copies go to both
        }
    }

    __device__ __forceinline__ void multiply_all(const Results<T, C>& results) const {
        const int turns = (sizes.k + C::K - 1) / C::K, group = threadIdx.x / 128;
        float sums[C::N / 2];
        int stage = 0, phase = 0, last = 0;
        for (int index = order.first(); index < order.count(); index += order.step()) {
            for (int j = 0; j < turns; ++j) {
                barrier_wait(ring.full + 8 * stage, phase);
                const uint32_t at = ring.stages + stage * C::STAGE_BYTES;
                const uint64_t a = operand<Swizzle::OF_128>(at + group * 64 * 128);
                const uint64_t b = operand<Swizzle::OF_128>(at + C::X_BYTES);
                products_begin();
#pragma unroll
                for (int i = 0; i < C::K / 16; ++i)   // 32 bytes a step
                    WideProduct<T, C::N / 2>::run(sums, a + 2 * i, b + 2 * i, j + i > 0);
                products_commit();
                if (j > 0) {
                    products_wait<1>();
                    free(last);
                }
                last = stage;
                if (++stage == C::STAGES) stage = 0, phase ^= 1;
            }
            products_wait<0>();
            pin(sums);
            free(last);
            results.store(sums, order.at(index));
        }
    }
};

// x and weights as maps of tiles of 128 and COLUMNS rows; n and k multiples of 8, k not 0.
template <typename T, typename C>
__device__ __forceinline__ void gated_body(
    const CUtensorMap& x, const CUtensorMap& weights, const float* bias, const Sizes& sizes, T* out) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Ring ring = ring_at<C>(shared_address(memory));
    release_successor();
    if (threadIdx.x < C::STAGES) {
        barrier_init(ring.full + 8 * threadIdx.x, 1);
        barrier_init(ring.empty + 8 * threadIdx.x, C::WARPS * C::CLUSTER);
        publish_barriers();
    }
    if (C::CLUSTER > 1) cluster_sync();
    else __syncthreads();
    const Order<C> order(sizes);
    if (threadIdx.x >= C::WARPS * 32) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == C::WARPS * 32) Bringer<C>{ring, x, weights, sizes, order}.bring_all();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        await_predecessor();   // which may still read what is written here
        const uint32_t lines = ring.stages + C::STAGES * C::STAGE_BYTES + threadIdx.x / 32 * C::OUT_BYTES;
        Group<T, C>{ring, sizes, order}.multiply_all(Results<T, C>{bias, out, sizes.rows, sizes.n, lines});
    }
    // Nobody leaves to whose shared memory the other may still write.
    if (C::CLUSTER > 1) {
        __syncwarp();
        cluster_sync();
    }
}
#define GATED_BODY(T, ...) gated_body<T, Tiles<__VA_ARGS__>>(x, weights, bias, Sizes{rows, n, k, group, written != 0}, out)
#else
#define GATED_BODY(...)
#endif

#define DEFINE(T, N, STAGES, CLUSTER)                                                                              \
    extern "C" __global__ void __launch_bounds__(Tiles<N, STAGES, CLUSTER>::THREADS, 1)                            \
        gated_hopper_##N##_##CLUSTER##_##T(                                                                        \
            const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weights, const float* bias, \
            int rows, int n, int k, int group, int written, T* out) {                                              \
        GATED_BODY(T, N, STAGES, CLUSTER);                                                                         \
    }
#define DEFINE_TILES(T)                                                                                            \
    DEFINE(T, 256, 4, 2) DEFINE(T, 240, 4, 2) DEFINE(T, 208, 5, 2)                                                 \
    DEFINE(T, 256, 4, 1) DEFINE(T, 224, 4, 1) DEFINE(T, 208, 5, 1) DEFINE(T, 160, 5, 1)
DEFINE_TILES(f16) DEFINE_TILES(bf16)
#undef DEFINE_TILES
#undef DEFINE
