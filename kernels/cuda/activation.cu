// Element-wise operations and row moves. Grids stride over their elements.
#include "common.cuh"

template <typename X, typename Y> __device__ void add_body(const X* x, Y* y, size_t len) {
    begin();
    const size_t stride = size_t(gridDim.x) * blockDim.x, first = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (size_t i = first; i < len / 4; i += stride) {
        const float4 a = load4(x + 4 * i), b = load4(y + 4 * i);
        store4(y + 4 * i, make_float4(b.x + a.x, b.y + a.y, b.z + a.z, b.w + a.w));
    }
    if (first < len % 4) {
        const size_t i = len / 4 * 4 + first;
        y[i] = from_float<Y>(to_float(y[i]) + to_float(x[i]));
    }
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + __expf(-x)); }

// gate_up (rows, 2 * width), out (rows, width); grid (over width, rows).
template <typename X> __device__ void silu_mul_body(const X* gate_up, int width, X* out) {
    begin();
    const X* gate = gate_up + size_t(blockIdx.y) * 2 * width;
    const X* up = gate + width;
    out += size_t(blockIdx.y) * width;
    const int first = blockIdx.x * blockDim.x + threadIdx.x;
    if (width % 4 == 0) {
        const int i = 4 * first;
        if (i >= width) return;
        const float4 g = load4(gate + i), u = load4(up + i);
        store4(out + i, make_float4(silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w));
        return;
    }
    for (int i = 4 * first; i < min(width, 4 * first + 4); ++i)
        out[i] = from_float<X>(silu(to_float(gate[i])) * to_float(up[i]));
}

// kind: 0 with the error function, 1 x * sigmoid(1.702 x), 2 the tanh approximation.
template <typename X> __device__ void gelu_body(X* x, int kind, size_t len) {
    begin();
    const size_t stride = size_t(gridDim.x) * blockDim.x;
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += stride) {
        const float v = to_float(x[i]);
        float y;
        if (kind == 0) y = 0.5f * v * erfcf(-0.70710678118654752f * v);
        else if (kind == 1) y = v / (1.f + expf(-1.702f * v));
        else y = v / (1.f + expf(-1.5957691216057308f * (v + 0.044715f * v * v * v)));
        x[i] = from_float<X>(y);
    }
}

// out[i] = x[indices[i]]: grid (rows); also the rows of an embedding table.
template <typename X, typename O>
__device__ void gather_rows_body(const X* x, const uint32_t* indices, int width, O* out) {
    begin();
    const X* from = x + size_t(indices[blockIdx.x]) * width;
    O* to = out + size_t(blockIdx.x) * width;
    if (width % 4 == 0) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) store4(to + i, load4(from + i));
        return;
    }
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from_float<O>(to_float(from[i]));
}

// Adds a bias (n) to each row of x (rows, n); grid (over n, rows).
template <typename X> __device__ void add_bias_body(const float* bias, int n, X* x) {
    begin();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    X* p = x + size_t(blockIdx.y) * n + i;
    *p = from_float<X>(to_float(*p) + bias[i]);
}

#define DEFINE(X, Y)                                                                                               \
    extern "C" __global__ void add_##X##_##Y(const X* x, Y* y, size_t len) { add_body(x, y, len); }                \
    extern "C" __global__ void gather_rows_##X##_##Y(const X* x, const uint32_t* indices, int width, Y* out) {     \
        gather_rows_body(x, indices, width, out);                                                                  \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void silu_mul_##name(const X* gate_up, int width, X* out) {                              \
        silu_mul_body(gate_up, width, out);                                                                        \
    }                                                                                                              \
    extern "C" __global__ void gelu_##name(X* x, int kind, size_t len) { gelu_body(x, kind, len); }                \
    extern "C" __global__ void add_bias_##name(const float* bias, int n, X* x) { add_bias_body(bias, n, x); }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
