// Attention of any element type, head size and block size: one block a query row and head, its four warps share
// out the keys. The tensor-core kernels of attention_mma.cu take over where they fit.
#include "common.cuh"

constexpr int WARPS = 4;
constexpr int MOST = 8;   // elements of a head a lane: head_dim up to 256

struct Heads {
    int heads, kv_heads, head_dim;
};

// Keys and values of a sequence in the paged cache.
template <typename C> struct Paged {
    const C *keys, *values;
    const uint32_t* table;
    int kv_heads, head, head_dim, block_size;

    __device__ size_t base(int token) const {
        return (size_t(table[token / block_size]) * kv_heads + head) * block_size * head_dim;
    }
    __device__ float key(int token, int i) const {
        return to_float(keys[base(token) + size_t(token % block_size) * head_dim + i]);
    }
    __device__ float value(int token, int i) const {
        return to_float(values[base(token) + size_t(i) * block_size + token % block_size]);
    }
};

// Keys and values of rows laid end to end.
template <typename X> struct Rows {
    const X* first_key;
    int stride, kv_width;

    __device__ float key(int token, int i) const { return to_float(first_key[size_t(token) * stride + i]); }
    __device__ float value(int token, int i) const { return to_float(first_key[size_t(token) * stride + kv_width + i]); }
};

// softmax(scale * q . k) . v over tokens from..to; q and out (head_dim).
template <typename X, typename S>
__device__ void attend(const X* q, const S& source, int from, int to, float scale, int head_dim, X* out) {
    __shared__ float maxima[WARPS], sums[WARPS], partial[WARPS][32 * MOST];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float query[MOST], mixed[MOST] = {}, largest = -INFINITY, sum = 0.f;
#pragma unroll
    for (int j = 0; j < MOST; ++j) query[j] = lane + 32 * j < head_dim ? to_float(q[lane + 32 * j]) : 0.f;
    for (int token = from + warp; token < to; token += WARPS) {
        float score = 0.f;
#pragma unroll
        for (int j = 0; j < MOST; ++j)
            if (lane + 32 * j < head_dim) score += query[j] * source.key(token, lane + 32 * j);
        score = warp_sum(score) * scale;
        const float now = fmaxf(largest, score);
        const float keep = expf(largest - now), weight = expf(score - now);
        largest = now;
        sum = sum * keep + weight;
#pragma unroll
        for (int j = 0; j < MOST; ++j)
            if (lane + 32 * j < head_dim) mixed[j] = mixed[j] * keep + weight * source.value(token, lane + 32 * j);
    }
    if (lane == 0) {
        maxima[warp] = largest;
        sums[warp] = sum;
    }
#pragma unroll
    for (int j = 0; j < MOST; ++j) partial[warp][lane + 32 * j] = mixed[j];
    __syncthreads();
    float all = -INFINITY, total = 0.f;
    for (int w = 0; w < WARPS; ++w) all = fmaxf(all, maxima[w]);
    for (int w = 0; w < WARPS; ++w) total += sums[w] * expf(maxima[w] - all);
    for (int i = threadIdx.x; i < head_dim; i += WARPS * 32) {
        float value = 0.f;
        for (int w = 0; w < WARPS; ++w) value += partial[w][i] * expf(maxima[w] - all);
        out[i] = from_float<X>(total > 0.f ? value / total : 0.f);
    }
}

// Grid (rows, heads). `window` 0 sees everything.
template <typename X, typename C>
__device__ void paged_attention_body(
    const X* qkv, Heads heads, const C* keys, const C* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,
    const uint32_t* tables, int max_blocks, int num_seqs, int block_size, float scale, int window, X* out) {
    begin();
    const int row = blockIdx.x, head = blockIdx.y, group = heads.heads / heads.kv_heads;
    const int seq = sequence_of(cu_seqlens, num_seqs, row);
    const int position = int(context_lens[seq]) - int(cu_seqlens[seq + 1] - row);
    const Paged<C> source = {keys, values, tables + size_t(seq) * max_blocks, heads.kv_heads, head / group,
                             heads.head_dim, block_size};
    const int width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    const int from = window > 0 ? max(0, position + 1 - window) : 0;
    attend(qkv + size_t(row) * width + head * heads.head_dim, source, from, position + 1, scale, heads.head_dim,
           out + (size_t(row) * heads.heads + head) * heads.head_dim);
}

// Grid (rows, heads).
template <typename X>
__device__ void varlen_attention_body(
    const X* qkv, Heads heads, const uint32_t* cu_seqlens, int num_seqs, int causal, float scale, X* out) {
    begin();
    const int row = blockIdx.x, head = blockIdx.y, group = heads.heads / heads.kv_heads;
    if (row >= cu_seqlens[num_seqs]) return;
    const int seq = sequence_of(cu_seqlens, num_seqs, row);
    const int start = cu_seqlens[seq], end = causal ? row + 1 : cu_seqlens[seq + 1];
    const int width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    const X* first_key = qkv + size_t(start) * width + (heads.heads + head / group) * heads.head_dim;
    const Rows<X> source = {first_key, width, heads.kv_heads * heads.head_dim};
    attend(qkv + size_t(row) * width + head * heads.head_dim, source, 0, end - start, scale, heads.head_dim,
           out + (size_t(row) * heads.heads + head) * heads.head_dim);
}

#define DEFINE(X, C)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) paged_attention_##X##_##C(                                   \
        const X* qkv, int heads, int kv_heads, int head_dim, const C* keys, const C* values,                       \
        const uint32_t* cu_seqlens, const uint32_t* context_lens, const uint32_t* tables, int max_blocks,          \
        int num_seqs, int block_size, float scale, int window, X* out) {                                           \
        paged_attention_body(                                                                                      \
            qkv, Heads{heads, kv_heads, head_dim}, keys, values, cu_seqlens, context_lens, tables, max_blocks,     \
            num_seqs, block_size, scale, window, out);                                                             \
    }
DEFINE(f32, f32) DEFINE(f32, f16) DEFINE(f16, f32) DEFINE(f16, f16) DEFINE(bf16, f32) DEFINE(bf16, bf16)
#undef DEFINE

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128) varlen_attention_##name(                                     \
        const X* qkv, int heads, int kv_heads, int head_dim, const uint32_t* cu_seqlens, int num_seqs, int causal, \
        float scale, X* out) {                                                                                     \
        varlen_attention_body(qkv, Heads{heads, kv_heads, head_dim}, cu_seqlens, num_seqs, causal, scale, out);    \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
