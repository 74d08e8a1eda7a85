// Into the layout of int4.cuh, once at load, and out of it.
#include "int4.cuh"

// A block of a row as the host has it: f16 scale, zero level, a byte that is 0, then two levels a byte.
__device__ __forceinline__ const unsigned char* block_of(const unsigned char* rows, int row, int col, int k, int group) {
    const size_t bytes = 4 + group / 2;
    return rows + (size_t(row) * (k / group) + col / group) * bytes;
}

// The first of a word's eight columns; the word's place in the levels.
__device__ __forceinline__ int column_of(size_t word, int chunks) {
    return int(word / 16 % chunks) * CHUNK + int(word % 4) * 32 + int(word / 4 % 4) * 8;
}
__device__ __forceinline__ size_t word_of(int row, int col, int chunks) {
    return ((size_t(row) * chunks + col / CHUNK) * 4 + col / 8 % 4) * 4 + col / 32 % 4;
}
__device__ __forceinline__ int level_of(uint32_t word, int col) { return word >> (4 * (col % 8 / 2 + col % 2 * 4)) & 15; }

// A word a thread. Columns past the end are 0.
extern "C" __global__ void int4_pack_levels(
    const unsigned char* rows, int n, int k, int group, int chunks, uint32_t* levels) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x, row = index / 16 / chunks;
    if (row >= n) return;
    const int col = column_of(index, chunks);
    uint32_t word = 0;
    if (col < k) {
        const unsigned char* from = block_of(rows, int(row), col, k, group) + 4 + col % group / 2;
        for (int i = 0; i < 4; ++i) word |= uint32_t(from[i] & 15) << (4 * i) | uint32_t(from[i] >> 4) << (4 * i + 16);
    }
    levels[index] = word;
}

// A group of a row a thread, rows beside one another. `others` becomes 1 if a zero level is not 8.
extern "C" __global__ void int4_pack_groups(const unsigned char* rows, int n, int k, int group, int chunks, int padded,
    uint16_t* scales, uint16_t* zeros, uint32_t* others) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int row = int(index % padded), at = int(index / padded);
    if (at >= chunks * CHUNK / group) return;
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

// Of a group of a row.
struct Scale {
    float scale;
    int zero;

    __device__ __forceinline__ Scale(const Weight& w, int row, int group) {
        const size_t at = size_t(group) * w.padded + row;
        scale = to_float(w.scales[at]);
        zero = w.zeros ? w.zeros[at] : 8;
    }
    __device__ __forceinline__ float of(int level) const { return scale * float(level - zero); }
};

// out (n, k) = the weight, 8 columns of a row a thread; column i goes to `order[i]` if there is an order.
template <typename X>
__device__ __forceinline__ void dequantize(const Weight& w, const uint32_t* order, int n, int k, int group, X* out) {
    begin();
    const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x, row = index / 16 / w.chunks;
    const int col = column_of(index, w.chunks);
    if (row >= n || col >= k) return;
    const uint32_t word = reinterpret_cast<const uint32_t*>(w.levels)[index];
    const Scale scale(w, int(row), col / group);
    alignas(16) X values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = from_float<X>(scale.of(level_of(word, i)));
    X* to = out + row * k;
    if (order) {
        for (int i = 0; i < 8; ++i) to[order[col + i]] = values[i];
    } else {
        *reinterpret_cast<uint4*>(to + col) = *reinterpret_cast<const uint4*>(values);
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
__device__ __forceinline__ void gather(const Weight& w, const uint32_t* order, const uint32_t* ids, int first, int n, int k,
    int group, bool exact, void* out) {
    begin();
    const int row = int(ids[blockIdx.y]) - first, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < 0 || row >= n || col >= k) return;
    const uint32_t word = reinterpret_cast<const uint32_t*>(w.levels)[word_of(row, col, w.chunks)];
    const X x = from_float<X>(Scale(w, row, col / group).of(level_of(word, col)));
    const size_t at = size_t(blockIdx.y) * k + (order ? order[col] : col);
    store_result(out, exact, at, to_float(x), X());
}

#define DEFINE(X)                                                                                                  \
    extern "C" __global__ void int4_dequantize_##X(const uint4* levels, const f16* scales, const uint16_t* zeros,  \
        const uint32_t* order, int n, int k, int group, X* out) {                                                  \
        dequantize(Weight(levels, scales, zeros, n, k), order, n, k, group, out);                                  \
    }                                                                                                              \
    extern "C" __global__ void int4_order_columns_##X(const X* x, const uint32_t* order, int k, X* out) {          \
        order_columns(x, order, k, out);                                                                           \
    }                                                                                                              \
    extern "C" __global__ void int4_gather_##X(const uint4* levels, const f16* scales, const uint16_t* zeros,      \
        const uint32_t* order, const uint32_t* ids, int first, int n, int k, int group, int exact, void* out) {    \
        gather<X>(Weight(levels, scales, zeros, n, k), order, ids, first, n, k, group, exact != 0, out);           \
    }
DEFINE(f16) DEFINE(bf16)
#undef DEFINE
