// From token vectors to one vector a sequence.
#include "common.cuh"

// x (_, width), cu_seqlens (num_seqs + 1), out (num_seqs, width); grid (over width, num_seqs).
template <typename X>
__device__ void mean_pool_body(const X* x, const uint32_t* cu_seqlens, int width, X* out) {
    begin();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const uint32_t from = cu_seqlens[blockIdx.y], to = cu_seqlens[blockIdx.y + 1];
    float sum = 0.f;
    for (uint32_t row = from; row < to; ++row) sum += to_float(x[size_t(row) * width + i]);
    out[size_t(blockIdx.y) * width + i] = from_float<X>(to > from ? sum / float(to - from) : 0.f);
}

// In place; grid (rows).
template <typename X> __device__ void l2_normalize_body(X* x, int width) {
    __shared__ float shared[32];
    begin();
    x += size_t(blockIdx.x) * width;
    float largest = 0.f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) largest = fmaxf(largest, fabsf(to_float(x[i])));
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = largest;
    __syncthreads();
    largest = warp_max(threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.f);
    __syncthreads();
    if (largest == 0.f) return;
    // Divided by the largest first: squares of very large or small elements would leave the range.
    float squares = 0.f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float v = to_float(x[i]) / largest;
        squares += v * v;
    }
    const float norm = sqrtf(block_sum(squares, shared));
    for (int i = threadIdx.x; i < width; i += blockDim.x) x[i] = from_float<X>(to_float(x[i]) / largest / norm);
}

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void mean_pool_##name(const X* x, const uint32_t* cu_seqlens, int width, X* out) {       \
        mean_pool_body(x, cu_seqlens, width, out);                                                                 \
    }                                                                                                              \
    extern "C" __global__ void l2_normalize_##name(X* x, int width) { l2_normalize_body(x, width); }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
