// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n) for up to 64 rows, in the time that it takes to read the weights,
// by Hopper's products of four warps. Gated: out = silu(x . the first half of weight (2 n, k)^T + bias) * (x . the second).
// Added: results go to a residual, and what its norm multiplies rows by is left to the next product (deferred_norm.cuh), as
// the former two take it over.
//
// x is the left side, 64 rows of which those past `rows` are whatever lies in shared memory: nobody looks at their results.
// Weights are the right side, so that a block's share of their rows may be of any size. One thread has boxes of weights copied
// into a ring, for the first time before the predecessor has ended, and of x when it has; four warps multiply, while another
// brings what their results need. Where a share would be small beside x, a cluster of blocks has a larger one and shares out k.
#include "deferred_norm.cuh"
#include "few_ring.cuh"

constexpr int CLERK = BRINGER + 32;   // the first thread of the warp that brings what results need
constexpr int THREADS = CLERK + 32;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }

// Two neighbouring columns of both sides of a tile; n and `own` are even.
struct Columns {
    float2 side[2];
};

// Results times what their row is owed, plus bias; gated, both sides make one.
template <typename T, typename O, bool GATED_, int SIDE> struct Scaled {
    static constexpr bool GATED = GATED_, ADDED = false;
    const Few<O>& few;
    const Plan& plan;
    const Layout<SIDE, ADDED>& at;
    Owed owed;

    // The scales of the rows that this block finishes; a warp.
    __device__ __forceinline__ void prepare(int) const {
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int i = 0; owed.squares && i < at.count; i += 16) {
            const float scale = owed_scales(owed, at.row(i), plan.slices, at.count - i, few.k);
            if (lane % 2 == 0 && i + lane / 2 < at.count) at.floats(at.scales)[i + lane / 2] = scale;
        }
    }
    // Of the i-th row.
    __device__ __forceinline__ float scale(int i) const { return owed.squares ? at.floats(at.scales)[i] : 1.f; }

    __device__ __forceinline__ float2 whole(float2 y, float scale, int col) const {
        const float2 bias = few.bias ? *reinterpret_cast<const float2*>(few.bias + col) : make_float2(0.f, 0.f);
        return make_float2(y.x * scale + bias.x, y.y * scale + bias.y);
    }
    __device__ __forceinline__ void store(int row, int col, float2 y) const {
        O* to = few.out + size_t(row) * few.n + col;
        if (sizeof(O) == 2) *reinterpret_cast<uint32_t*>(to) = pack2<T>(y.x, y.y);
        else *reinterpret_cast<float2*>(to) = y;
    }
    // Columns `c` and the next.
    __device__ __forceinline__ void finish(int tile, int row, int c, const Columns& y, float scale) const {
        const int col = tile * plan.own * (GATED ? 1 : 2) + c, other = col + plan.own;
        if (col >= few.n) return;
        const float2 low = whole(y.side[0], scale, col);
        if (GATED) {
            const float2 up = whole(y.side[1], scale, few.n + col);
            // As from memory.
            auto mixed = [](float g, float u) { return silu(to_float(from_float<O>(g))) * to_float(from_float<O>(u)); };
            store(row, col, make_float2(mixed(low.x, up.x), mixed(low.y, up.y)));
        } else {
            store(row, col, low);
            if (other < few.n) store(row, other, whole(y.side[1], scale, other));
        }
    }
    // Of the i-th row, if there is one; LANES of a warp have a row.
    template <int LANES> __device__ __forceinline__ void finish(int tile, int i, int c, const Columns& y, bool some) const {
        if (some) finish(tile, at.row(i), c, y, scale(i));
    }
};

