// Tensor-core products of 16-bit elements with f32 sums.
#pragma once

#include "common.cuh"

// d (16, 8) += a (16, 16) . b (16, 8). Lane 4 g + t holds of a the pairs (row g, column 2t), (g + 8, 2t),
// (g, 2t + 8), (g + 8, 2t + 8), of b (row 2t, column g), (2t + 8, g), of d (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1).
//
// `mma` stays where it stands among loads that were written before it, which then are all under way; `mma_anywhere` the
// compiler may move.
template <typename T> __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <typename T>
__device__ __forceinline__ void mma_anywhere(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define DEFINE_MMA(name, T, type, how)                                                                             \
    template <>                                                                                                    \
    __device__ __forceinline__ void name<T>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {     \
        asm how("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                                     \
                "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                            \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                   \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                   \
    }
DEFINE_MMA(mma, bf16, "bf16", volatile)
DEFINE_MMA(mma, f16, "f16", volatile)
DEFINE_MMA(mma_anywhere, bf16, "bf16", )
DEFINE_MMA(mma_anywhere, f16, "f16", )
#undef DEFINE_MMA

template <typename T> __device__ __forceinline__ uint32_t pack2(float x, float y);
template <> __device__ __forceinline__ uint32_t pack2<bf16>(float x, float y) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&v);
}
template <> __device__ __forceinline__ uint32_t pack2<f16>(float x, float y) {
    const __half2 v = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&v);
}
