// Sums and gathers over the GPUs that share a model, through memory that each may write on every other.
//
#include "exchange.cuh"

// A line has eight bytes of values and, beside each four, the turn that they are of: a receiver sees from the line itself
// that it has come, without a fence (as in the LL protocol of NCCL). A line is written again two turns later, when its
// receiver has given the turn between, before which it read this one.
__device__ __forceinline__ void give(uint4* line, uint2 values, uint32_t turn) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(line), "r"(values.x), "r"(turn), "r"(values.y)
                 : "memory");
}

__device__ __forceinline__ uint2 take(const uint4* line, uint32_t turn, Patience& patience) {
    uint4 v;
    do {
        asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(line) : "memory");
    } while ((v.y != turn || v.w != turn) && patience.lasts());
    return make_uint2(v.x, v.z);
}

// Four elements as words of eight bytes.
template <typename X> struct Words {
    static constexpr int COUNT = sizeof(X) / 2;
    uint2 word[COUNT];

    __device__ float4 values() const { return load4(reinterpret_cast<const X*>(word)); }
};

template <typename X> __device__ __forceinline__ float4 rounded(float4 v) {
    return make_float4(to_float(from_float<X>(v.x)), to_float(from_float<X>(v.y)), to_float(from_float<X>(v.z)),
                       to_float(from_float<X>(v.w)));
}

__device__ __forceinline__ float4 plus(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// x (rows, width), residual (rows, width) in and out, out (rows, width); width is a multiple of four. A channel takes
// every gridDim.x-th row, one a turn.
template <typename X, typename R>
__device__ void all_reduce_add_norm_body(
    const X* x, R* residual, const float* weight, float eps, int rows, int width, X* out, const Group& group) {
    constexpr int WORDS = Words<X>::COUNT;
    __shared__ float shared[32];
    release_successor();
    const int first = threadIdx.x * 4, step = blockDim.x * 4;
    const int count = group.count, rank = group.rank;
    const float4 zero = make_float4(0.f, 0.f, 0.f, 0.f);
    const float4 first_weight = first < width ? load4(weight + first) : zero;
    await_predecessor();
    uint32_t& turns = group.header(rank).turns[blockIdx.x];
    uint32_t turn = turns;
    Patience patience(group);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        ++turn;
        const size_t start = size_t(row) * width;
        auto own = [&](int i) { return *reinterpret_cast<const Words<X>*>(x + start + i); };
        for (int i = first; i < width; i += step) {
            const Words<X> words = own(i);
            for (int r = 0; r < count; ++r) {
                if (r == rank) continue;
                uint4* to = group.lines(r, turn) + rank * MAX_LINES + i / 4 * WORDS;
                for (int w = 0; w < WORDS; ++w) give(to + w, words.word[w], turn);
            }
        }
        auto add = [&](int i) {
            float4 sum = zero;
#pragma unroll 1
            for (int r = 0; r < count; ++r) {
                Words<X> words;
                const uint4* from = group.lines(rank, turn) + r * MAX_LINES + i / 4 * WORDS;
                if (r == rank) words = own(i);
                else
                    for (int w = 0; w < WORDS; ++w) words.word[w] = take(from + w, turn, patience);
                sum = r == 0 ? words.values() : plus(sum, words.values());
            }
            // As `all_reduce` would leave it in x, and `add_rms_norm` in the residual.
            sum = rounded<R>(plus(load4(residual + start + i), rounded<X>(sum)));
            store4(residual + start + i, sum);
            return sum;
        };
        auto square = [](float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
        auto store = [&](int i, float4 v, float4 w, float scale) {
            store4(out + start + i,
                   make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w));
        };
        float squares = 0.f;
        float4 kept = zero;
        for (int i = first; i < width; i += step) {
            const float4 sum = add(i);
            squares += square(sum);
            if (i == first) kept = sum;
        }
        const float scale = rsqrtf(block_sum(squares, shared) / width + eps);
        if (first < width) store(first, kept, first_weight, scale);
        for (int i = first + step; i < width; i += step)
            store(i, load4(residual + start + i), load4(weight + i), scale);
    }
    // Every thread has read it before the sum over the block.
    if (threadIdx.x == 0) turns = turn;
}

