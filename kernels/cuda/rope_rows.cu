// Head norms, rotation and the copy into the paged cache for many rows: 16-bit elements, heads of 64 or 128, blocks of 16.
// To the bit what `qk_rope_write_kv` in rope.cu gives, in fewer and wider accesses.
#include "rope.cuh"

constexpr int BLOCK = 16;        // tokens of a cache block
constexpr int VALUE_ROWS = 64;   // rows whose values one block of threads turns around

template <typename T> struct Rows {
    T* qkv;
    T *keys, *values;
    const float *q_weight, *k_weight;   // none without norms
    float eps;
    const float* table;
    const uint32_t *positions, *slots;
    int rows, heads, kv_heads;
};

// The sum over a head's 32 columns of lanes, of which each of eight lanes has four neighbours: in the order of `warp_sum`.
__device__ __forceinline__ float head_sum(float4 x) {
#pragma unroll
    for (int d = 4; d > 0; d /= 2) {
        x.x += __shfl_xor_sync(FULL_WARP, x.x, d);
        x.y += __shfl_xor_sync(FULL_WARP, x.y, d);
        x.z += __shfl_xor_sync(FULL_WARP, x.z, d);
        x.w += __shfl_xor_sync(FULL_WARP, x.w, d);
    }
    return (x.x + x.z) + (x.y + x.w);
}

// As a T holds it.
template <typename T> __device__ __forceinline__ float4 as_stored(float4 v) {
    return make_float4(to_float(from_float<T>(v.x)), to_float(from_float<T>(v.y)), to_float(from_float<T>(v.z)),
                       to_float(from_float<T>(v.w)));
}

__device__ __forceinline__ float4 normed(float4 x, float scale, float4 weight) {
    return make_float4(x.x * scale * weight.x, x.y * scale * weight.y, x.z * scale * weight.z, x.w * scale * weight.w);
}

__device__ __forceinline__ float4 turned_low(float4 a, float4 b, float4 c, float4 s) {
    return make_float4(turned_low(a.x, b.x, c.x, s.x), turned_low(a.y, b.y, c.y, s.y), turned_low(a.z, b.z, c.z, s.z),
                       turned_low(a.w, b.w, c.w, s.w));
}

__device__ __forceinline__ float4 turned_high(float4 a, float4 b, float4 c, float4 s) {
    return make_float4(turned_high(a.x, b.x, c.x, s.x), turned_high(a.y, b.y, c.y, s.y), turned_high(a.z, b.z, c.z, s.z),
                       turned_high(a.w, b.w, c.w, s.w));
}

// Queries and keys of one row. Eight lanes have a head: lane l the elements 4 l to 4 l + 3 of each 32.
template <typename T, int D> __device__ __forceinline__ void turn_row(const Rows<T>& batch, int row) {
    constexpr int HALF = D / 2, TURNS = HALF / 32;
    const int lane = threadIdx.x % 8 * 4, turned = batch.heads + batch.kv_heads;
    const float* cosines = batch.table + size_t(batch.positions[row]) * D;
    const uint32_t slot = batch.slots[row];
    float4 c[TURNS], s[TURNS];
#pragma unroll
    for (int j = 0; j < TURNS; ++j) {
        c[j] = load4(cosines + lane + 32 * j);
        s[j] = load4(cosines + HALF + lane + 32 * j);
    }
    // Whole warps go on together: their lanes sum up together.
    for (int first = threadIdx.x / 32 * 4; first < turned; first += blockDim.x / 8) {
        const int own = first + threadIdx.x % 32 / 8, head = min(own, turned - 1);
        T* x = batch.qkv + (size_t(row) * (turned + batch.kv_heads) + head) * D;
        const bool is_key = head >= batch.heads;
        const float* weight = is_key ? batch.k_weight : batch.q_weight;
        float4 low[TURNS], high[TURNS], squares = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int j = 0; j < TURNS; ++j) {
            const float4 a = low[j] = load4(x + lane + 32 * j), b = high[j] = load4(x + HALF + lane + 32 * j);
            squares.x += squares_of(a.x, b.x);
            squares.y += squares_of(a.y, b.y);
            squares.z += squares_of(a.z, b.z);
            squares.w += squares_of(a.w, b.w);
        }
        const float scale = weight ? rsqrtf(head_sum(squares) / D + batch.eps) : 1.f;
        if (own >= turned) continue;
        T* key = batch.keys + ((size_t(slot / BLOCK) * batch.kv_heads + head - batch.heads) * BLOCK + slot % BLOCK) * D;
#pragma unroll
        for (int j = 0; j < TURNS; ++j) {
            const int i = lane + 32 * j;
            if (weight) {
                low[j] = as_stored<T>(normed(low[j], scale, load4(weight + i)));
                high[j] = as_stored<T>(normed(high[j], scale, load4(weight + HALF + i)));
            }
            const float4 a = turned_low(low[j], high[j], c[j], s[j]), b = turned_high(low[j], high[j], c[j], s[j]);
            store4(x + i, a);
            store4(x + HALF + i, b);
            if (!is_key) continue;
            store4(key + i, a);
            store4(key + HALF + i, b);
        }
    }
}

