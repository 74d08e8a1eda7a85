// out (rows, n) = x (rows, k) . weight (n, k)^T + bias (n) for up to 64 rows, the weight as in int4.cuh, where reading it takes
// long. Gated: out = silu(x . the first half of weight (2 n, k)^T + bias) * (x . the second half + bias), n even. Added: results go
// to a residual, and what its norm multiplies rows by is left to the next product (deferred_norm.cuh), as the former two take it
// over; n even.
//
// A cluster of blocks has a share of the weight's rows and shares out k; a block has its part of x in shared memory, all of it.
// Its warps share out groups of 16 weight rows, and chunks of k if there are warps enough, each with a ring of levels and
// scales that asynchronous copies fill, for the first time before the predecessor has ended.
#include "deferred_norm.cuh"
#include "int4_ring.cuh"

constexpr int COUNTED = 128;   // bytes of what counts bytes

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// Where results go, and which.
template <typename X> struct Results {
    const float* bias;
    int rows, stride;
    bool exact;
    void* out;
};

// Where sums of groups that are joined at once come together, in lines of WIDTH. Block i % slices of a cluster finishes row i, and is
// given it by all warps that have a share of k: (sender, i / slices, group).
struct Joint {
    const Plan& plan;
    const Arrivals arrivals;
    const int rank, all, kept;   // rows; groups
    int shift, most, count;      // rows that a block finishes at most, and this one
    float* sums = nullptr;

    __device__ __forceinline__ Joint(const Plan& plan, unsigned char* memory, int rank, int rows)
        : plan(plan), arrivals{reinterpret_cast<uint64_t*>(memory)}, rank(rank), all(rows),
          kept(plan.across * (plan.often ? 1 : plan.rounds)) {
        shift = __ffs(plan.slices) - 1;
        most = (rows + plan.slices - 1) >> shift;
        count = (rows - rank + plan.slices - 1) >> shift;
    }
    // Bytes that this block is given.
    __device__ __forceinline__ unsigned bytes() const { return plan.slices * plan.along * count * kept * WIDTH * 4; }
    __device__ __forceinline__ int row(int i) const { return rank + (i << shift); }

    // Gives away a warp's sums of a group: its `place` among those joined at once, of the warp's `part` of k in the block.
    template <int NT> __device__ __forceinline__ void give(const float (&sum)[NT][4], int place, int part) const {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, sender = rank * plan.along + part;
        const bool odd = g % 2 != 0;
#pragma unroll
        for (int i = 0; i < NT; ++i) {
            // Lanes of neighbouring columns have two rows each: then one has both columns of one row.
            const float low = __shfl_xor_sync(FULL_WARP, odd ? sum[i][0] : sum[i][1], 4);
            const float high = __shfl_xor_sync(FULL_WARP, odd ? sum[i][2] : sum[i][3], 4);
            const int row = 8 * i + 2 * t + odd;
            if (row >= all) continue;
            float* const to = sums + ((sender * most + (row >> shift)) * kept + place) * WIDTH + g - odd;
            const float2 one = odd ? make_float2(low, sum[i][1]) : make_float2(sum[i][0], low);
            const float2 other = odd ? make_float2(high, sum[i][3]) : make_float2(sum[i][2], high);
            if (plan.slices > 1) {
                const Neighbour neighbour(row & (plan.slices - 1), arrivals);
                neighbour.send(to, one);
                neighbour.send(to + 8, other);
            } else {
                *reinterpret_cast<float2*>(to) = one;
                *reinterpret_cast<float2*>(to + 8) = other;
            }
        }
    }
    // Four sums of a line of this block, those of a block's warps first, then of the blocks, in their order.
    __device__ __forceinline__ float4 total(int line, int column) const {
        const float* at = sums + line * WIDTH + column;
        float4 y = make_float4(0.f, 0.f, 0.f, 0.f), block = y;
        int left = plan.along;
#pragma unroll 2
        for (int v = plan.slices * plan.along; v > 0; --v, at += most * kept * WIDTH) {
            block = block + *reinterpret_cast<const float4*>(at);
            if (--left > 0) continue;
            y = y + block;
            block = make_float4(0.f, 0.f, 0.f, 0.f);
            left = plan.along;
        }
        return y;
    }
};