// The first `len` indices of rank 0 on every rank. One block; all ranks give, so that lines are not written again too soon.
extern "C" __global__ void share_indices(uint32_t* indices, int len, const __grid_constant__ Group group) {
    begin();
    const int count = group.count, rank = group.rank;
    uint32_t& turns = group.header(rank).turns[0];
    uint32_t turn = turns;
    Patience patience(group);
    for (int start = 0; start < len; start += 2 * MAX_LINES) {
        ++turn;
        const int end = min(len, start + 2 * MAX_LINES);
        for (int i = start + 2 * threadIdx.x, line = threadIdx.x; i < end; i += 2 * blockDim.x, line += blockDim.x) {
            const uint2 own = make_uint2(indices[i], i + 1 < end ? indices[i + 1] : 0);
            for (int r = 0; r < count; ++r)
                if (r != rank) give(group.lines(r, turn) + rank * MAX_LINES + line, own, turn);
            uint2 first = own;
            for (int r = 0; r < count; ++r) {
                if (r == rank) continue;
                const uint2 other = take(group.lines(rank, turn) + r * MAX_LINES + line, turn, patience);
                if (r == 0) first = other;
            }
            indices[i] = first.x;
            if (i + 1 < end) indices[i + 1] = first.y;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) turns = turn;
}

// What this block has written on other ranks, and before it what it has read of its own memory, is done when they see it.
__device__ __forceinline__ void tell(uint32_t (Header::*flags)[CHANNELS][MAX_RANKS], int to, uint32_t turn, const Group& group) {
    uint32_t* flag = &(group.header(to).*flags)[blockIdx.x][group.rank];
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(turn) : "memory");
}

__device__ __forceinline__ void await(uint32_t (Header::*flags)[CHANNELS][MAX_RANKS], int from, uint32_t turn, Patience& patience) {
    const Group& group = patience.group;
    const uint32_t* flag = &(group.header(group.rank).*flags)[blockIdx.x][from];
    uint32_t seen;
    do {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    } while (seen != turn && patience.lasts());
}

// Tells every other rank, and waits until every other has told.
__device__ __forceinline__ void meet(uint32_t (Header::*flags)[CHANNELS][MAX_RANKS], uint32_t turn, Patience& patience) {
    const Group& group = patience.group;
    __syncthreads();
    if (threadIdx.x < group.count && threadIdx.x != group.rank) {
        tell(flags, threadIdx.x, turn, group);
        await(flags, threadIdx.x, turn, patience);
    }
    __syncthreads();
}

