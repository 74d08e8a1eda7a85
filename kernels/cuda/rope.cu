// Rotary positions and what goes into the paged cache.
//
// A layer's cache is keys (num_blocks, kv heads, block_size, head_dim), then values (num_blocks, kv heads,
// head_dim, block_size): of values, the tokens of a block lie side by side, because the product with
// probabilities sums over tokens.
#include "rope.cuh"

// Row p of `table` holds head_dim / 2 cosines, then as many sines. Grid (rows, heads + kv heads).
template <typename X>
__device__ void rope_body(X* qkv, const float* table, const uint32_t* positions, int heads, int kv_heads, int head_dim) {
    begin();
    const int half = head_dim / 2;
    X* x = qkv + (size_t(blockIdx.x) * (heads + 2 * kv_heads) + blockIdx.y) * head_dim;
    const float* cosines = table + size_t(positions[blockIdx.x]) * head_dim;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        const float a = to_float(x[i]), b = to_float(x[i + half]), c = cosines[i], s = cosines[half + i];
        x[i] = from_float<X>(turned_low(a, b, c, s));
        x[i + half] = from_float<X>(turned_high(a, b, c, s));
    }
}

// Grid (rows, kv heads).
template <typename X, typename C>
__device__ void write_kv_body(
    const X* qkv, C* keys, C* values, const uint32_t* slots, int heads, int kv_heads, int head_dim, int block_size) {
    begin();
    const X* row = qkv + size_t(blockIdx.x) * (heads + 2 * kv_heads) * head_dim;
    const X* key = row + size_t(heads + blockIdx.y) * head_dim;
    const X* value = key + size_t(kv_heads) * head_dim;
    const Slot to = slot_of(slots[blockIdx.x], kv_heads, blockIdx.y, head_dim, block_size);
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        keys[to.key + i] = from_float<C>(to_float(key[i]));
        values[to.value + size_t(i) * block_size] = from_float<C>(to_float(value[i]));
    }
}

// Head norms (where there are weights), rotation and the copy into the cache at once: a warp a head, grid
// (rows, heads + 2 kv heads over 4). Each step rounds as it does alone.
template <typename X, typename C>
__device__ void qk_rope_write_kv_body(
    X* qkv, C* keys, C* values, const float* q_weight, const float* k_weight, float eps, const float* table,
    const uint32_t* positions, const uint32_t* slots, int heads, int kv_heads, int head_dim, int block_size) {
    constexpr int MOST = 4;   // pairs a lane: head_dim up to 256
    begin();
    const int head = blockIdx.y * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, half = head_dim / 2;
    if (head >= heads + 2 * kv_heads) return;
    X* x = qkv + (size_t(blockIdx.x) * (heads + 2 * kv_heads) + head) * head_dim;
    if (head >= heads + kv_heads) {
        const Slot to = slot_of(slots[blockIdx.x], kv_heads, head - heads - kv_heads, head_dim, block_size);
        for (int i = lane; i < head_dim; i += 32) values[to.value + size_t(i) * block_size] = from_float<C>(to_float(x[i]));
        return;
    }
    Head<X, MOST> own(x, half);
    const float* weight = head < heads ? q_weight : k_weight;
    auto weight_of = [&](int j, bool high) {
        const int i = lane + 32 * j;
        return i < half ? weight[high ? i + half : i] : 0.f;
    };
    if (weight) own.normalise(weight_of, eps, half);
    const float* cosines = table + size_t(positions[blockIdx.x]) * head_dim;
    const bool is_key = head >= heads;
    const Slot to = is_key ? slot_of(slots[blockIdx.x], kv_heads, head - heads, head_dim, block_size) : Slot{0, 0};
#pragma unroll
    for (int j = 0; j < MOST; ++j) {
        const int i = lane + 32 * j;
        if (i >= half) continue;
        const X first = from_float<X>(turned_low(own.low[j], own.high[j], cosines[i], cosines[half + i]));
        const X second = from_float<X>(turned_high(own.low[j], own.high[j], cosines[i], cosines[half + i]));
        x[i] = first;
        x[i + half] = second;
        if (is_key) {
            keys[to.key + i] = from_float<C>(to_float(first));
            keys[to.key + i + half] = from_float<C>(to_float(second));
        }
    }
}

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void rope_##name(                                                                        \
        X* qkv, const float* table, const uint32_t* positions, int heads, int kv_heads, int head_dim) {            \
        rope_body(qkv, table, positions, heads, kv_heads, head_dim);                                               \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE

#define DEFINE(X, C)                                                                                               \
    extern "C" __global__ void write_kv_##X##_##C(                                                                 \
        const X* qkv, C* keys, C* values, const uint32_t* slots, int heads, int kv_heads, int head_dim,            \
        int block_size) {                                                                                          \
        write_kv_body(qkv, keys, values, slots, heads, kv_heads, head_dim, block_size);                            \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) qk_rope_write_kv_##X##_##C(                                  \
        X* qkv, C* keys, C* values, const float* q_weight, const float* k_weight, float eps, const float* table,   \
        const uint32_t* positions, const uint32_t* slots, int heads, int kv_heads, int head_dim, int block_size) { \
        qk_rope_write_kv_body(                                                                                     \
            qkv, keys, values, q_weight, k_weight, eps, table, positions, slots, heads, kv_heads, head_dim,        \
            block_size);                                                                                           \
    }
DEFINE(f32, f32) DEFINE(f32, f16) DEFINE(f16, f32) DEFINE(f16, f16) DEFINE(bf16, f32) DEFINE(bf16, bf16)
#undef DEFINE
