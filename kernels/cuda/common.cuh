// What every kernel file shares: element types, 4-wide accesses, reductions, and the order between kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

using bf16 = __nv_bfloat16;
using f16 = __half;
using f32 = float;

constexpr unsigned FULL_WARP = 0xffffffffu;

// Kernels are launched so that one may begin while its predecessor still runs (programmatic dependent
// launch). Each therefore says at its start that its successor may come, and waits before it touches
// anything that an earlier kernel writes or still reads; weights are neither.
__device__ __forceinline__ void release_successor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void await_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void begin() {
    release_successor();
    await_predecessor();
}

template <typename T> __device__ __forceinline__ float to_float(T x);
template <> __device__ __forceinline__ float to_float(f32 x) { return x; }
template <> __device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
template <> __device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ f32 from_float(float x) { return x; }
template <> __device__ __forceinline__ f16 from_float(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bf16 from_float(float x) { return __float2bfloat16_rn(x); }

template <typename T> struct alignas(4 * sizeof(T)) Four { T value[4]; };

// Four consecutive elements; `p` is a multiple of four elements from an allocation's start.
template <typename T> __device__ __forceinline__ float4 load4(const T* p) {
    const Four<T> v = *reinterpret_cast<const Four<T>*>(p);
    return make_float4(to_float(v.value[0]), to_float(v.value[1]), to_float(v.value[2]), to_float(v.value[3]));
}

template <typename T> __device__ __forceinline__ void store4(T* p, float4 x) {
    Four<T> v;
    v.value[0] = from_float<T>(x.x);
    v.value[1] = from_float<T>(x.y);
    v.value[2] = from_float<T>(x.z);
    v.value[3] = from_float<T>(x.w);
    *reinterpret_cast<Four<T>*>(p) = v;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
    return x;
}

// The sum over the block, in an order that depends on nothing but the number of threads; every thread gets
// it. `shared` holds 32 floats; it may be used again after the call.
__device__ __forceinline__ float block_sum(float x, float* shared) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    const unsigned warps = (blockDim.x + 31) / 32;
    float sum = threadIdx.x % 32 < warps ? shared[threadIdx.x % 32] : 0.f;
    sum = warp_sum(sum);
    __syncthreads();
    return sum;
}

// The sequence that `row` belongs to: the last whose offset is not past it.
__device__ __forceinline__ int sequence_of(const uint32_t* cu_seqlens, int num_seqs, uint32_t row) {
    int low = 0, high = num_seqs - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (cu_seqlens[middle] <= row) low = middle;
        else high = middle - 1;
    }
    return low;
}

// DEFINE(A, A's name) for each element type; DEFINE2(A, name, O, name) for each pair that occurs: activations
// into activations, and what is summed over layers or drawn from, which is f32.
#define FOR_EACH_ELEMENT(DEFINE) DEFINE(f32, f32) DEFINE(f16, f16) DEFINE(bf16, bf16)
#define FOR_EACH_PAIR(DEFINE)                                                                                      \
    DEFINE(f32, f32) DEFINE(f16, f16) DEFINE(f16, f32) DEFINE(bf16, bf16) DEFINE(bf16, f32)
#define FOR_EACH_PAIR_TO(DEFINE)                                                                                   \
    DEFINE(f32, f32) DEFINE(f16, f16) DEFINE(f32, f16) DEFINE(bf16, bf16) DEFINE(f32, bf16)
