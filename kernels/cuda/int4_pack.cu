// Into the layout of int4.cu, once at load, and out of it.
#include "common.cuh"

constexpr int UNIT = 64;

// A block of a row as the host has it: f16 scale, zero level, a byte that is 0, then two levels a byte.
__device__ __forceinline__ const unsigned char* block_of(const unsigned char* rows, int row, int col, int k, int group) {
    const size_t bytes = 4 + group / 2;
    return rows + (size_t(row) * (k / group) + col / group) * bytes;
}

// A word a thread: lane and product as in int4.cu. Rows and columns past the end are 0.
extern "C" __global__ void int4_pack_levels(
    const unsigned char* rows, int n, int k, int group, int units, uint32_t* levels) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int s = index % 4, lane = index / 4 % 32, g = lane / 4, t = lane % 4;
    const int unit = index / 128 % units, tile = index / 128 / units;
    if (tile >= (n + 15) / 16) return;
    const int col = unit * UNIT + 32 * (s / 2) + 8 * t + 4 * (s % 2);
    uint32_t word = 0;
    for (int high = 0; high < 2; ++high) {
        const int row = 16 * tile + g + 8 * high;
        if (row >= n || col >= k) continue;
        const unsigned char* from = block_of(rows, row, col, k, group) + 4 + col % group / 2;
        const uint32_t four = from[0] | from[1] << 8;
        for (int i = 0; i < 4; ++i)   // columns 0, 1 into nibbles 0, 4; columns 2, 3 into nibbles 2, 6
            word |= (four >> (4 * i) & 15) << (4 * (i % 2 * 4 + i / 2 * 2 + high));
    }
    levels[index] = word;
}

// A group of a row a thread. `others` becomes 1 if a zero level is not 8.
extern "C" __global__ void int4_pack_groups(
    const unsigned char* rows, int n, int k, int group, int units, uint16_t* scales, unsigned char* zeros, uint32_t* others) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int groups = units * UNIT / group;
    const int i = index % 16, at = index / 16 % groups, tile = index / 16 / groups;
    if (tile >= (n + 15) / 16) return;
    const int row = 16 * tile + i / 2 + i % 2 * 8;
    if (row >= n || at * group >= k) {
        scales[index] = 0;
        zeros[index] = 8;
        return;
    }
    const unsigned char* from = block_of(rows, row, at * group, k, group);
    scales[index] = from[0] | from[1] << 8;
    zeros[index] = from[2];
    if (from[2] != 8) *others = 1;
}

// Level, scale and zero level of an element.
__device__ __forceinline__ float element(const uint32_t* levels, const f16* scales, const unsigned char* zeros, int units,
    int group, int row, int col) {
    const int tile = row / 16, g = row % 8, high = row / 8 % 2;
    const int unit = col / UNIT, s = col % UNIT / 32 * 2 + col / 4 % 2, t = col / 8 % 4, i = col % 4;
    const uint32_t word = levels[((size_t(tile) * units + unit) * 32 + 4 * g + t) * 4 + s];
    const int level = word >> (4 * (i % 2 * 4 + i / 2 * 2 + high)) & 15;
    const size_t at = (size_t(tile) * (units * UNIT / group) + col / group) * 16 + 2 * g + high;
    return to_float(scales[at]) * float(level - (zeros ? zeros[at] : 8));
}

// out (n, k) = the weight, 8 columns of a row a thread; column i goes to `order[i]` if there is an order.
template <typename X>
__device__ __forceinline__ void dequantize(const uint32_t* levels, const f16* scales, const unsigned char* zeros,
    const uint32_t* order, int n, int k, int group, int units, X* out) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int t = index % 4, g = index / 4 % 8, h = index / 32 % 2;
    const int unit = index / 64 % units, tile = index / 64 / units;
    const int col = unit * UNIT + 32 * h + 8 * t;
    if (tile >= (n + 15) / 16 || col >= k) return;
    const uint2 words = *reinterpret_cast<const uint2*>(levels + ((size_t(tile) * units + unit) * 32 + 4 * g + t) * 4 + 2 * h);
    const size_t at = (size_t(tile) * (units * UNIT / group) + col / group) * 16 + 2 * g;
    for (int high = 0; high < 2; ++high) {
        const int row = 16 * tile + g + 8 * high;
        if (row >= n) continue;
        const float scale = to_float(scales[at + high]);
        const int zero = zeros ? zeros[at + high] : 8;
        alignas(16) X values[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint32_t word = i < 4 ? words.x : words.y;
            const int level = word >> (4 * (i % 2 * 4 + i % 4 / 2 * 2 + high)) & 15;
            values[i] = from_float<X>(scale * float(level - zero));
        }
        X* to = out + size_t(row) * k;
        if (order) {
            for (int i = 0; i < 8; ++i) to[order[col + i]] = values[i];
        } else {
            *reinterpret_cast<uint4*>(to + col) = *reinterpret_cast<const uint4*>(values);
        }
    }
}

// out (rows, k) = the columns of x (rows, k) in the order of a weight's.
template <typename X>
__device__ __forceinline__ void order_columns(const X* x, const uint32_t* order, int k, X* out) {
    begin();
    const int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col < k) out[size_t(blockIdx.y) * k + col] = x[size_t(blockIdx.y) * k + order[col]];
}

// out (rows, k) = rows `ids` of the weight that are among its `n` from `first` on, in the precision of X.
template <typename X>
__device__ __forceinline__ void gather(const uint32_t* levels, const f16* scales, const unsigned char* zeros,
    const uint32_t* order, const uint32_t* ids, int first, int n, int k, int group, int units, int exact, void* out) {
    begin();
    const int row = int(ids[blockIdx.y]) - first, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < 0 || row >= n || col >= k) return;
    const X x = from_float<X>(element(levels, scales, zeros, units, group, row, col));
    const size_t at = size_t(blockIdx.y) * k + (order ? order[col] : col);
    if (exact) static_cast<float*>(out)[at] = to_float(x);
    else static_cast<X*>(out)[at] = x;
}

#define DEFINE(X)                                                                                                  \
    extern "C" __global__ void int4_dequantize_##X(const uint32_t* levels, const f16* scales,                      \
        const unsigned char* zeros, const uint32_t* order, int n, int k, int group, int units, X* out) {           \
        dequantize(levels, scales, zeros, order, n, k, group, units, out);                                         \
    }                                                                                                              \
    extern "C" __global__ void int4_order_columns_##X(const X* x, const uint32_t* order, int k, X* out) {          \
        order_columns(x, order, k, out);                                                                           \
    }                                                                                                              \
    extern "C" __global__ void int4_gather_##X(const uint32_t* levels, const f16* scales,                          \
        const unsigned char* zeros, const uint32_t* order, const uint32_t* ids, int first, int n, int k,           \
        int group, int units, int exact, void* out) {                                                              \
        gather<X>(levels, scales, zeros, order, ids, first, n, k, group, units, exact, out);                       \
    }
DEFINE(f16) DEFINE(bf16)
#undef DEFINE