// Results times what their row is owed, plus bias; gated, both halves make one.
template <typename X> struct Scaled {
    static constexpr bool ADDED = false;
    const Results<X>& to;
    const Joint& joint;
    float* const scales;   // of this block's rows
    const int k;
    Owed owed;

    static __device__ __forceinline__ int bytes(const Joint& joint) { return joint.most * 4; }

    // The scales; all warps, while x is on its way.
    template <int NT> __device__ __forceinline__ void prepare(const Share&) const {
        if (!owed.squares) return;
        const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (NT == 1) {
#pragma unroll 1
            for (int i = warp; i < joint.count; i += warps) {
                const float scale = owed_scale(owed_part(owed, joint.row(i), true), k, owed.eps);
                if (lane == 0) scales[i] = scale;
            }
        } else {
#pragma unroll 1
            for (int i = 16 * warp; i < joint.count; i += 16 * warps) {
                const float scale = owed_scales(owed, joint.row(i), joint.plan.slices, joint.count - i, k);
                if (lane % 2 == 0 && i + lane / 2 < joint.count) scales[i + lane / 2] = scale;
            }
        }
    }

    // Makes results of the joined groups from `first` on: of this block's rows.
    template <int NT> __device__ __forceinline__ void finish(const Share& share, int, int first) const {
        constexpr int AT_ONCE = NT < 4 ? 1 : 4;   // code that runs once is short
        const bool gated = joint.plan.gated;
        const int quads = gated ? 2 : 4;
        const float inverse = 1.f / joint.kept;
#pragma unroll AT_ONCE
        for (int i = threadIdx.x; i < joint.count * joint.kept * quads; i += blockDim.x) {
            const int line = gated ? i / 2 : i / 4, quad = i % quads;
            const int own = int((line + 0.5f) * inverse), group = first + line - own * joint.kept;
            const int col = share.row(group) + 4 * quad, end = share.end(group);
            if (col >= end) continue;
            const float4 y = joint.total(line, 4 * quad);
            const float scale = owed.squares ? scales[own] : 1.f;
            float values[4] = {y.x, y.y, y.z, y.w}, ups[4] = {};
            if (gated) {
                const float4 up = joint.total(line, 8 + 4 * quad);
                ups[0] = up.x, ups[1] = up.y, ups[2] = up.z, ups[3] = up.w;
            }
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                if (col + v >= end) continue;
                float value = values[v] * scale + (to.bias ? to.bias[col + v] : 0.f);
                if (gated) {   // as from memory
                    const float up = ups[v] * scale + (to.bias ? to.bias[share.n + col + v] : 0.f);
                    value = silu(to_float(from_float<X>(value))) * to_float(from_float<X>(up));
                }
                store_result(to.out, to.exact, size_t(joint.row(own)) * to.stride + col + v, value, X());
            }
        }
    }
};

// Results plus bias are added to the residual; out is the sum times the norm's weight, its scale owed. Groups are joined once.
template <typename X> struct Added {
    static constexpr bool ADDED = true;
    const Results<X>& to;
    const Joint& joint;
    float* const before;   // lines of the norm's weight, then of the residual of this block's rows
    Sums sums;

    static __device__ __forceinline__ int bytes(const Joint& joint) { return (joint.most + 1) * joint.kept * WIDTH * 4; }

    // Begins to bring what was there before.
    template <int NT> __device__ __forceinline__ void prepare(const Share& share) const {
        const unsigned at = shared_address(before);
        const float inverse = 1.f / joint.kept;
#pragma unroll 1
        for (int i = threadIdx.x; i < (joint.count + 1) * joint.kept * (WIDTH / 2); i += blockDim.x) {
            const int line = i / (WIDTH / 2), own = int((line + 0.5f) * inverse), group = line - own * joint.kept;
            const int col = share.row(group) + 2 * (i % (WIDTH / 2));
            const float* from = own == 0 ? sums.weight : sums.residual + size_t(joint.row(own - 1)) * share.n;
            if (col < share.end(group)) copy8(at + 8 * i, from + col);
        }
    }

    // A warp has a row.
    template <int NT> __device__ __forceinline__ void finish(const Share& share, int cluster, int) const {
        const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
        for (int own = threadIdx.x / 32; own < joint.count; own += warps) {
            const size_t row = size_t(joint.row(own));
            float squares = 0.f;
#pragma unroll 1
            for (int i = lane; i < 4 * joint.kept; i += 32) {
                const int group = i / 4, col = share.row(group) + i % 4 * 4, end = share.end(group);
                if (col >= end) continue;
                const float4 total = joint.total(own * joint.kept + group, i % 4 * 4);
                const float values[4] = {total.x, total.y, total.z, total.w};
                const float* weight = before + 4 * i;
                const float* old = weight + (own + 1) * joint.kept * WIDTH;
#pragma unroll
                for (int v = 0; v < 4; v += 2) {
                    if (col + v >= end) continue;
                    const float2 y = make_float2(old[v] + values[v] + (to.bias ? to.bias[col + v] : 0.f),
                        old[v + 1] + values[v + 1] + (to.bias ? to.bias[col + v + 1] : 0.f));
                    const size_t place = row * share.n + col + v;
                    *reinterpret_cast<float2*>(sums.residual + place) = y;
                    *reinterpret_cast<uint32_t*>(static_cast<X*>(to.out) + place) = pack2<X>(y.x * weight[v], y.y * weight[v + 1]);
                    squares += y.x * y.x + y.y * y.y;
                }
            }
            squares = warp_sum(squares);
            if (lane == 0) sums.squares[row * (gridDim.x / joint.plan.slices) + cluster] = squares;
        }
    }
};

