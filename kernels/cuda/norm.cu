// Row-wise normalisation: one block a row, or one warp a head. Sums are f32.
#include "common.cuh"
#include "deferred_norm.cuh"

template <typename X, typename O>
__device__ void rms_norm_body(const X* x, const float* weight, float eps, int width, O* out) {
    __shared__ float shared[32];
    begin();
    x += size_t(blockIdx.x) * width;
    out += size_t(blockIdx.x) * width;
    float squares = 0.f;
    if (width % 4 == 0) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            const float4 v = load4(x + i);
            squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) squares += to_float(x[i]) * to_float(x[i]);
    }
    const float scale = rsqrtf(block_sum(squares, shared) / width + eps);
    if (width % 4 == 0) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            const float4 v = load4(x + i), w = load4(weight + i);
            store4(out + i, make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w));
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x)
            out[i] = from_float<O>(to_float(x[i]) * scale * weight[i]);
    }
}

// As an R holds it.
template <typename R> __device__ __forceinline__ float4 rounded(float4 v) {
    return make_float4(to_float(from_float<R>(v.x)), to_float(from_float<R>(v.y)), to_float(from_float<R>(v.z)),
                       to_float(from_float<R>(v.w)));
}

// x (rows, width), residual (rows, width) in and out, out (rows, width).
template <typename X, typename R>
__device__ void add_rms_norm_body(
    const X* x, R* residual, const float* weight, float eps, int width, X* out) {
    __shared__ float shared[32];
    release_successor();
    const bool wide = width % 4 == 0;
    const int first = threadIdx.x * 4;
    const bool inside = wide && first < width;
    // A thread's first four elements stay in registers; mostly it has no others.
    const float4 first_weight = inside ? load4(weight + first) : make_float4(0.f, 0.f, 0.f, 0.f);
    await_predecessor();
    x += size_t(blockIdx.x) * width;
    residual += size_t(blockIdx.x) * width;
    out += size_t(blockIdx.x) * width;
    // As stored: what later layers read is what is normalised here.
    auto add = [&](int i) {
        const float4 a = load4(x + i), r = load4(residual + i);
        const float4 sum = rounded<R>(make_float4(r.x + a.x, r.y + a.y, r.z + a.z, r.w + a.w));
        store4(residual + i, sum);
        return sum;
    };
    auto square = [](float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
    auto store = [&](int i, float4 v, float4 w, float scale) {
        store4(out + i, make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w));
    };
    float squares = 0.f;
    const float4 kept = inside ? add(first) : make_float4(0.f, 0.f, 0.f, 0.f);
    squares += square(kept);
    for (int i = first + blockDim.x * 4; wide && i < width; i += blockDim.x * 4) squares += square(add(i));
    for (int i = threadIdx.x; !wide && i < width; i += blockDim.x) {
        residual[i] = from_float<R>(to_float(residual[i]) + to_float(x[i]));
        squares += to_float(residual[i]) * to_float(residual[i]);
    }
    const float scale = rsqrtf(block_sum(squares, shared) / width + eps);
    if (inside) store(first, kept, first_weight, scale);
    for (int i = first + blockDim.x * 4; wide && i < width; i += blockDim.x * 4)
        store(i, load4(residual + i), load4(weight + i), scale);
    for (int i = threadIdx.x; !wide && i < width; i += blockDim.x)
        out[i] = from_float<X>(to_float(residual[i]) * scale * weight[i]);
}

template <typename X>
__device__ void layer_norm_body(
    const X* x, const float* weight, const float* bias, float eps, int width, X* out) {
    __shared__ float shared[32];
    begin();
    x += size_t(blockIdx.x) * width;
    out += size_t(blockIdx.x) * width;
    float sum = 0.f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += to_float(x[i]);
    const float mean = block_sum(sum, shared) / width;
    float squares = 0.f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float d = to_float(x[i]) - mean;
        squares += d * d;
    }
    const float scale = rsqrtf(block_sum(squares, shared) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        out[i] = from_float<X>((to_float(x[i]) - mean) * scale * weight[i] + bias[i]);
}

// qkv (rows, heads + 2 kv heads, head_dim): a warp a query or key head; grid (rows, heads + kv heads over 4).
template <typename X>
__device__ void qk_norm_body(
    X* qkv, const float* q_weight, const float* k_weight, float eps, int heads, int kv_heads, int head_dim) {
    begin();
    const int head = blockIdx.y * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (head >= heads + kv_heads) return;
    X* x = qkv + (size_t(blockIdx.x) * (heads + 2 * kv_heads) + head) * head_dim;
    const float* weight = head < heads ? q_weight : k_weight;
    float squares = 0.f;
    for (int i = lane; i < head_dim; i += 32) squares += to_float(x[i]) * to_float(x[i]);
    const float scale = rsqrtf(warp_sum(squares) / head_dim + eps);
    for (int i = lane; i < head_dim; i += 32) x[i] = from_float<X>(to_float(x[i]) * scale * weight[i]);
}

// What x (rows, width) is owed, for a product that does not pay it.
extern "C" __global__ void pay_owed_bf16(bf16* x, const float* squares, int parts, float eps, int width) {
    __shared__ float shared[32];
    begin();
    float sum = 0.f;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += squares[size_t(blockIdx.x) * parts + i];
    const float scale = rsqrtf(block_sum(sum, shared) / width + eps);
    x += size_t(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) x[i] = from_float<bf16>(to_float(x[i]) * scale);
}

#define DEFINE(X, O)                                                                                               \
    extern "C" __global__ void rms_norm_##X##_##O(                                                                 \
        const X* x, const float* weight, float eps, int width, O* out) {                                           \
        rms_norm_body(x, weight, eps, width, out);                                                                 \
    }
FOR_EACH_PAIR_TO(DEFINE)
#undef DEFINE

#define DEFINE(X, R)                                                                                               \
    extern "C" __global__ void add_rms_norm_##X##_##R(                                                             \
        const X* x, R* residual, const float* weight, float eps, int width, X* out) {                              \
        add_rms_norm_body(x, residual, weight, eps, width, out);                                                   \
    }
FOR_EACH_PAIR(DEFINE)
#undef DEFINE

#define DEFINE(X, name)                                                                                            \
    extern "C" __global__ void layer_norm_##name(                                                                  \
        const X* x, const float* weight, const float* bias, float eps, int width, X* out) {                        \
        layer_norm_body(x, weight, bias, eps, width, out);                                                         \
    }                                                                                                              \
    extern "C" __global__ void qk_norm_##name(                                                                     \
        X* qkv, const float* q_weight, const float* k_weight, float eps, int heads, int kv_heads, int head_dim) {  \
        qk_norm_body(qkv, q_weight, k_weight, eps, heads, kv_heads, head_dim);                                     \
    }
FOR_EACH_ELEMENT(DEFINE)
#undef DEFINE
