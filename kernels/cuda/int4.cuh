// A weight in groups of 4-bit levels with an f16 scale and a zero level: scale * (level - zero).
//
// Levels lie in tiles of 16 weight rows and units of 64 columns: 512 bytes, 16 of each lane, a word for each of the
// four products of a unit. Lane 4 g + t has rows g and g + 8 (the left side of a tensor-core product), and of product
// s the columns 32 (s / 2) + 8 t + 4 (s % 2) + 0..4, so that 16 bytes of an x row are the right side of two products.
// Nibbles 0, 4 and 2, 6 of a word are row g, nibbles 1, 5 and 3, 7 row g + 8: two of one pair lie 16 bits apart, where
// a mask and the bits of a power of two make them a pair of halves. Scales and zero levels lie in tiles too: of each
// group those of rows 0, 8, 1, 9, ...
//
// A level less its zero is exact in every element type; products are summed in f32 over a group, then scaled.
#pragma once

#include "mma.cuh"

constexpr int UNIT = 64;

// A power of two whose last place is 1: with a small number in its lowest bits it is that much more.
template <typename X> constexpr uint32_t MAGIC = 0;
template <> constexpr uint32_t MAGIC<bf16> = 0x4300;   // 128
template <> constexpr uint32_t MAGIC<f16> = 0x6400;    // 1024
constexpr uint32_t BOTH = 0x10001;                     // a number of 16 bits into both halves

__device__ __forceinline__ uint32_t subtract(uint32_t a, uint32_t b, bf16) {
    __nv_bfloat162 x = *reinterpret_cast<__nv_bfloat162*>(&a), y = *reinterpret_cast<__nv_bfloat162*>(&b);
    x = __hsub2(x, y);
    return *reinterpret_cast<uint32_t*>(&x);
}

__device__ __forceinline__ uint32_t subtract(uint32_t a, uint32_t b, f16) {
    __half2 x = *reinterpret_cast<__half2*>(&a), y = *reinterpret_cast<__half2*>(&b);
    x = __hsub2(x, y);
    return *reinterpret_cast<uint32_t*>(&x);
}

// The left side of a product; `zero` is what to take off for rows g and g + 8.
template <typename X>
__device__ __forceinline__ void unpack(uint32_t word, const uint32_t (&zero)[2], uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
        a[i] = subtract(((word >> (4 * i)) & 0x000f000f) | MAGIC<X> * BOTH, zero[i % 2], X());
}

struct Weight {
    const uint4* levels;
    const uint32_t* scales;
    const uint16_t* zeros;   // null: 8 everywhere
    int tiles, units;
};

// Scales and zero levels of a group as they are stored, for rows g and g + 8: a load that is looked at is waited for.
struct Group {
    uint32_t scale;
    uint32_t zero;
};

template <int G> __device__ __forceinline__ void load_group(const Weight& w, int tile, int at, int g, Group& group) {
    const size_t index = (size_t(tile) * (w.units * UNIT / G) + at) * 8 + g;
    group.scale = __ldg(w.scales + index);
    group.zero = 0x808;
    if (w.zeros) group.zero = __ldg(w.zeros + index);
}

template <typename X> __device__ __forceinline__ void offsets(const Group& group, uint32_t (&zero)[2]) {
    zero[0] = ((group.zero & 0xff) + MAGIC<X>) * BOTH;
    zero[1] = ((group.zero >> 8) + MAGIC<X>) * BOTH;
}

// sum += scale * part, which becomes zero.
template <int NT>
__device__ __forceinline__ void add_group(float (&sum)[NT][4], float (&part)[NT][4], const Group& group) {
    const float2 scale = __half22float2(*reinterpret_cast<const __half2*>(&group.scale));
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum[j][i] += (i < 2 ? scale.x : scale.y) * part[j][i];
            part[j][i] = 0.f;
        }
}

__device__ __forceinline__ void store_result(void* out, bool exact, size_t at, float x, bf16) {
    if (exact) static_cast<float*>(out)[at] = x;
    else static_cast<bf16*>(out)[at] = from_float<bf16>(x);
}

__device__ __forceinline__ void store_result(void* out, bool exact, size_t at, float x, f16) {
    if (exact) static_cast<float*>(out)[at] = x;
    else static_cast<f16*>(out)[at] = from_float<f16>(x);
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }

// Copies 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0));
}
