// Attention over the paged cache for sequences with one query row. Warps copy blocks of the cache into rings of shared
// memory, all but the newest before the predecessor has ended.
#include "attention_join.cuh"
#include "rope.cuh"

// Keys (BLOCK, D) and values (D, BLOCK) of one block in shared memory; the halves of a cache line are swapped in each
// second token, so that the lanes of two tokens read from different banks.
template <typename T, int D> struct Copied {
    static constexpr int UNITS = BLOCK * D / 8;   // of 16 bytes, of keys and as many of values
    uint4* units;

    __device__ __forceinline__ uint4 key(int token, int at) const {
        return units[token * (D / 8) + (at / 8 ^ token % 2 * 4)];
    }
    __device__ __forceinline__ uint2 value(int d, int token) const {
        return reinterpret_cast<const uint2*>(units + UNITS)[(d * BLOCK + token) / 4];
    }
    // Has a warp bring a block.
    __device__ __forceinline__ void bring(const T* keys, const T* values) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = lane; i < UNITS; i += 32) {
            const int token = i / (D / 8);
            copy16(units + (i ^ token % 2 * 4), keys + i * 8);
            copy16(units + UNITS + i, values + i * 8);
        }
    }
    static __device__ __forceinline__ void copy16(uint4* to, const T* from) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from)
                     : "memory");
    }
};

// One block for 16 query rows.
template <typename T, int D>
__device__ __forceinline__ void attend_copied(
    const uint32_t (&query)[D / 16][4], const Copied<T, D>& block, const Seen& seen, float scale, State<D>& state) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float score[2][4] = {}, keep[2];
    float more[2][4] = {};
#pragma unroll
    for (int c = 0; c < D / 32; ++c)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint4 k = block.key(4 * (g / 2) + g % 2 + 2 * j, c * 32 + t * 8);
            mma_anywhere<T>(score[j], query[2 * c], k.x, k.y);
            mma_anywhere<T>(more[j], query[2 * c + 1], k.z, k.w);
        }
#pragma unroll
    for (int i = 0; i < 8; ++i) score[i / 4][i % 4] += more[i / 4][i % 4];
    weigh<D>(score, seen, scale, state, keep);
    if (__any_sync(FULL_WARP, keep[0] != 1.f || keep[1] != 1.f)) {
#pragma unroll
        for (int d = 0; d < D / 8; ++d) decay<D>(state, d, keep);
    }
    const uint32_t p[4] = {pack2<T>(score[0][0], score[0][1]), pack2<T>(score[0][2], score[0][3]),
                           pack2<T>(score[1][0], score[1][1]), pack2<T>(score[1][2], score[1][3])};
    const auto mix = [&](auto masked) {
        const uint2 mask = masked(0xffffffffu);
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            const uint2 v = block.value(8 * d + g, 4 * t);
            mma_anywhere<T>(state.mixed[d], p, v.x & mask.x, v.y & mask.y);
        }
    };
    if (seen.end < BLOCK) mix([&](uint32_t) { return mask_behind(seen.end); });
    else mix([](uint32_t all) { return make_uint2(all, all); });
}

// What makes queries of a projection, and what of it goes into the cache.
struct Rotary {
    const float *q_weight, *k_weight;   // of the norm of heads, none if there is none
    float eps;
    const float* table;
    const uint32_t *positions, *slots;
};

