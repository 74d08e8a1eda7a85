// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n), for up to 16 rows: the time that it takes to read the weights.
#include "deferred_norm.cuh"
#include "exchange.cuh"
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

// A block's share of the rows of a weight, in groups that differ by one row at most. With GATED a row is one of the upper
// half of the weight and the one beside it in the lower half; a group has both halves' rows, one half after the other.
template <bool GATED> struct Share {
    static constexpr int OWN = GATED ? GROUP / 2 : GROUP;
    int first, groups, each, more;

    __device__ __forceinline__ Share(int n) {
        first = unsigned(n) * blockIdx.x / gridDim.x;
        const int count = unsigned(n) * (blockIdx.x + 1) / gridDim.x - first;
        groups = max(1, (count + OWN - 1) / OWN);
        each = count / groups;
        more = count - each * groups;
    }
    __device__ __forceinline__ int row(int group) const { return first + each * group + min(group, more); }
    __device__ __forceinline__ int count(int group) const { return each + (group < more); }
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
        rows = group < share.groups ? share.count(group) - line : 0;
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

// A product of up to 16 rows; k a multiple of 8.
template <typename X, typename O> struct Product {
    const X* x;
    const X* weight;
    const float* bias;
    int rows, n, k;
    O* out;
};

// A block has a share of the weight rows, its warps share out k, and each has a ring of its own that copies fill, for the
// first time before the predecessor has ended. A result depends on its row alone. `results` says what becomes of results;
// what it needs for that it asks for at the same time as x. Dynamic shared memory: the rings, then (WARPS, rows, GROUP)
// partial sums.
template <typename X, typename O, bool HIGH, typename Results>
__device__ __forceinline__ void stream_body(const Product<X, O>& p, Results results) {
    extern __shared__ __align__(128) uint4 rings[];
    release_successor();
    const X* __restrict__ x = p.x;
    const int rows = p.rows, n = p.n, k = p.k;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Share<Results::GATED> share(n);
    uint4* ring = rings + warp * DEPTH * STAGE;
    float* partial = reinterpret_cast<float*>(rings + WARPS * DEPTH * STAGE);
    Bringer<X, Results::GATED> bringer(p.weight, ring, share, k);
#pragma unroll 1
    for (int i = 0; i < DEPTH - 1; ++i) bringer.next(p.weight, share, n, k);
    int stage = 0;
    results.prepare(share.first, share.count(0));
    await_predecessor();
    Slice<X, HIGH> next;
    next.load(x, rows, k, warp * SLICE);
    results.begin(p);
    for (int group = 0; group < share.groups; ++group) {
        float sum[TILES][4] = {};
#pragma unroll 1
        for (int chunk = 0; chunk < k; chunk += CHUNK) {
            const Slice<X, HIGH> now = next;
            const bool last = chunk + CHUNK >= k;
            if (!last || group + 1 < share.groups) next.load(x, rows, k, (last ? 0 : chunk + CHUNK) + warp * SLICE);
            asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
            __syncwarp();   // a stage is there, and every lane has done with the one before
            bringer.next(p.weight, share, n, k);
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
        if (group == 0) results.share_scales(p);
        __syncthreads();
        results.store(p, partial, share.row(group), share.count(group));
        if (group + 1 == share.groups) break;
        results.ask(p, share.row(group + 1), share.count(group + 1));
        __syncthreads();
    }
    results.end(p);
}

// Results times what their row is owed, plus bias. With GATED the weight is (2 n, k), and out silu(the first half's product) *
// the second half's.
template <typename X, typename O, bool HIGH, bool GATED_> struct Scaled {
    static constexpr bool GATED = GATED_, EARLY = HIGH;   // scales from their parts before the products or after them
    static constexpr int OWN = Share<GATED>::OWN, EACH = HIGH ? 2 : 1;   // rows a warp
    Owed owed;
    float* scales;   // shared, of 16 rows
    float part[EACH];

    __device__ __forceinline__ void prepare(int, int) {}
    __device__ __forceinline__ void begin(const Product<X, O>& p) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = threadIdx.x / 32 + i * WARPS;
            part[i] = owed_part(owed, row, row < p.rows);
            if (EARLY) share_scale(p, row, part[i]);
        }
    }
    __device__ __forceinline__ void share_scale(const Product<X, O>& p, int row, float part) {
        if (row >= p.rows || !owed.squares) return;
        const float scale = owed_scale(part, p.k, owed.eps);
        if (threadIdx.x % 32 == 0) scales[row] = scale;
    }
    __device__ __forceinline__ void share_scales(const Product<X, O>& p) {
#pragma unroll
        for (int i = 0; i < EACH && !EARLY; ++i) share_scale(p, threadIdx.x / 32 + i * WARPS, part[i]);
    }
    __device__ __forceinline__ void ask(const Product<X, O>&, int, int) {}
    __device__ __forceinline__ void store(const Product<X, O>& p, const float* partial, int col0, int here) {
        for (int i = threadIdx.x; i < p.rows * OWN; i += WARPS * 32) {
            const int row = i / OWN, column = i % OWN, col = col0 + column;
            if (column >= here) continue;
            const float scale = owed.squares ? scales[row] : 1.f;
            float y = total(partial, p.rows, row, column) * scale + (p.bias ? p.bias[col] : 0.f);
            if (GATED) {
                const float up = total(partial, p.rows, row, OWN + column) * scale + (p.bias ? p.bias[p.n + col] : 0.f);
                y = silu(to_float(from_float<O>(y))) * to_float(from_float<O>(up));   // as from memory
            }
            p.out[size_t(row) * p.n + col] = from_float<O>(y);
        }
    }
    __device__ __forceinline__ void end(const Product<X, O>&) {}
};