// Results plus bias are added to the residual; out is the sum times the norm's weight, its scale owed. A block has one tile.
template <typename T, int SIDE> struct Added {
    static constexpr bool GATED = false, ADDED = true;
    const Few<T>& few;
    const Plan& plan;
    const Layout<SIDE, ADDED>& at;
    Sums to;

    // Brings the norm's weight and the rows of the residual that this block finishes; a warp.
    __device__ __forceinline__ void prepare(int tile) const {
        const int c = threadIdx.x % 32 * 2;
#pragma unroll 1
        for (int side = 0; side < 2; ++side) {
            const int col = (2 * tile + side) * plan.own + c;
            if (c >= plan.own || col >= few.n) continue;
            uint32_t line = at.before + (side * SIDE + c) * 4;
            copy8(line, to.weight + col);
            const float* from = to.residual + size_t(at.rank) * few.n + col;
#pragma unroll 1
            for (int i = 0; i < at.count; ++i, from += plan.slices * few.n) copy8(line += at.LINE * 4, from);
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
    }
    template <int LANES> __device__ __forceinline__ void finish(int tile, int i, int c, const Columns& y, bool some) const {
        const int row = at.row(i);
        float squares = 0.f;
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const int col = (2 * tile + side) * plan.own + c;
            if (!some || col >= few.n) continue;
            const float2* line = reinterpret_cast<const float2*>(at.floats(at.before) + side * SIDE + c);
            const float2 weight = line[0], before = line[(1 + i) * (at.LINE / 2)];
            float2 sum = make_float2(before.x + y.side[side].x, before.y + y.side[side].y);
            if (few.bias) sum.x += few.bias[col], sum.y += few.bias[col + 1];
            const size_t place = size_t(row) * few.n + col;
            *reinterpret_cast<float2*>(to.residual + place) = sum;
            *reinterpret_cast<uint32_t*>(few.out + place) = pack2<T>(sum.x * weight.x, sum.y * weight.y);
            squares += sum.x * sum.x + sum.y * sum.y;
        }
#pragma unroll
        for (int d = LANES / 2; d > 0; d /= 2) squares += __shfl_xor_sync(FULL_WARP, squares, d);
        if (threadIdx.x % LANES == 0 && some) to.squares[size_t(row) * plan.tiles + tile] = squares;
    }
};

// A warp's part of `totals`: f(row) for each of a lane's two rows, and what that gives for each two columns of both sides.
template <int SIDE, typename F>
__device__ __forceinline__ void for_each_two(const Totals<SIDE>& totals, const Plan& plan, int rows, const F& f) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = warp * 16 + g + 8 * r;
        if (row >= rows) continue;
        const auto of_row = f(row);
#pragma unroll
        for (int i = 0; i < SIDE / 8; ++i) {
            Columns two;
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const float* pair = totals.side[side] + 4 * i + 2 * r;
                two.side[side] = make_float2(pair[0], pair[1]);
            }
            if (8 * i + 2 * t < plan.own) of_row(8 * i + 2 * t, two);
        }
    }
}

// Gives sums to the block of the cluster that finishes their rows, and waits for those that this one gets.
template <int SIDE, typename L>
__device__ __forceinline__ void share_sums(const Totals<SIDE>& totals, const L& at, const Plan& plan, int rows) {
    const bool alone = plan.slices == 1;
    if (!alone) cluster_wait<false>();   // all have begun
    if (threadIdx.x < BRINGER)
        for_each_two(totals, plan, rows, [&](int row) {
            const int block = row & (plan.slices - 1), line = (at.rank * at.each + (row >> at.shift)) * at.LINE;
            float* own = at.floats(at.sums) + line;
            const uint32_t to = alone ? 0 : in_block(at.sums + line * 4, block);
            const uint32_t counted = alone ? 0 : in_block(at.given, block);
            return [=](int c, const Columns& y) {
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    if (alone) *reinterpret_cast<float2*>(own + side * SIDE + c) = y.side[side];
                    else send(to + (side * SIDE + c) * 4, y.side[side], counted);
                }
            };
        });
    if (alone) __syncthreads();
    else await_sent(at.given, 0);
}

// Finishes what the cluster's blocks have given, added up in their order.
template <int SIDE, typename R, typename L>
__device__ __forceinline__ void join_sums(const R& results, const L& at, const Plan& plan, int tile) {
    constexpr int LANES = SIDE > 32 ? 32 : SIDE / 2;   // of a row
    const int c = threadIdx.x % LANES * 2;
#pragma unroll 1
    for (int first = 0; first < at.count; first += THREADS / LANES) {
        const int i = first + threadIdx.x / LANES;
        const bool some = c < plan.own && i < at.count;
        Columns sum = {};
#pragma unroll 2
        for (int v = 0; some && v < plan.slices; ++v) {
            const float* line = at.floats(at.sums) + (v * at.each + i) * at.LINE + c;
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const float2 y = *reinterpret_cast<const float2*>(line + side * SIDE);
                sum.side[side].x += y.x, sum.side[side].y += y.y;
            }
        }
        results.template finish<LANES>(tile, i, c, sum, some);
    }
}

