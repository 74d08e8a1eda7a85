// The norm of a head and its rotation, alike wherever a warp does them.
#pragma once

#include "common.cuh"

// What is rounded when is said, so that every kernel gives the same bits: the pair (a, b) turned by an angle, a pair's squares.
__device__ __forceinline__ float turned_low(float a, float b, float cosine, float sine) { return fmaf(a, cosine, -(b * sine)); }
__device__ __forceinline__ float turned_high(float a, float b, float cosine, float sine) { return fmaf(b, cosine, a * sine); }
__device__ __forceinline__ float squares_of(float a, float b) { return fmaf(a, a, b * b); }

// A head of up to 64 * MOST elements: a lane has the pairs (i, i + half) with i = lane + 32 j.
template <typename X, int MOST> struct Head {
    float low[MOST], high[MOST];

    __device__ __forceinline__ Head(const X* x, int half) {
#pragma unroll
        for (int j = 0; j < MOST; ++j) {
            const int i = threadIdx.x % 32 + 32 * j;
            low[j] = i < half ? to_float(x[i]) : 0.f;
            high[j] = i < half ? to_float(x[i + half]) : 0.f;
        }
    }
    // `weight(j, high)` is that of the lane's j-th pair.
    template <typename Weight> __device__ __forceinline__ void normalise(Weight weight, float eps, int half) {
        float squares = 0.f;
#pragma unroll
        for (int j = 0; j < MOST; ++j) squares += squares_of(low[j], high[j]);
        const float scale = rsqrtf(warp_sum(squares) / (2 * half) + eps);
#pragma unroll
        for (int j = 0; j < MOST; ++j) {
            low[j] = to_float(from_float<X>(low[j] * scale * weight(j, false)));
            high[j] = to_float(from_float<X>(high[j] * scale * weight(j, true)));
        }
    }
};

struct Slot {
    size_t key;         // of the first element; the next is beside it
    size_t value;       // of the first element; the next is block_size further
};

__device__ __forceinline__ Slot slot_of(uint32_t slot, int kv_heads, int head, int head_dim, int block_size) {
    const size_t base = (size_t(slot / block_size) * kv_heads + head) * block_size * head_dim;
    const int offset = slot % block_size;
    return {base + size_t(offset) * head_dim, base + offset};
}