// Results plus bias are added to the residual, a warp a row; out is the sum times the norm's weight, its scale owed.
template <typename X, bool HIGH> struct Added {
    static constexpr bool GATED = false;
    static constexpr int EACH = HIGH ? 2 : 1;   // rows a warp
    Sums to;
    int first, count;   // of the group to come
    float before[EACH], weight, squares[EACH];

    __device__ __forceinline__ void prepare(int col0, int here) {
        const int lane = threadIdx.x % 32;
        asm volatile("" : "+r"(col0), "+r"(here));   // divided before the predecessor has ended
        first = col0, count = here;
        weight = lane < here ? to.weight[col0 + lane] : 0.f;
#pragma unroll
        for (int i = 0; i < EACH; ++i) squares[i] = 0.f;
    }
    __device__ __forceinline__ void begin(const Product<X, X>& p) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = threadIdx.x / 32 + i * WARPS;
            before[i] = row < p.rows && lane < count ? to.residual[size_t(row) * p.n + first + lane] : 0.f;
        }
    }
    __device__ __forceinline__ void share_scales(const Product<X, X>&) {}
    __device__ __forceinline__ void ask(const Product<X, X>& p, int col0, int here) {
        first = col0, count = here;
        weight = threadIdx.x % 32 < here ? to.weight[col0 + threadIdx.x % 32] : 0.f;
        begin(p);
    }
    __device__ __forceinline__ void store(const Product<X, X>& p, const float* partial, int col0, int here) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = threadIdx.x / 32 + i * WARPS;
            if (row >= p.rows || lane >= here) continue;
            const float y = total(partial, p.rows, row, lane) + (p.bias ? p.bias[col0 + lane] : 0.f);
            squares[i] += add_result(to, size_t(row) * p.n + col0 + lane, before[i] + y, weight, p.out);
        }
    }
    __device__ __forceinline__ void end(const Product<X, X>& p) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = threadIdx.x / 32 + i * WARPS;
            if (row >= p.rows) continue;
            const float sum = warp_sum(squares[i]);
            if (threadIdx.x % 32 == 0) to.squares[size_t(row) * gridDim.x + blockIdx.x] = sum;
        }
    }
};