// x (len) in place, in vectors of 16 bytes (the last may reach past the end, where a buffer has room). Of each chunk every
// rank sums one part, which the others have given it, and gives them the sum.
template <typename X>
__device__ void all_reduce_body(X* x, size_t len, const Group& group) {
    constexpr int PER_VECTOR = 16 / sizeof(X), FOURS = PER_VECTOR / 4;
    begin();
    const int count = group.count, rank = group.rank;
    uint4* vectors = reinterpret_cast<uint4*>(x);
    const size_t total = (len + PER_VECTOR - 1) / PER_VECTOR, chunk = size_t(count) * (PART_BYTES / 16);
    uint32_t& turns = group.header(rank).bulk_turns[blockIdx.x];
    uint32_t turn = turns;
    Patience patience(group);
    for (size_t start = blockIdx.x * chunk; start < total; start += gridDim.x * chunk) {
        ++turn;
        const size_t end = min(start + chunk, total), share = (end - start + count - 1) / count;
        auto first = [&](int r) { return min(start + r * share, end); };
        auto size = [&](int r) { return int(first(r + 1) - first(r)); };
        for (int r = 0; r < count; ++r) {
            if (r == rank) continue;
            uint4* to = group.parts(r, 0) + rank * (PART_BYTES / 16);
            for (int v = threadIdx.x; v < size(r); v += blockDim.x) to[v] = vectors[first(r) + v];
        }
        meet(&Header::given, turn, patience);
        for (int v = threadIdx.x; v < size(rank); v += blockDim.x) {
            float4 sums[FOURS];
            for (int r = 0; r < count; ++r) {
                const uint4* from = group.parts(rank, 0) + r * (PART_BYTES / 16) + v;
                const uint4 part = r == rank ? vectors[first(rank) + v] : __ldcg(from);
#pragma unroll
                for (int f = 0; f < FOURS; ++f) {
                    const float4 values = load4(reinterpret_cast<const X*>(&part) + 4 * f);
                    sums[f] = r == 0 ? values : plus(sums[f], values);
                }
            }
            uint4 sum;
#pragma unroll
            for (int f = 0; f < FOURS; ++f) store4(reinterpret_cast<X*>(&sum) + 4 * f, sums[f]);
            vectors[first(rank) + v] = sum;
            for (int r = 0; r < count; ++r)
                if (r != rank) group.parts(r, 1)[rank * (PART_BYTES / 16) + v] = sum;
        }
        meet(&Header::summed, turn, patience);
        for (int r = 0; r < count; ++r) {
            if (r == rank) continue;
            const uint4* from = group.parts(rank, 1) + r * (PART_BYTES / 16);
            for (int v = threadIdx.x; v < size(r); v += blockDim.x) vectors[first(r) + v] = __ldcg(from + v);
        }
    }
    if (threadIdx.x == 0) turns = turn;
}

// x (rows, width) of every rank beside one another into out (rows, total), which is rank 0's; the rank's columns begin at
// `first`. The next sum over ranks keeps a rank from writing there again before rank 0 has read.
extern "C" __global__ void gather_columns(
    const float* x, int rows, int width, float* out, int total, int first, const __grid_constant__ Group group) {
    begin();
    uint32_t& turns = group.header(group.rank).gather_turns[blockIdx.x];
    const uint32_t turn = turns + 1;
    const size_t at = blockIdx.x * size_t(blockDim.x) + threadIdx.x, step = size_t(gridDim.x) * blockDim.x;
    if (width % 4 == 0 && total % 4 == 0 && first % 4 == 0) {
        const int fours = width / 4;
        for (size_t i = at; i < size_t(rows) * fours; i += step) {
            const size_t row = i / fours, column = i % fours * 4;
            store4(out + row * total + first + column, load4(x + row * width + column));
        }
    } else {
        for (size_t i = at; i < size_t(rows) * width; i += step)
            out[i / width * total + first + i % width] = x[i];
    }
    __syncthreads();
    if (group.rank > 0) {
        if (threadIdx.x == 0) tell(&Header::gathered, 0, turn, group);
    } else if (threadIdx.x > 0 && threadIdx.x < group.count) {
        Patience patience(group);
        await(&Header::gathered, threadIdx.x, turn, patience);
    }
    if (threadIdx.x == 0) turns = turn;
}

#define DEFINE(X, R)                                                                                               \
    extern "C" __global__ void __launch_bounds__(1024, 1) all_reduce_add_norm_##X##_##R(                              \
        const X* x, R* residual, const float* weight, float eps, int rows, int width, X* out,                            \
        const __grid_constant__ Group group) {       \
        all_reduce_add_norm_body(x, residual, weight, eps, rows, width, out, group);                               \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void __launch_bounds__(512) all_reduce_##name(                         \
        X* x, size_t len, const __grid_constant__ Group group) {           \
        all_reduce_body(x, len, group);                                                                            \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
