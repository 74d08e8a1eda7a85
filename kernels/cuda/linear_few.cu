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

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// Two neighbouring columns of both sides of a tile.
struct Columns {
    float2 side[2];
};

// What the cluster's blocks gave, added up in their order.
template <typename L> __device__ __forceinline__ Columns joined(const L& at, int slices, int row, int c) {
    Columns sum = {};
    for (int v = 0; v < slices; ++v) {
        const float* line = at.floats(at.sums) + (v * at.each + row) * at.LINE + c;
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const float2 y = *reinterpret_cast<const float2*>(line + side * at.OTHER);
            sum.side[side].x += y.x, sum.side[side].y += y.y;
        }
    }
    return sum;
}

// Results times what their row is owed, plus bias; gated, both sides make one.
template <typename T, typename O, bool GATED_, int SIDE> struct Scaled {
    static constexpr bool GATED = GATED_, ADDED = false;
    const Few<O>& few;
    const Plan& plan;
    const Layout<SIDE, ADDED>& at;
    Owed owed;

    // The scales of the rows that this block finishes; a warp.
    __device__ __forceinline__ void prepare(int) const {
        constexpr int AT_ONCE = 16;
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int row = at.row; owed.squares && row < at.end; row += AT_ONCE) {
            float part[AT_ONCE], own = 0.f;
            owed_parts<2>(owed, row, at.end, part);
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const float scale = owed_scale(part[i], few.k, owed.eps);
                if (lane == i) own = scale;
            }
            if (lane < AT_ONCE && row + lane < at.end) at.floats(at.scales)[row + lane] = own;
        }
    }
    __device__ __forceinline__ float scale(int row) const { return owed.squares ? at.floats(at.scales)[row] : 1.f; }

    __device__ __forceinline__ float2 whole(float2 y, float scale, int col, bool second) const {
        y.x *= scale, y.y *= scale;
        if (few.bias) y.x += few.bias[col], y.y += second ? few.bias[col + 1] : 0.f;
        return y;
    }
    __device__ __forceinline__ void store(int row, int col, float2 y, bool second) const {
        O* to = few.out + size_t(row) * few.n + col;
        if (second && few.n % 2 == 0 && sizeof(O) == 2) {   // at an even address, as `own` is even
            *reinterpret_cast<uint32_t*>(to) = pack2<T>(y.x, y.y);
        } else {
            to[0] = from_float<O>(y.x);
            if (second) to[1] = from_float<O>(y.y);
        }
    }
    __device__ __forceinline__ void finish(int tile, int row, int c, const Columns& y, float scale) const {
        if (c >= plan.own) return;
        const int col = tile * plan.own * (GATED ? 1 : 2) + c, other = col + plan.own;
        if (GATED) {
            if (col >= few.n) return;
            const bool second = col + 1 < few.n;
            const float2 gate = whole(y.side[0], scale, col, second), up = whole(y.side[1], scale, few.n + col, second);
            // As from memory.
            auto mixed = [](float g, float u) { return silu(to_float(from_float<O>(g))) * to_float(from_float<O>(u)); };
            store(row, col, make_float2(mixed(gate.x, up.x), mixed(gate.y, up.y)), second);
            return;
        }
        if (col < few.n) store(row, col, whole(y.side[0], scale, col, col + 1 < few.n), col + 1 < few.n);
        if (other < few.n) store(row, other, whole(y.side[1], scale, other, other + 1 < few.n), other + 1 < few.n);
    }

    // Of the rows that this block finishes, from what the cluster has given.
    __device__ __forceinline__ void join(int tile) const {
        const int pairs = plan.own / 2;
        for (int i = threadIdx.x; i < (at.end - at.row) * pairs; i += THREADS) {
            const int row = i / pairs, c = (i - row * pairs) * 2;
            finish(tile, at.row + row, c, joined(at, plan.slices, row, c), scale(at.row + row));
        }
    }
};

