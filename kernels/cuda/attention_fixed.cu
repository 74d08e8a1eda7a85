// Attention over the paged cache in one order of sums whatever else is in the call: a sequence's tokens are cut into parts
// at fixed positions, each is attended to by one warp in order, and parts are joined in order. A row has the same bits
// from both kernels, in any company, and however its prompt was cut.
#include "attention_cached.cuh"

constexpr int WARPS = 4;
constexpr int PART = 8;   // blocks of the cache

// The joined (value, sum) of what was `before` and of a `part`, each of which counts with its weight.
__device__ __forceinline__ float joined(float before, float keep, float part, float weight) {
    return __fmaf_rn(part, weight, __fmul_rn(before, keep));
}

// Joins a part's maximum to `largest`, and says what both count.
__device__ __forceinline__ void join_largest(float& largest, float part, float& keep, float& weight) {
    const float all = fmaxf(largest, part), base = all == -INFINITY ? 0.f : all;
    keep = exp2f(largest - base);
    weight = exp2f(part - base);
    largest = all;
}

// 16 query rows of a sequence and key head; rows g and g + 8 of a lane have these positions.
template <typename T, int D> struct Rows {
    uint32_t query[D / 16][4];
    int position[2];
    int top;   // the last position of the warp's rows

    // Part `part` of the sequence, from its block `first` on.
    __device__ __forceinline__ State<D> attend(
        const T* keys, const T* values, const uint32_t* table, const Shape& shape, int head, int part, int first) const {
        State<D> state;
        const int end = min((part + 1) * PART, top / BLOCK + 1);
        for (int b = max(part * PART, first); b < end; ++b) {
            const size_t at = (size_t(table[b]) * shape.kv_heads + head) * BLOCK * D;
            const Seen seen = seen_of(position, top, shape.window, b);
            attend_cached<T, D>(query, keys + at, values + at, seen, shape.scale, state);
        }
        finish_sums(state);
        return state;
    }
};

// Sequences with several query rows (all of them with `singles`): grid (tiles, kv heads), laid out as in
// attention_prefill.cu. What is joined so far lies in shared memory, each lane's own.
template <typename T, int D>
__device__ void many_body(
    const T* qkv, const T* keys, const T* values, Batch batch, Shape shape, int singles, T* out) {
    __shared__ float joint[WARPS][D / 2][32];
    begin();
    const int group = shape.heads / shape.kv_heads, head = blockIdx.y;
    int seq, tile, rows;
    if (!find_tile(batch, group, singles, seq, tile, rows)) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first_line = tile * 64 + warp * 16, lines = rows * group;
    if (first_line >= lines) return;
    const int start = int(batch.context_lens[seq]) - rows, width = (shape.heads + 2 * shape.kv_heads) * D;
    const size_t row0 = batch.cu_seqlens[seq];
    Rows<T, D> own;
    const T* q[2];
    T* to[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int line = first_line + g + 8 * r, row = min(line, lines - 1) / group, of = head * group + line % group;
        own.position[r] = start + row;
        q[r] = line < lines ? qkv + (row0 + row) * width + of * D : nullptr;
        to[r] = line < lines ? out + ((row0 + row) * shape.heads + of) * D : nullptr;
    }
    load_query<T, D>(q[0], q[1], own.query);
    own.top = start + min(first_line + 15, lines - 1) / group;
    const int bottom = start + first_line / group;
    const int first = shape.window > 0 ? max(0, bottom + 1 - shape.window) / BLOCK : 0;
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
#pragma unroll
    for (int i = 0; i < D / 2; ++i) joint[warp][i][lane] = 0.f;
    for (int part = first / PART; part <= own.top / BLOCK / PART; ++part) {
        const State<D> state =
            own.attend(keys, values, batch.tables + size_t(seq) * batch.max_blocks, shape, head, part, first);
        float keep[2], weight[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            join_largest(largest[r], state.largest[r], keep[r], weight[r]);
            sum[r] = joined(sum[r], keep[r], state.sum[r], weight[r]);
        }
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& value = joint[warp][4 * d + i][lane];
                value = joined(value, keep[i / 2], state.mixed[d][i], weight[i / 2]);
            }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
        if (to[r])
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<uint32_t*>(to[r] + 8 * d + 2 * t) =
                    pack2<T>(joint[warp][4 * d + 2 * r][lane] / sum[r], joint[warp][4 * d + 2 * r + 1][lane] / sum[r]);
}