template <typename T, int SIDE, typename R, typename O>
__device__ __forceinline__ void few_body(const R& results, const Few<O>& few, const Maps& maps) {
    const auto& plan = results.plan;
    const auto& at = results.at;
    const Bringer<R::GATED, Layout<SIDE, R::ADDED>> bringer{plan, at, maps, few.n};
    const int tile = blockIdx.x >> at.shift, step = gridDim.x >> at.shift;
    if (threadIdx.x == BRINGER) {
#pragma unroll 1
        for (int i = 0; i < plan.stages; ++i) barrier_init(at.full + 8 * i, 1), barrier_init(at.empty + 8 * i, 4);
        barrier_init(at.ready, THREADS - CLERK);
        barrier_init(at.given, 1);
        publish_barriers();
        barrier_expect(at.given, plan.slices * at.count * plan.own * 8);   // two sides
    }
    if (plan.slices > 1) cluster_arrive<false>();
    if (threadIdx.x == BRINGER) bringer.begin(tile);
    __syncthreads();
    Totals<SIDE> totals;
    if (threadIdx.x >= CLERK) {
        await_predecessor();
        results.prepare(tile);
        barrier_arrive(at.ready);
    } else if (threadIdx.x >= BRINGER) {
        if (threadIdx.x == BRINGER) {
            await_predecessor();
            bringer.follow();
            bringer.go_on(tile, step);
        }
        __syncwarp();
    } else {
        Cursor cursor;
#pragma unroll 1
        for (int i = tile; i < plan.tiles; i += step) {
            multiply<T, SIDE>(at, plan.stages, cursor, totals);
            if (R::ADDED || plan.joined) break;   // this was the only one
            await_predecessor();
            barrier_wait(at.ready, 0);
            if constexpr (!R::ADDED)
                for_each_two(totals, plan, few.rows, [&](int row) {
                    const float scale = results.scale(row);
                    return [&, row, scale](int c, const Columns& y) { results.finish(i, row, c, y, scale); };
                });
        }
    }
    if (!R::ADDED && !plan.joined) return;
    share_sums<SIDE>(totals, at, plan, few.rows);
    barrier_wait(at.ready, 0);
    await_predecessor();
    join_sums<SIDE>(results, at, plan, tile);
}
#define FEW_BODY(T, O, SIDE, WITH, ...)                                                                            \
    using Results = __VA_ARGS__;                                                                                       \
    extern __shared__ __align__(1024) unsigned char memory[];                                                          \
    release_successor();                                                                                               \
    const Few<O> few{bias, rows, n, k, out};                                                                           \
    const Plan plan{own, tiles, slices, stages, bool(joined)};                                                         \
    const Layout<SIDE, Results::ADDED> at(memory, rows, k, plan);                                                      \
    few_body<T, SIDE>(Results{few, plan, at, WITH}, few, Maps{weight, x})
#else
#define FEW_BODY(...)
#endif

#define ARGUMENTS(O)                                                                                               \
    const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x, const float* bias, int rows,    \
        int n, int k, O* out, int own, int tiles, int slices, int stages, int joined
#define DEFINE(kind, T, O, SIDE, GATED)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) kind##_few_##SIDE##_##T##_##O(                            \
        ARGUMENTS(O), const float* squares, int parts, float eps) {                                                    \
        FEW_BODY(T, O, SIDE, (Owed{squares, parts, eps}), Scaled<T, O, GATED, SIDE>);                                  \
    }
#define DEFINE_SIDE(T, SIDE)                                                                                       \
    DEFINE(linear, T, T, SIDE, false) DEFINE(linear, T, f32, SIDE, false) DEFINE(gated, T, T, SIDE, true)
#define DEFINE_ALL(T)                                                                                              \
    DEFINE_SIDE(T, 16) DEFINE_SIDE(T, 32) DEFINE_SIDE(T, 48)
DEFINE_ALL(f16) DEFINE_ALL(bf16)
#undef DEFINE_ALL
#undef DEFINE_SIDE
#undef DEFINE
#define DEFINE(T, SIDE)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) added_few_##SIDE##_##T##_##T(                             \
        ARGUMENTS(T), float* residual, const float* norm, float* squares) {                                            \
        FEW_BODY(T, T, SIDE, (Sums{residual, norm, squares}), Added<T, SIDE>);                                         \
    }
DEFINE(bf16, 16) DEFINE(bf16, 32) DEFINE(bf16, 48)
#undef DEFINE
#undef ARGUMENTS