// Results plus bias are added to the residual; out is the sum times the norm's weight, its scale owed. A block has one tile.
template <typename T, int SIDE> struct Added {
    static constexpr bool GATED = false, ADDED = true;
    const Few<T>& few;
    const Plan& plan;
    const Layout<SIDE, ADDED>& at;
    Sums to;

    // Brings the rows of the residual that this block finishes, and the norm's weight; a warp.
    __device__ __forceinline__ void prepare(int tile) const {
        const int c = threadIdx.x % 32 * 2;
#pragma unroll 1
        for (int side = 0; side < 2; ++side) {
            const int col = (2 * tile + side) * plan.own + c;
            if (c >= plan.own || col >= few.n) continue;
            uint32_t line = at.before + (side * SIDE + c) * 4;
            copy_two(line, to.weight + col, col + 1 < few.n);
            const float* from = to.residual + size_t(at.row) * few.n + col;
            for (int row = at.row; row < at.end; ++row, from += few.n)
                copy_two(line += at.LINE * 4, from, col + 1 < few.n);
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
    }
    // One by one where rows begin at odd addresses.
    __device__ __forceinline__ void copy_two(uint32_t line, const float* from, bool second) const {
        if (few.n % 2 == 0) return copy_bytes<8>(line, from);
        copy_bytes<4>(line, from);
        if (second) copy_bytes<4>(line + 4, from + 1);
    }

    // A side's share of the squares of its row.
    __device__ __forceinline__ float finish(int row, int col, float2 y, const float* before, const float* weight) const {
        if (col >= few.n) return 0.f;
        const bool second = col + 1 < few.n;
        const size_t to_col = size_t(row) * few.n + col;
        if (few.bias) y.x += few.bias[col], y.y += second ? few.bias[col + 1] : 0.f;
        y.x += before[0], y.y += before[1];
        if (few.n % 2) {
            const float square = add_result(to, to_col, y.x, weight[0], few.out);
            return second ? square + add_result(to, to_col + 1, y.y, weight[1], few.out) : square;
        }
        *reinterpret_cast<float2*>(to.residual + to_col) = y;
        *reinterpret_cast<uint32_t*>(few.out + to_col) = pack2<T>(y.x * weight[0], y.y * weight[1]);
        return y.x * y.x + y.y * y.y;
    }

    // A warp a row.
    __device__ __forceinline__ void join(int tile) const {
        const int c = threadIdx.x % 32 * 2;
        const float* weight = at.floats(at.before) + c;
        for (int row = threadIdx.x / 32; row < at.end - at.row; row += THREADS / 32) {
            float squares = 0.f;
            if (c < plan.own) {
                const Columns y = joined(at, plan.slices, row, c);
                const float* before = weight + (1 + row) * at.LINE;
#pragma unroll
                for (int side = 0; side < 2; ++side)
                    squares += finish(at.row + row, (2 * tile + side) * plan.own + c, y.side[side], before + side * SIDE,
                                      weight + side * SIDE);
            }
            squares = warp_sum(squares);
            if (threadIdx.x % 32 == 0) to.squares[size_t(at.row + row) * plan.tiles + tile] = squares;
        }
    }
};

// A warp's part of `totals`, as a call each with a row and two columns of both sides.
template <int SIDE, typename F>
__device__ __forceinline__ void for_each_two(const Totals<SIDE>& totals, int rows, const F& f) {
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
            for (int s = 0; s < 2; ++s) two.side[s] = make_float2(totals.side[s][4 * i + 2 * r], totals.side[s][4 * i + 2 * r + 1]);
            of_row(8 * i + 2 * t, two);
        }
    }
}

// Gives sums to the block of the cluster that joins their rows.
template <int SIDE, typename L>
__device__ __forceinline__ void give_sums(const Totals<SIDE>& totals, const L& at, const Plan& plan, int rows) {
    for_each_two(totals, rows, [&](int row) {
        const int block = row / at.each;
        const uint32_t here = at.sums + (at.rank * at.each + row % at.each) * at.LINE * 4;
        const uint32_t to = plan.slices > 1 ? in_block(here, block) : here;
        return [&, to](int c, const Columns& y) {
            if (c >= plan.own) return;
#pragma unroll
            for (int side = 0; side < 2; ++side) give(to + (side * SIDE + c) * 4, y.side[side].x, y.side[side].y);
        };
    });
}

template <typename T, int SIDE, typename R, typename O>
__device__ __forceinline__ void few_body(const R& results, const Few<O>& few, const Maps& maps) {
    const auto& plan = results.plan;
    const auto& at = results.at;
    const Bringer<R::GATED, Layout<SIDE, R::ADDED>> bringer{plan, at, maps, few.n};
    const int tile = blockIdx.x / plan.slices, step = gridDim.x / plan.slices;
    if (plan.slices > 1) cluster_arrive();
    if (threadIdx.x == BRINGER) {
        for (int i = 0; i < plan.stages; ++i) barrier_init(at.full + 8 * i, 1), barrier_init(at.empty + 8 * i, 4);
        barrier_init(at.ready, 1);
        publish_barriers();
        bringer.begin(tile);
    }
    __syncthreads();
    Totals<SIDE> totals;
    if (threadIdx.x >= CLERK) {
        await_predecessor();
        results.prepare(tile);
        __syncwarp();
        if (threadIdx.x == CLERK) barrier_arrive(at.ready);
    } else if (threadIdx.x >= BRINGER) {
        if (threadIdx.x == BRINGER) bringer.go_on(tile, step);
        __syncwarp();
    } else {
        Cursor cursor;
        for (int i = tile; i < plan.tiles; i += step) {
            multiply<T, SIDE>(at, plan.stages, cursor, totals);
            if (R::ADDED || plan.joined) break;   // this was the only one
            await_predecessor();
            barrier_wait(at.ready, 0);
            if constexpr (!R::ADDED)
                for_each_two(totals, few.rows, [&](int row) {
                    const float scale = results.scale(row);
                    return [&, row, scale](int c, const Columns& y) { results.finish(i, row, c, y, scale); };
                });
        }
    }
    if (!R::ADDED && !plan.joined) return;
    if (plan.slices > 1) cluster_wait();   // all have begun
    if (threadIdx.x < BRINGER) give_sums<SIDE>(totals, at, plan, few.rows);
    if (plan.slices > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
    await_predecessor();
    results.join(tile);
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