// Up to 8 * NT rows. Dynamic shared memory: what counts bytes that are given, what F needs, the block's part of x in rows of
// `pitch` bytes, a ring a warp, then sums, or these over the former two. A result depends on its row and the plan alone.
template <template <typename> typename F, typename X, int NT, int G, int DEPTH, typename... More>
__device__ __forceinline__ void stream(const X* x, const Weight& w, int n, int k, const Plan& plan, const Results<X>& to, const More&... more) {
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
    const bool alone = plan.slices == 1;
    Joint joint(plan, memory, rank, rows);
    unsigned char* const free = memory + COUNTED + (F<X>::bytes(joint) + 127) / 128 * 128;
    const unsigned here = shared_address(free), ring = here + x_bytes + warp * DEPTH * S::SIZE + 16 * lane;
    joint.sums = reinterpret_cast<float*>(free + (plan.over ? 0 : x_bytes + warps * DEPTH * S::SIZE));
    const F<X> results{to, joint, reinterpret_cast<float*>(memory + COUNTED), more...};
    if (!alone && threadIdx.x == 0) joint.arrivals.begin(joint.bytes());
    if (!alone && !plan.over) cluster_arrive();
    const unsigned cluster = unsigned(blockIdx.x - rank) / unsigned(plan.slices);
    const Share share(Parts((n + 1) / 2, unsigned(gridDim.x) / unsigned(plan.slices)), cluster, n, plan);
    // Where no zero levels are brought there are eights.
#pragma unroll 1
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
    if (F<X>::ADDED) results.template prepare<NT>(share);
    begin_x(x, here, rows, k, begin, end, pitch);
    if (!F<X>::ADDED) results.template prepare<NT>(share);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    unsigned from_x[NT], stage = ring;
#pragma unroll
    for (int i = 0; i < NT; ++i)   // rows that are not there are as the last
        from_x[i] = here + min(8 * i + g, rows - 1) * pitch + (c0 - begin) * CHUNK * 2 + 16 * t;
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
        const bool joins = plan.often || round + 1 == plan.rounds;
        if (plan.over && alone) __syncthreads();
        if (plan.over && !alone) cluster_arrive();
        // All have begun, and have done with what is written over.
        if (!alone && (plan.often || round == 0)) cluster_wait();
        joint.give(sum, place + (plan.often ? 0 : round * plan.across), q);
        if (!joins) continue;
        if (alone) __syncthreads();
        else if (joint.count > 0) joint.arrivals.wait(plan.often ? round : 0);
        results.template finish<NT>(share, cluster, plan.often ? round * plan.across : 0);
        if (round + 1 == plan.rounds) break;
        // Nobody gives other sums while these are read. (What is given nothing waits for nothing: its phases end at once.)
        if (!alone && joint.count > 0 && threadIdx.x == 0) joint.arrivals.expect(joint.bytes());
        if (alone) __syncthreads();
        else cluster_arrive();
    }
}

#define SCALED(NAME, GATED, X_, NT, G, DEPTH, THREADS)                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) int4_##NAME##_##NT##_g##G##_##X_(const X_* x,         \
        const uint4* levels, const f16* scales, const uint16_t* zeros, const float* bias, int rows, int n, int k,   \
        void* out, int slices, int across, int along, int rounds, int often, int over, int stride, int exact,       \
        Owed owed) {                                                                                               \
        const Weight weight(levels, scales, zeros, GATED ? 2 * n : n, k);                                          \
        const Plan plan = {slices, across, along, rounds, often != 0, GATED, over != 0};                           \
        stream<Scaled, X_, NT, G, DEPTH>(x, weight, n, k, plan, Results<X_>{bias, rows, stride, !(GATED) && exact != 0, out}, k, owed); \
    }
#define LINEAR(...) SCALED(linear, false, __VA_ARGS__)
#define GATED(...) SCALED(gated, true, __VA_ARGS__)
#define ADDED(X_, NT, G, DEPTH, THREADS)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) int4_added_##NT##_g##G##_##X_(const X_* x,            \
        const uint4* levels, const f16* scales, const uint16_t* zeros, const float* bias, int rows, int n, int k,   \
        void* out, int slices, int across, int along, int rounds, int, int over, Sums sums) {                      \
        const Weight weight(levels, scales, zeros, n, k);                                                          \
        const Plan plan = {slices, across, along, rounds, false, false, over != 0};                                \
        stream<Added, X_, NT, G, DEPTH>(x, weight, n, k, plan, Results<X_>{bias, rows, n, false, out}, sums);        \
    }
#define DEFINE(KIND, X, G) KIND(X, 1, G, 4, 512) KIND(X, 2, G, 4, 512) KIND(X, 4, G, 4, 384) KIND(X, 8, G, 4, 384)
#define DEFINE_FOR(KIND, X) DEFINE(KIND, X, 32) DEFINE(KIND, X, 64) DEFINE(KIND, X, 128)
DEFINE_FOR(LINEAR, bf16) DEFINE_FOR(LINEAR, f16) DEFINE_FOR(GATED, bf16) DEFINE_FOR(GATED, f16) DEFINE_FOR(ADDED, bf16)
#undef DEFINE_FOR
#undef DEFINE