// As `Added`, of the results of all ranks, each of which has a part of k: a rank gives its own to every rank, itself too, and then
// takes all, in their order.
template <typename X, bool HIGH> struct Exchanged {
    static constexpr bool GATED = false;
    Sums to;
    const Group& group;
    uint32_t turn;

    __device__ __forceinline__ void prepare(int, int) {}
    __device__ __forceinline__ void begin(const Product<X, X>&) {
        turn = group.header(group.rank).result_turns[blockIdx.x] + 1;
    }
    __device__ __forceinline__ void share_scales(const Product<X, X>&) {}
    __device__ __forceinline__ void ask(const Product<X, X>&, int, int) {}
    __device__ __forceinline__ void store(const Product<X, X>& p, const float* partial, int col0, int here) {
        const int lane = threadIdx.x % 32;
        for (int row = threadIdx.x / 32; row < p.rows; row += WARPS) {
            if (lane >= here) continue;
            const float y = total(partial, p.rows, row, lane) + (p.bias ? p.bias[col0 + lane] : 0.f);
            const size_t at = size_t(row) * p.n + col0 + lane;
            for (int r = 0; r < group.count; ++r) give_result(group.results(r, turn, group.rank) + at, y, turn);
        }
    }
    __device__ __forceinline__ void end(const Product<X, X>& p) {
        const Share<false> share(p.n);
        const int lane = threadIdx.x % 32, last = share.row(share.groups);
        Patience patience(group);
        for (int row = threadIdx.x / 32; row < p.rows; row += WARPS) {
            float squares = 0.f;
            for (int col = share.first + lane; col < last; col += 32) {
                const size_t at = size_t(row) * p.n + col;
                const float before = to.residual[at], weight = to.weight[col];
                float sum = 0.f;
                for (int r = 0; r < group.count; ++r)
                    sum += take_result(group.results(group.rank, turn, r) + at, turn, patience);
                squares += add_result(to, at, before + sum, weight, p.out);
            }
            squares = warp_sum(squares);
            if (lane == 0) to.squares[size_t(row) * gridDim.x + blockIdx.x] = squares;
        }
        // Every thread has read it before the products were joined.
        if (threadIdx.x == 0) group.header(group.rank).result_turns[blockIdx.x] = turn;
    }
};

#define DEFINE_FOR(name, X, O, HIGH, GATED)                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) name##_##X##_##O(                                  \
        const X* x, const X* weight, const float* bias, int rows, int n, int k, O* out, const float* squares,      \
        int parts, float eps) {                                                                                    \
        __shared__ float scales[16];                                                                               \
        stream_body<X, O, HIGH>(                                                                                   \
            Product<X, O>{x, weight, bias, rows, n, k, out}, Scaled<X, O, HIGH, GATED>{{squares, parts, eps}, scales, {}}); \
    }
#define DEFINE(X, O) DEFINE_FOR(linear_stream_8, X, O, false, false) DEFINE_FOR(linear_stream_16, X, O, true, false)
DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#undef DEFINE
#define DEFINE(X) DEFINE_FOR(gated_stream_8, X, X, false, true) DEFINE_FOR(gated_stream_16, X, X, true, true)
DEFINE(f16) DEFINE(bf16)
#undef DEFINE
#define DEFINE_ADDED(name, X, HIGH)                                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) name##_##X(                                        \
        const X* x, const X* weight, const float* bias, int rows, int n, int k, X* out, float* residual,           \
        const float* norm, float* squares) {                                                                       \
        stream_body<X, X, HIGH>(                                                                                   \
            Product<X, X>{x, weight, bias, rows, n, k, out}, Added<X, HIGH>{{residual, norm, squares}, 0, 0, {}, 0.f, {}});        \
    }
DEFINE_ADDED(added_stream_8, bf16, false) DEFINE_ADDED(added_stream_16, bf16, true)
#undef DEFINE_ADDED
#define DEFINE_EXCHANGED(name, X, HIGH)                                                                            \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) name##_##X(                                        \
        const X* x, const X* weight, const float* bias, int rows, int n, int k, X* out, float* residual,           \
        const float* norm, float* squares, const __grid_constant__ Group group) {                                  \
        stream_body<X, X, HIGH>(                                                                                   \
            Product<X, X>{x, weight, bias, rows, n, k, out}, Exchanged<X, HIGH>{{residual, norm, squares}, group, 0});      \
    }
DEFINE_EXCHANGED(exchanged_stream_8, bf16, false) DEFINE_EXCHANGED(exchanged_stream_16, bf16, true)
#undef DEFINE_EXCHANGED