// Values of one head of VALUE_ROWS rows: of a cache block, the tokens of an element lie side by side.
template <typename T, int D> __device__ __forceinline__ void turn_values(const Rows<T>& batch, int tile, int head) {
    __shared__ T shared[VALUE_ROWS][D + 8];
    __shared__ uint32_t slots[VALUE_ROWS];
    const int first = tile * VALUE_ROWS, rows = min(VALUE_ROWS, batch.rows - first);
    const int width = (batch.heads + 2 * batch.kv_heads) * D;
    const T* from = batch.qkv + size_t(first) * width + (batch.heads + batch.kv_heads + head) * D;
    for (int i = threadIdx.x; i < rows * (D / 8); i += blockDim.x) {
        const int row = i / (D / 8), chunk = i % (D / 8) * 8;
        *reinterpret_cast<uint4*>(&shared[row][chunk]) = *reinterpret_cast<const uint4*>(from + size_t(row) * width + chunk);
    }
    for (int i = threadIdx.x; i < rows; i += blockDim.x) slots[i] = batch.slots[first + i];
    __syncthreads();
    for (int row = 0; row < rows;) {
        const uint32_t slot = slots[row];
        T* to = batch.values + (size_t(slot / BLOCK) * batch.kv_heads + head) * BLOCK * D + slot % BLOCK;
        // Eight neighbours are written at once.
        bool eight = slot % 8 == 0 && row + 8 <= rows;
        for (int i = 1; eight && i < 8; ++i) eight = slots[row + i] == slot + i;
        for (int d = threadIdx.x; d < D; d += blockDim.x) {
            if (eight) {
                alignas(16) T tokens[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) tokens[i] = shared[row + i][d];
                *reinterpret_cast<uint4*>(to + d * BLOCK) = *reinterpret_cast<const uint4*>(tokens);
            } else {
                to[d * BLOCK] = shared[row][d];
            }
        }
        row += eight ? 8 : 1;
    }
}

// Grid: first the tiles of values, head by head, then the rows.
template <typename T, int D> __device__ __forceinline__ void rope_rows_body(const Rows<T>& batch) {
    begin();
    const int tiles = (batch.rows + VALUE_ROWS - 1) / VALUE_ROWS * batch.kv_heads, index = blockIdx.x;
    if (index < tiles) turn_values<T, D>(batch, index / batch.kv_heads, index % batch.kv_heads);
    else turn_row<T, D>(batch, index - tiles);
}

#define DEFINE(T, D)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) rope_rows_##D##_##T(                                             \
        T* qkv, T* keys, T* values, const float* q_weight, const float* k_weight, float eps, const float* table,       \
        const uint32_t* positions, const uint32_t* slots, int rows, int heads, int kv_heads) {                         \
        rope_rows_body<T, D>(                                                                                          \
            Rows<T>{qkv, keys, values, q_weight, k_weight, eps, table, positions, slots, rows, heads, kv_heads});      \
    }
DEFINE(f16, 64) DEFINE(f16, 128) DEFINE(bf16, 64) DEFINE(bf16, 128)
#undef DEFINE
