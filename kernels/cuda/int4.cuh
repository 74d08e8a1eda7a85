// A weight in groups of 4-bit levels with an f16 scale and a zero level: scale * (level - zero).
//
// Levels lie row after row, a row in chunks of 128 columns: 64 bytes, 16 for each of four lanes, of which word j has the
// columns 32 j + 8 t + 0..8 for lane t. Column 2 i of the eight is nibble i, column 2 i + 1 nibble i + 4: two
// neighbours lie 16 bits apart, where a mask makes them a pair of halves, and 16 bytes of an x row are the right side of two
// tensor-core products whose left sides are words of two weight rows. Scales and zero levels, 16 bits each, lie group after
// group, those of all rows (a multiple of 16) beside one another. Past the last column levels are 0, and x has to be.
//
// A level less its zero is exact in every element type; products are summed in f32 over a group, then scaled.
#pragma once

#include "cluster.cuh"
#include "mma.cuh"

constexpr int CHUNK = 128;
constexpr int LANE_COLUMNS = 32;            // of 16 bytes of levels
constexpr int PIECES = CHUNK / LANE_COLUMNS;   // of 16 bytes, of a row's chunk
constexpr uint32_t BOTH = 0x10001;          // a number of 16 bits into both halves

// A small integer in the lowest bits of an element is that many times its smallest number, also where it reaches into the
// exponent's last bit. FOUR and EIGHT bring such integers, in bits 0..4 and 4..8, up to 1 / SCALE each, MINUS a zero level.
template <typename X> struct Small;
template <> struct Small<bf16> {
    static constexpr uint32_t FOUR = 0x7f007f00, EIGHT = 0x7d007d00, MINUS = 0xff00ff00;
    static constexpr float SCALE = 64.f;
};
template <> struct Small<f16> {
    static constexpr uint32_t FOUR = 0x78007800, EIGHT = 0x68006800, MINUS = 0xf800f800;
    static constexpr float SCALE = 512.f;
};

__device__ __forceinline__ uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c, bf16) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c, f16) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// What to add to a row's levels: its zero level, negative, as a pair.
template <typename X> __device__ __forceinline__ uint32_t offset(uint32_t zero) {
    return multiply_add(zero * BOTH, Small<X>::MINUS, 0x80008000, X());
}

// The left side of a product: half `h` of the word of row g and of row g + 8, less their zeros, over SCALE.
template <typename X>
__device__ __forceinline__ void unpack(uint32_t low, uint32_t high, int h, const uint32_t (&zero)[2], uint32_t (&a)[4]) {
    low >>= 8 * h;
    high >>= 8 * h;
    a[0] = multiply_add(low & 0x000f000f, Small<X>::FOUR, zero[0], X());
    a[1] = multiply_add(high & 0x000f000f, Small<X>::FOUR, zero[1], X());
    a[2] = multiply_add(low & 0x00f000f0, Small<X>::EIGHT, zero[0], X());
    a[3] = multiply_add(high & 0x00f000f0, Small<X>::EIGHT, zero[1], X());
}

struct Weight {
    const uint4* levels;
    const f16* scales;
    const uint16_t* zeros;   // null: 8 everywhere
    int padded, chunks;      // rows, up to a multiple of 16; chunks of a row

    __device__ __forceinline__ Weight(const uint4* levels, const f16* scales, const uint16_t* zeros, int rows, int k)
        : levels(levels), scales(scales), zeros(zeros), padded((rows + 15) / 16 * 16), chunks((k + CHUNK - 1) / CHUNK) {}
    __device__ __forceinline__ const uint4* at(int row, int chunk) const {
        return levels + (size_t(row) * chunks + chunk) * PIECES + threadIdx.x % PIECES;
    }
};

__device__ __forceinline__ float scale_of(uint32_t bits) { return __half2float(__ushort_as_half(uint16_t(bits))); }

// sum += scale * part, which becomes zero.
template <typename X, int NT>
__device__ __forceinline__ void add_group(float (&sum)[NT][4], float (&part)[NT][4], float low, float high) {
    low *= Small<X>::SCALE;
    high *= Small<X>::SCALE;
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum[j][i] += (i < 2 ? low : high) * part[j][i];
            part[j][i] = 0.f;
        }
}

template <typename X> __device__ __forceinline__ void store_result(void* out, bool exact, size_t at, float x, X) {
    if (exact) static_cast<float*>(out)[at] = x;
    else static_cast<X*>(out)[at] = from_float<X>(x);
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ float4 operator+(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