// Sequences with one query row: grid (parts over 4, kv heads, sequences), a part a warp, up to 16 query heads a key head.
// `partial` holds for each sequence, key head and part (heads, D) mixed values, then (heads) maxima, then (heads) sums; the
// last block of a sequence and key head to arrive joins them. `arrived` zeros.
template <typename T, int D>
__device__ void single_body(
    const T* qkv, const T* keys, const T* values, Batch batch, Shape shape, float* partial, uint32_t* arrived, T* out) {
    __shared__ bool last;
    begin();
    const int seq = blockIdx.z, head = blockIdx.y, group = shape.heads / shape.kv_heads;
    const size_t row = batch.cu_seqlens[seq];
    if (batch.cu_seqlens[seq + 1] - row != 1) return;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int context = batch.context_lens[seq];
    const int first = shape.window > 0 ? max(0, context - shape.window) / BLOCK : 0, first_part = first / PART;
    const int parts = (context - 1) / BLOCK / PART + 1 - first_part, split = blockIdx.x * WARPS + threadIdx.x / 32;
    const int stride = group * (D + 2);
    const size_t place = size_t(seq) * shape.kv_heads + head;
    float* all = partial + place * gridDim.x * WARPS * stride;
    if (split < parts) {
        Rows<T, D> own;
        own.position[0] = own.position[1] = own.top = context - 1;
        const T* q = qkv + (row * (shape.heads + 2 * shape.kv_heads) + head * group) * D;
        load_query<T, D>(g < group ? q + g * D : nullptr, g + 8 < group ? q + (g + 8) * D : nullptr, own.query);
        const State<D> state = own.attend(
            keys, values, batch.tables + size_t(seq) * batch.max_blocks, shape, head, first_part + split, first);
        float* mine = all + split * stride;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int line = g + 8 * r;
            if (line >= group) continue;
            if (t == 0) mine[group * D + line] = state.largest[r], mine[group * (D + 1) + line] = state.sum[r];
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<float2*>(mine + line * D + 8 * d + 2 * t) =
                    make_float2(state.mixed[d][2 * r], state.mixed[d][2 * r + 1]);
        }
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(arrived + place, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    T* to = out + (row * shape.heads + head * group) * D;
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int line = i / D;
        float largest = -INFINITY, sum = 0.f, value = 0.f;
#pragma unroll 4
        for (int part = 0; part < parts; ++part) {
            const float* of = all + part * stride;
            float keep, weight;
            join_largest(largest, __ldcg(of + group * D + line), keep, weight);
            sum = joined(sum, keep, __ldcg(of + group * (D + 1) + line), weight);
            value = joined(value, keep, __ldcg(of + i), weight);
        }
        to[i] = from_float<T>(value / sum);
    }
}

#define DEFINE(T, D)                                                                                               \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) attention_many_##D##_##T(                             \
        const T* qkv, const T* keys, const T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,    \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        int singles, T* out) {                                                                                     \
        many_body<T, D>(                                                                                           \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, singles, out);                                                  \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) attention_single_##D##_##T(                           \
        const T* qkv, const T* keys, const T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,    \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        float* partial, uint32_t* arrived, T* out) {                                                               \
        single_body<T, D>(                                                                                         \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, partial, arrived, out);                                         \
    }
DEFINE(f16, 64) DEFINE(f16, 128) DEFINE(bf16, 64) DEFINE(bf16, 128)
#undef DEFINE