// The new rows of one key head in shared memory: queries (group, D + 8), then the key and the value (D), which the cache
// gets too.
template <typename T, int D, int WARPS> struct Fresh {
    static constexpr int STRIDE = D + 8;   // rows begin in different banks
    T* rows;
    int group;

    __device__ __forceinline__ T* query(int line) const { return line < group ? rows + line * STRIDE : nullptr; }
    __device__ __forceinline__ T* key() const { return rows + group * STRIDE; }

    // Norm and rotation of the queries and, of the block that `has_newest`, of the key; half a warp a head. Awaits the
    // predecessor.
    __device__ __forceinline__ void make(
        const T* qkv, const Rotary& rotary, const Shape& shape, int row, int head, bool has_newest, T* keys, T* values) const {
        constexpr int PAIRS = D / 32, HALF = D / 2;
        const int lane = threadIdx.x % 16;
        const float* cosines = rotary.table + size_t(rotary.positions[row]) * D;
        const Slot slot = slot_of(rotary.slots[row], shape.kv_heads, head, D, BLOCK);
        float cosine[PAIRS], sine[PAIRS], weights[2][2 * PAIRS];
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            const int i = lane + 16 * j;
            cosine[j] = cosines[i], sine[j] = cosines[HALF + i];
#pragma unroll
            for (int high = 0; high < 2; ++high) {
                weights[0][2 * j + high] = rotary.q_weight ? rotary.q_weight[i + high * HALF] : 0.f;
                weights[1][2 * j + high] = rotary.k_weight ? rotary.k_weight[i + high * HALF] : 0.f;
            }
        }
        const T* own = qkv + size_t(row) * (shape.heads + 2 * shape.kv_heads) * D;
        const int items = group + 2 * has_newest;
        await_predecessor();
#pragma unroll 1
        for (int first = 0; first < items; first += 2 * WARPS) {
            const int item = first + threadIdx.x / 16;
            const bool is_key = item == group, is_value = item > group;
            const int last = is_key ? shape.heads + head : shape.heads + shape.kv_heads + head;
            const T* from = own + (item < group ? head * group + item : last) * D + lane;
            float low[PAIRS], high[PAIRS];
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) low[j] = to_float(from[16 * j]), high[j] = to_float(from[16 * j + HALF]);
            const bool normed = !is_value;
            if (rotary.q_weight) {   // as a warp sums a head up
                float squares[PAIRS];
#pragma unroll
                for (int j = 0; j < PAIRS; ++j) squares[j] = squares_of(low[j], high[j]);
                float sum = PAIRS == 2 ? squares[0] + squares[1]
                                       : (squares[0] + squares[PAIRS - 2]) + (squares[1] + squares[PAIRS - 1]);
#pragma unroll
                for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, d);
                const float scale = rsqrtf(sum / D + rotary.eps);
#pragma unroll
                for (int j = 0; j < PAIRS; ++j) {
                    const float by_low = is_key ? weights[1][2 * j] : weights[0][2 * j];
                    const float by_high = is_key ? weights[1][2 * j + 1] : weights[0][2 * j + 1];
                    low[j] = normed ? to_float(from_float<T>(low[j] * scale * by_low)) : low[j];
                    high[j] = normed ? to_float(from_float<T>(high[j] * scale * by_high)) : high[j];
                }
            }
            if (item >= items) continue;
            T* to = is_value ? key() + D : rows + item * STRIDE;
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) {
                const int i = lane + 16 * j;
                const float a = low[j], b = high[j];
                const T first_half = from_float<T>(is_value ? a : turned_low(a, b, cosine[j], sine[j]));
                const T second_half = from_float<T>(is_value ? b : turned_high(a, b, cosine[j], sine[j]));
                to[i] = first_half, to[i + HALF] = second_half;
                if (is_key) keys[slot.key + i] = first_half, keys[slot.key + i + HALF] = second_half;
                if (is_value) values[slot.value + i * BLOCK] = first_half, values[slot.value + (i + HALF) * BLOCK] = second_half;
            }
        }
        __syncthreads();
    }
    // Has a warp put key and value at their place in the copied newest block.
    __device__ __forceinline__ void patch(const Copied<T, D>& block, int token) const {
        const int lane = threadIdx.x % 32;
        const T *new_key = key(), *new_value = new_key + D;
        if (lane < D / 8)
            block.units[token * (D / 8) + (lane ^ token % 2 * 4)] = reinterpret_cast<const uint4*>(new_key)[lane];
        T* column = reinterpret_cast<T*>(block.units + Copied<T, D>::UNITS) + token;
#pragma unroll
        for (int i = lane; i < D; i += 32) column[i * BLOCK] = new_value[i];
        __syncwarp();
    }
};

