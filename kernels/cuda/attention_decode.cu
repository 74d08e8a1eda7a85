// Attention over the paged cache for sequences with one query row. Warps copy blocks of the cache into rings of shared
// memory, all but the newest before the predecessor has ended.
#include "attention_mma.cuh"
#include "rope.cuh"

constexpr int WARPS = 4;

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
#pragma unroll
    for (int c = 0; c < D / 32; ++c)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint4 k = block.key(4 * (g / 2) + g % 2 + 2 * j, c * 32 + t * 8);
            mma_anywhere<T>(score[j], query[2 * c], k.x, k.y);
            mma_anywhere<T>(score[j], query[2 * c + 1], k.z, k.w);
        }
    weigh<D>(score, seen, scale, state, keep);
    const uint2 mask = mask_behind(seen.end);
    const uint32_t p[4] = {pack2<T>(score[0][0], score[0][1]), pack2<T>(score[0][2], score[0][3]),
                           pack2<T>(score[1][0], score[1][1]), pack2<T>(score[1][2], score[1][3])};
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
        const uint2 v = block.value(8 * d + g, 4 * t);
        decay<D>(state, d, keep);
        mma_anywhere<T>(state.mixed[d], p, v.x & mask.x, v.y & mask.y);
    }
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
template <typename T, int D> struct Fresh {
    static constexpr int STRIDE = D + 8;   // rows begin in different banks
    T* rows;
    int group;

    __device__ __forceinline__ T* query(int line) const { return line < group ? rows + line * STRIDE : nullptr; }
    __device__ __forceinline__ T* key() const { return rows + group * STRIDE; }

    // Norm and rotation of the queries and, of the block that `has_newest`, of the key; a warp a head. Awaits the
    // predecessor.
    __device__ __forceinline__ void make(
        const T* qkv, const Rotary& rotary, const Shape& shape, int row, int head, bool has_newest, T* keys, T* values) const {
        constexpr int MOST = D / 64, HALF = D / 2;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const float* cosines = rotary.table + size_t(rotary.positions[row]) * D;
        const Slot slot = slot_of(rotary.slots[row], shape.kv_heads, head, D, BLOCK);
        float cosine[MOST], sine[MOST], weights[2][2 * MOST];
#pragma unroll
        for (int j = 0; j < MOST; ++j) {
            cosine[j] = cosines[lane + 32 * j], sine[j] = cosines[HALF + lane + 32 * j];
#pragma unroll
            for (int high = 0; high < 2; ++high) {
                weights[0][2 * j + high] = rotary.q_weight ? rotary.q_weight[lane + 32 * j + high * HALF] : 0.f;
                weights[1][2 * j + high] = rotary.k_weight ? rotary.k_weight[lane + 32 * j + high * HALF] : 0.f;
            }
        }
        await_predecessor();
        const T* own = qkv + size_t(row) * (shape.heads + 2 * shape.kv_heads) * D;
        const int items = group + 2 * has_newest;
        auto load = [&](int item) {   // of heads that there are none of, any
            const int last = item == group ? shape.heads + head : shape.heads + shape.kv_heads + head;
            return Head<T, MOST>(own + (item < group ? head * group + item : last) * D, HALF);
        };
        auto finish = [&](Head<T, MOST>& x, int item) {
            if (item >= items) return;
            const bool is_key = item == group, is_value = item > group;
            if (rotary.q_weight && !is_value)
                x.normalise(
                    [&](int j, bool high) { return is_key ? weights[1][2 * j + high] : weights[0][2 * j + high]; },
                    rotary.eps, HALF);
            T* to = is_value ? key() + D : rows + item * STRIDE;
#pragma unroll
            for (int j = 0; j < MOST; ++j) {
                const int i = lane + 32 * j;
                const float a = x.low[j], b = x.high[j];
                const T first = from_float<T>(is_value ? a : turned_low(a, b, cosine[j], sine[j]));
                const T second = from_float<T>(is_value ? b : turned_high(a, b, cosine[j], sine[j]));
                to[i] = first, to[i + HALF] = second;
                if (is_key) keys[slot.key + i] = first, keys[slot.key + i + HALF] = second;
                if (is_value) values[slot.value + i * BLOCK] = first, values[slot.value + (i + HALF) * BLOCK] = second;
            }
        };
        for (int item = warp; item < items; item += 2 * WARPS) {   // two on their way at once
            Head<T, MOST> x = load(item), other = load(item + WARPS);
            finish(x, item);
            finish(other, item + WARPS);
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

// Whether the splits of a sequence's key head are a cluster (compute capability 9.0).
__device__ __forceinline__ bool in_cluster() {
    unsigned blocks = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
#endif
    return blocks > 1;
}

__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The place in the shared memory of the cluster's first block that `p` has in this one.
__device__ __forceinline__ float* of_first(float* p) {
    uint64_t at = reinterpret_cast<uint64_t>(p);
#if __CUDA_ARCH__ >= 900
    asm("mapa.u64 %0, %0, 0;" : "+l"(at));
#endif
    return reinterpret_cast<float*>(at);
}

// Brings together what the splits have: of each (group, D) mixed values, then (group) maxima, then (group) sums.
template <typename T, int D, typename Part>
__device__ __forceinline__ void join(Part part, int splits, int group, T* to) {
    const int stride = group * (D + 2);
    for (int i = threadIdx.x; i < group * D; i += blockDim.x) {
        const int line = i / D;
        float all = -INFINITY, value = 0.f, sum = 0.f;
        for (int s = 0; s < splits; ++s) all = fmaxf(all, part(s * stride + group * D + line));
        for (int s = 0; s < splits; ++s) {
            const float weight = exp2f(part(s * stride + group * D + line) - all);
            value += part(s * stride + i) * weight;
            sum += part(s * stride + group * (D + 1) + line) * weight;
        }
        to[i] = from_float<T>(value / sum);
    }
}

// Which part of the work a block has.
struct Part {
    int seq, head, group, split, splits;
    uint32_t row;
};

// What its warps have, in shared memory.
struct Results {
    float (&maxima)[WARPS][16], (&sums)[WARPS][16];
    float* mixed;   // (WARPS, group, D), and room for (splits, group, D + 2)
    bool& last;
};

// Brings together what a block's warps have, and what its splits have: in the first one's shared memory, or in memory by
// the last to arrive.
template <typename T, int D>
__device__ __forceinline__ void finish(
    const Results& results, const Part& part, const Shape& shape, float* partial, uint32_t* arrived, T* out) {
    const auto& [maxima, sums, mixed, last] = results;
    const auto& [seq, head, group, split, splits, row] = part;
    const int stride = group * (D + 2);
    const size_t place = size_t(seq) * shape.kv_heads + head;
    const bool close = in_cluster();
    float* parts = close ? mixed + WARPS * group * D : partial + place * splits * stride;
    float* mine = (close ? of_first(parts) : parts) + split * stride;
    T* to = out + (size_t(row) * shape.heads + head * group) * D;
    if (close) cluster_sync();   // the first one's ring is no longer in use
    for (int i = threadIdx.x; i < group * D; i += WARPS * 32) {
        const int line = i / D;
        float all = -INFINITY, value = 0.f, sum = 0.f;
        for (int w = 0; w < WARPS; ++w) all = fmaxf(all, maxima[w][line]);
        for (int w = 0; w < WARPS; ++w) {
            const float weight = all == -INFINITY ? 0.f : exp2f(maxima[w][line] - all);
            value += mixed[(w * group) * D + i] * weight;
            sum += sums[w][line] * weight;
        }
        if (splits == 1) {
            to[i] = from_float<T>(value / sum);
        } else {
            mine[i] = value;
            if (i % D == 0) mine[group * D + line] = all, mine[group * (D + 1) + line] = sum;
        }
    }
    if (splits == 1) return;
    if (close) {
        cluster_sync();
        if (split == 0) join<T, D>([&](int at) { return parts[at]; }, splits, group, to);
        return;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(arrived + place, splits - 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    join<T, D>([&](int at) { return __ldcg(parts + at); }, splits, group, to);
}

// Sequences with one query row: grid (splits, kv heads, sequences), up to 16 query heads a key head. The warps and the
// splits share out a sequence's blocks; the last split to finish brings all together. `partial` holds for each
// sequence, key head and split (heads, D) mixed values, then (heads) maxima, then (heads) sums; `arrived` zeros. With FRESH
// `qkv` is a projection whose queries and keys have neither norm nor rotation, and the newest token is not yet in the
// cache; behind the rings there is room for what is made of it.
template <typename T, int D, int STAGES, bool FRESH>
__device__ void decode_body(
    const T* qkv, T* keys, T* values, Batch batch, Shape shape, Rotary rotary, float* partial, uint32_t* arrived, T* out) {
    const int group = shape.heads / shape.kv_heads;
    __shared__ float maxima[WARPS][16], sums[WARPS][16];
    extern __shared__ __align__(128) uint4 rings[];   // (WARPS, STAGES) blocks, later:
    float* mixed = reinterpret_cast<float*>(rings);   // (WARPS, group, D)
    __shared__ bool last;
    release_successor();
    const int seq = blockIdx.z, head = blockIdx.y, splits = gridDim.x, split = blockIdx.x;
    const uint32_t row = batch.cu_seqlens[seq];
    if (batch.cu_seqlens[seq + 1] - row != 1) return await_predecessor();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
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
    const Fresh<T, D> fresh{reinterpret_cast<T*>(rings + WARPS * STAGES * 2 * Copied<T, D>::UNITS), group};
    if constexpr (FRESH) {
        for (; brought < STAGES; ++brought) bring(own_first + brought * WARPS);
        const bool has_newest = begin_block <= newest && newest < end_block;
        fresh.make(qkv, rotary, shape, row, head, has_newest, keys, values);
        load_query<T, D>(fresh.query(g), fresh.query(g + 8), query);
    } else {
        for (; brought < STAGES && own_first + brought * WARPS < newest; ++brought) bring(own_first + brought * WARPS);
        await_predecessor();
        for (; brought < STAGES; ++brought) bring(own_first + brought * WARPS);
        const T* q = qkv + (size_t(row) * (shape.heads + 2 * shape.kv_heads) + head * group) * D;
        load_query<T, D>(g < group ? q + g * D : nullptr, g + 8 < group ? q + (g + 8) * D : nullptr, query);
    }
    State<D> state;
    for (int b = own_first; b < end_block; b += WARPS) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
        if (FRESH && b == newest) fresh.patch(stage(b), (context - 1) % BLOCK);
        const int low = from - b * BLOCK, high = context - b * BLOCK;
        attend_copied<T, D>(query, stage(b), Seen{{low, low}, {high, high}, high}, shape.scale, state);
        __syncwarp();
        bring(b + STAGES * WARPS);
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    finish_sums(state);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int line = g + 8 * r;
        if (line >= group) continue;
        if (t == 0) maxima[warp][line] = state.largest[r], sums[warp][line] = state.sum[r];
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            float* to = mixed + (warp * group + line) * D + 8 * d + 2 * t;
            to[0] = state.mixed[d][2 * r], to[1] = state.mixed[d][2 * r + 1];
        }
    }
    __syncthreads();
    finish<T, D>(
        Results{maxima, sums, mixed, last}, Part{seq, head, group, split, splits, row}, shape, partial, arrived, out);
}

#define DEFINE_DECODE(T, D, STAGES)                                                                                \
    extern "C" __global__ void __launch_bounds__(128, 4) attention_decode_##STAGES##_##D##_##T(                    \
        const T* qkv, T* keys, T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,                \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        float* partial, uint32_t* arrived, T* out) {                                                               \
        decode_body<T, D, STAGES, false>(                                                                          \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, Rotary{}, partial, arrived, out);                               \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 4) attention_fresh_##STAGES##_##D##_##T(                     \
        const T* qkv, T* keys, T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,                \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        const float* q_weight, const float* k_weight, float eps, const float* table, const uint32_t* positions,    \
        const uint32_t* slots, float* partial, uint32_t* arrived, T* out) {                                        \
        decode_body<T, D, STAGES, true>(                                                                           \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, Rotary{q_weight, k_weight, eps, table, positions, slots},       \
            partial, arrived, out);                                                                                \
    }
#define DEFINE(T) DEFINE_DECODE(T, 64, 2) DEFINE_DECODE(T, 64, 3) DEFINE_DECODE(T, 128, 2) DEFINE_DECODE(T, 128, 3)
DEFINE(f16) DEFINE(bf16)
#undef DEFINE