// Brings together what the splits have in memory, of each (group, D) mixed values, then (group) maxima, then (group) sums.
template <typename T, int D>
__device__ __forceinline__ void join_parts(const float* parts, int splits, int group, T* to) {
    const int stride = group * (D + 2);
#pragma unroll 1
    for (int i = threadIdx.x; i < group * D; i += blockDim.x) {
        const int line = i / D;
        float all = -INFINITY, value = 0.f, sum = 0.f;
#pragma unroll 1
        for (int s = 0; s < splits; ++s) all = fmaxf(all, __ldcg(parts + s * stride + group * D + line));
#pragma unroll 1
        for (int s = 0; s < splits; ++s) {
            const float weight = exp2f(__ldcg(parts + s * stride + group * D + line) - all);
            value += __ldcg(parts + s * stride + i) * weight;
            sum += __ldcg(parts + s * stride + group * (D + 1) + line) * weight;
        }
        to[i] = from_float<T>(value / sum);
    }
}

// Results, and where splits leave theirs that are no cluster.
template <typename T> struct Target {
    float* partial;
    uint32_t* arrived;
    T* out;
};

// Brings together what a block's warps have, and what its splits have: in shared memory, or in memory by the last to
// arrive.
template <typename T, int D, int WARPS>
__device__ __forceinline__ void finish(
    const Joint<D, WARPS>& joint, const State<D>& state, const Part& part, const Shape& shape, const Target<T>& target) {
    const auto& [partial, arrived, out] = target;
    const auto& [seq, head, group, split, splits, row] = part;
    T* to = out + (size_t(row) * shape.heads + head * group) * D;
    const bool close = joint.ranks > 1;
    if (close) cluster_wait();   // all have begun, and have done with what is written over
    joint.give(state);
    if (close) joint.arrivals.wait();
    else __syncthreads();
    const bool whole = close || splits == 1;
    const size_t place = size_t(seq) * shape.kv_heads + head;
    float *parts = partial + place * splits * group * (D + 2), *mine = parts + split * group * (D + 2);
    joint.join([&](int line, int column, float4 value, float largest, float sum) {
        if (whole) {
            const float by = __fdividef(1.f, sum);
            store4(to + line * D + column, make_float4(value.x * by, value.y * by, value.z * by, value.w * by));
            return;
        }
        float* values = mine + line * D + column;   // anywhere
        values[0] = value.x, values[1] = value.y, values[2] = value.z, values[3] = value.w;
        if (column == 0) mine[group * D + line] = largest, mine[group * (D + 1) + line] = sum;
    });
    if (whole) return;
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(arrived + place, splits - 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    join_parts<T, D>(parts, splits, group, to);
}

// Sequences with one query row: grid (splits, kv heads, sequences), up to 16 query heads a key head. The warps and the
// splits share out a sequence's blocks, and join what they have. `partial` holds for each sequence, key head and split, if
// they are no cluster, (heads, D) mixed values, then (heads) maxima, then (heads) sums; `arrived` zeros. With FRESH
// `qkv` is a projection whose queries and keys have neither norm nor rotation, and the newest token is not yet in the
// cache; behind the rings there is room for what is made of it.
template <typename T, int D, int WARPS, int STAGES, bool FRESH>
__device__ void decode_body(
    const T* qkv, T* keys, T* values, const Batch& batch, const Shape& shape, const Rotary& rotary, const Target<T>& target) {
    const int group = shape.heads / shape.kv_heads;
    __shared__ uint64_t barrier;
    extern __shared__ __align__(128) uint4 rings[];   // (WARPS, STAGES) blocks, what is new; what is joined
    release_successor();
    const int seq = blockIdx.z, head = blockIdx.y, splits = gridDim.x, split = blockIdx.x;
    const uint32_t row = batch.cu_seqlens[seq];
    if (batch.cu_seqlens[seq + 1] - row != 1) return await_predecessor();
    // What is joined has a place of its own, or that of the rings.
    constexpr bool OVER = WARPS * STAGES > 4;
    const Part part{seq, head, group, split, splits, row};
    Joint<D, WARPS> joint(part, &barrier);
    if (in_cluster() && threadIdx.x == 0) joint.arrivals.begin(joint.bytes());
    if (in_cluster() && !OVER) cluster_arrive();
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    const int context = batch.context_lens[seq], from = shape.window > 0 ? max(0, context - shape.window) : 0;
    const int first = from / BLOCK, count = (context + BLOCK - 1) / BLOCK - first;
    const int share = (count + splits - 1) / splits;
    const int begin_block = first + split * share, end_block = min(begin_block + share, first + count);
    auto stage = [&](int b) {
        const int own = (b - begin_block - warp) / WARPS % STAGES;
        return Copied<T, D>{rings + (warp * STAGES + own) * 2 * Copied<T, D>::UNITS};
    };
    auto bring = [&](int b) {
        if (b < end_block) {
            const size_t at = (size_t(batch.tables[size_t(seq) * batch.max_blocks + b]) * shape.kv_heads + head) * BLOCK * D;
            stage(b).bring(keys + at, values + at);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    // Only the last block is written by this step, with FRESH by this block; the others, and the indices, were there before.
    const int own_first = begin_block + warp, newest = first + count - 1;
    uint32_t query[D / 16][4];
    int brought = 0;
    const Fresh<T, D, WARPS> fresh{reinterpret_cast<T*>(rings + WARPS * STAGES * 2 * Copied<T, D>::UNITS), group};
    if constexpr (FRESH) {
#pragma unroll 1
        for (; brought < STAGES; ++brought) bring(own_first + brought * WARPS);
        fresh.make(qkv, rotary, shape, row, head, begin_block <= newest && newest < end_block, keys, values);
        load_query<T, D>(fresh.query(g), fresh.query(g + 8), query);
    } else {
#pragma unroll 1
        for (; brought < STAGES && own_first + brought * WARPS < newest; ++brought) bring(own_first + brought * WARPS);
        await_predecessor();
#pragma unroll 1
        for (; brought < STAGES; ++brought) bring(own_first + brought * WARPS);
        const T* q = qkv + (size_t(row) * (shape.heads + 2 * shape.kv_heads) + head * group) * D;
        load_query<T, D>(g < group ? q + g * D : nullptr, g + 8 < group ? q + (g + 8) * D : nullptr, query);
    }
    State<D> state;
#pragma unroll 1
    for (int b = own_first; b < end_block; b += WARPS) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
        if (FRESH && b == newest) fresh.patch(stage(b), (context - 1) % BLOCK);
        const int low = from - b * BLOCK, high = context - b * BLOCK;
        attend_copied<T, D>(query, stage(b), Seen{{low, low}, {high, high}, high}, shape.scale, state);
        __syncwarp();
        bring(b + STAGES * WARPS);
    }
    const bool over = OVER || !in_cluster();
    if (in_cluster() && OVER) cluster_arrive();
    finish_sums(state);
    if (!in_cluster()) __syncthreads();
    float* const ring = reinterpret_cast<float*>(rings);
    float* const behind = reinterpret_cast<float*>(FRESH ? fresh.key() + 2 * D : fresh.rows);
    joint.place(over ? ring : behind, over ? nullptr : ring + warp * 8 * Copied<T, D>::UNITS);
    finish<T, D, WARPS>(joint, state, part, shape, target);
}

#define DEFINE_DECODE(T, D, WARPS, STAGES)                                                                         \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 16 / WARPS)                                           \
    attention_decode_##WARPS##_##STAGES##_##D##_##T(                                                               \
        const T* qkv, T* keys, T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,                \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        float* partial, uint32_t* arrived, T* out) {                                                               \
        decode_body<T, D, WARPS, STAGES, false>(                                                                   \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, Rotary{}, Target<T>{partial, arrived, out});                    \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 16 / WARPS)                                           \
    attention_fresh_##WARPS##_##STAGES##_##D##_##T(                                                                \
        const T* qkv, T* keys, T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,                \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        const float* q_weight, const float* k_weight, float eps, const float* table, const uint32_t* positions,    \
        const uint32_t* slots, float* partial, uint32_t* arrived, T* out) {                                        \
        decode_body<T, D, WARPS, STAGES, true>(                                                                    \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, Rotary{q_weight, k_weight, eps, table, positions, slots},       \
            Target<T>{partial, arrived, out});                                                                     \
    }
#define DEFINE_ALL(T, D)                                                                                           \
    DEFINE_DECODE(T, D, 4, 1) DEFINE_DECODE(T, D, 4, 2) DEFINE_DECODE(T, D, 8, 1) DEFINE_DECODE(T, D, 8, 2)
DEFINE_ALL(f16, 64) DEFINE_ALL(f16, 128) DEFINE_ALL(bf16, 64) DEFINE_ALL(bf16, 128)
#undef DEFINE_ALL
#undef DEFINE_DECODE
