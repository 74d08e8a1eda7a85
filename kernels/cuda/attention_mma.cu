// Attention over the paged cache on tensor cores: 16-bit elements, blocks of 16 tokens, heads of 64 or 128.
//
// The query heads that share a key head are rows of one product. Of keys, a lane takes 16 bytes of a token (both sides
// of the product are permuted alike), of values four neighbouring tokens, which are just those whose probabilities it
// holds: straight from the cache, or from a ring in shared memory that copies fill.
#include "mma.cuh"

constexpr int BLOCK = 16;   // tokens

struct Batch {
    const uint32_t *cu_seqlens, *context_lens, *tables;
    int max_blocks, num_seqs;
};

struct Shape {
    int heads, kv_heads;
    float scale;   // times log2(e)
    int window;    // 0 sees everything
};

// Of 16 rows: the running maximum, the sum of probabilities and the mixed values. Row g and row g + 8 of lane
// 4 g + t.
template <int D> struct State {
    float largest[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.f, 0.f};
    float mixed[D / 8][4] = {};
};

// Keys (BLOCK, D) and values (D, BLOCK) of one block in the cache.
template <typename T, int D> struct Cached {
    static constexpr bool CLOSE = false;
    const T *keys, *values;

    __device__ __forceinline__ uint4 key(int token, int at) const {
        return *reinterpret_cast<const uint4*>(keys + token * D + at);
    }
    __device__ __forceinline__ uint2 value(int d, int token) const {
        return *reinterpret_cast<const uint2*>(values + d * BLOCK + token);
    }
};

// The same in shared memory; the halves of a cache line are swapped in each second token, so that the lanes of two tokens
// read from different banks.
template <typename T, int D> struct Copied {
    static constexpr bool CLOSE = true;
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

// One block of keys and values for 16 query rows. `low` and `high` are the first and the last token + 1 that a row may
// see, `end` is the last + 1 that any row of the warp may see, all in this block's own numbering.
template <typename T, int D, typename Source>
__device__ __forceinline__ void attend_block(
    const uint32_t (&query)[D / 16][4], const Source& source, const int (&low)[2], const int (&high)[2], int end,
    float scale, State<D>& state) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Column g of tile j is this token, so that a lane's scores are of tokens 4 t to 4 t + 3.
    auto key = [&](int j, int c) { return source.key(4 * (g / 2) + g % 2 + 2 * j, c * 32 + t * 8); };
    uint4 k[2][D / 32];
    uint2 v[D / 8];
    if (!Source::CLOSE) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int c = 0; c < D / 32; ++c) k[j][c] = key(j, c);
#pragma unroll
        for (int d = 0; d < D / 8; ++d) v[d] = source.value(8 * d + g, 4 * t);
    }
    float score[2][4] = {};
#pragma unroll
    for (int c = 0; c < D / 32; ++c)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint4 own = Source::CLOSE ? key(j, c) : k[j][c];
            mma<T>(score[j], query[2 * c], own.x, own.y);
            mma<T>(score[j], query[2 * c + 1], own.z, own.w);
        }
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float largest = state.largest[r];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = 4 * t + i;
            float& s = score[i / 2][2 * r + i % 2];
            s = token >= low[r] && token < high[r] ? s * scale : -INFINITY;
            largest = fmaxf(largest, s);
        }
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        // Nothing seen yet: any finite number does.
        const float base = largest == -INFINITY ? 0.f : largest;
        keep[r] = exp2f(state.largest[r] - base);
        state.largest[r] = largest;
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float& s = score[i / 2][2 * r + i % 2];
            s = exp2f(s - base);
            sum += s;
        }
        state.sum[r] = state.sum[r] * keep[r] + sum;
    }
    // What lies behind the last token was never written, or by another sequence: it may be no number.
    const uint32_t first = (4 * t < end ? 0xffffu : 0u) | (4 * t + 1 < end ? 0xffff0000u : 0u);
    const uint32_t second = (4 * t + 2 < end ? 0xffffu : 0u) | (4 * t + 3 < end ? 0xffff0000u : 0u);
    const uint32_t p[4] = {pack2<T>(score[0][0], score[0][1]), pack2<T>(score[0][2], score[0][3]),
                           pack2<T>(score[1][0], score[1][1]), pack2<T>(score[1][2], score[1][3])};
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
        const uint2 own = Source::CLOSE ? source.value(8 * d + g, 4 * t) : v[d];
        state.mixed[d][0] *= keep[0];
        state.mixed[d][1] *= keep[0];
        state.mixed[d][2] *= keep[1];
        state.mixed[d][3] *= keep[1];
        mma<T>(state.mixed[d], p, own.x & first, own.y & second);
    }
}

// The lanes of a row each summed four tokens of a block.
template <int D> __device__ __forceinline__ void finish_sums(State<D>& state) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        state.sum[r] += __shfl_xor_sync(FULL_WARP, state.sum[r], 1);
        state.sum[r] += __shfl_xor_sync(FULL_WARP, state.sum[r], 2);
    }
}

// A row's query as a lane of the product needs it; nothing where there is no row.
template <typename T, int D>
__device__ __forceinline__ void load_query(const T* low, const T* high, uint32_t (&query)[D / 16][4]) {
    const int t = threadIdx.x % 4;
    const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int c = 0; c < D / 32; ++c) {
        const uint4 a = low ? *reinterpret_cast<const uint4*>(low + c * 32 + t * 8) : zero;
        const uint4 b = high ? *reinterpret_cast<const uint4*>(high + c * 32 + t * 8) : zero;
        query[2 * c][0] = a.x, query[2 * c][1] = b.x, query[2 * c][2] = a.y, query[2 * c][3] = b.y;
        query[2 * c + 1][0] = a.z, query[2 * c + 1][1] = b.z, query[2 * c + 1][2] = a.w, query[2 * c + 1][3] = b.w;
    }
}

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

// Sequences with one query row: grid (splits, kv heads, sequences), up to 16 query heads a key head. The warps and the
// splits share out a sequence's blocks; the last split to finish brings all together. `partial` holds for each
// sequence, key head and split (heads, D) mixed values, then (heads) maxima, then (heads) sums; `arrived` zeros.
template <typename T, int D, int STAGES>
__device__ void decode_body(
    const T* qkv, const T* keys, const T* values, Batch batch, Shape shape, float* partial, uint32_t* arrived, T* out) {
    constexpr int WARPS = 4;
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
    // Only the last block is written by this step; the others, and the indices, were there before it.
    const int own_first = begin_block + warp, newest = first + count - 1;
    int brought = 0;
    for (; brought < STAGES && own_first + brought * WARPS < newest; ++brought) bring(own_first + brought * WARPS);
    await_predecessor();
    for (; brought < STAGES; ++brought) bring(own_first + brought * WARPS);
    const T* q = qkv + (size_t(row) * (shape.heads + 2 * shape.kv_heads) + head * group) * D;
    uint32_t query[D / 16][4];
    load_query<T, D>(g < group ? q + g * D : nullptr, g + 8 < group ? q + (g + 8) * D : nullptr, query);
    State<D> state;
    for (int b = own_first; b < end_block; b += WARPS) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
        const int low[2] = {from - b * BLOCK, from - b * BLOCK}, high[2] = {context - b * BLOCK, context - b * BLOCK};
        attend_block<T, D>(query, stage(b), low, high, high[0], shape.scale, state);
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
    const int stride = group * (D + 2);
    const size_t place = size_t(seq) * shape.kv_heads + head;
    // What the splits have is brought together in the first one's shared memory, or in memory.
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

// Sequences with several query rows (all of them with `singles`): grid (tiles, kv heads). A tile is 64 rows, position
// by position the query heads of one key head; a warp has 16 of them.
template <typename T, int D>
__device__ void prefill_body(
    const T* qkv, const T* keys, const T* values, Batch batch, Shape shape, int singles, T* out) {
    begin();
    const int group = shape.heads / shape.kv_heads, head = blockIdx.y;
    int seq = 0, tile = blockIdx.x, rows = 0;
    for (;; ++seq) {
        if (seq == batch.num_seqs) return;
        rows = batch.cu_seqlens[seq + 1] - batch.cu_seqlens[seq];
        const int tiles = rows == 1 && !singles ? 0 : (rows * group + 63) / 64;
        if (tile < tiles) {
            tile = tiles - 1 - tile;   // the longest first
            break;
        }
        tile -= tiles;
    }
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first_line = tile * 64 + warp * 16, lines = rows * group;
    if (first_line >= lines) return;
    const int context = batch.context_lens[seq], start = context - rows;
    const T* first_row = qkv + size_t(batch.cu_seqlens[seq]) * (shape.heads + 2 * shape.kv_heads) * D;
    const T* q[2];
    T* to[2];
    int position[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int line = first_line + g + 8 * r, row = min(line, lines - 1) / group, own = head * group + line % group;
        position[r] = start + row;
        q[r] = line < lines ? first_row + (size_t(row) * (shape.heads + 2 * shape.kv_heads) + own) * D : nullptr;
        to[r] = line < lines ? out + ((size_t(batch.cu_seqlens[seq]) + row) * shape.heads + own) * D : nullptr;
    }
    uint32_t query[D / 16][4];
    load_query<T, D>(q[0], q[1], query);
    const int top = start + min(first_line + 15, lines - 1) / group;   // the warp's last position
    const int bottom = start + first_line / group;
    const int from = shape.window > 0 ? max(0, bottom + 1 - shape.window) : 0;
    const uint32_t* table = batch.tables + size_t(seq) * batch.max_blocks;
    State<D> state;
    for (int b = from / BLOCK; b <= top / BLOCK; ++b) {
        const size_t at = (size_t(table[b]) * shape.kv_heads + head) * BLOCK * D;
        int low[2], high[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            low[r] = shape.window > 0 ? position[r] + 1 - shape.window - b * BLOCK : 0;
            high[r] = position[r] + 1 - b * BLOCK;
        }
        const int end = top + 1 - b * BLOCK;
        attend_block<T, D>(query, Cached<T, D>{keys + at, values + at}, low, high, end, shape.scale, state);
    }
    finish_sums(state);
#pragma unroll
    for (int r = 0; r < 2; ++r)
        if (to[r])
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<uint32_t*>(to[r] + 8 * d + 2 * t) =
                    pack2<T>(state.mixed[d][2 * r] / state.sum[r], state.mixed[d][2 * r + 1] / state.sum[r]);
}

#define DEFINE_DECODE(T, D, STAGES)                                                                                \
    extern "C" __global__ void __launch_bounds__(128, 4) attention_decode_##STAGES##_##D##_##T(                    \
        const T* qkv, const T* keys, const T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,    \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        float* partial, uint32_t* arrived, T* out) {                                                               \
        decode_body<T, D, STAGES>(                                                                                 \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, partial, arrived, out);                                         \
    }
#define DEFINE(T, D)                                                                                               \
    DEFINE_DECODE(T, D, 2) DEFINE_DECODE(T, D, 3)                                                                  \
    extern "C" __global__ void __launch_bounds__(128) attention_prefill_##D##_##T(                                 \
        const T* qkv, const T* keys, const T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,    \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,    \
        int singles, T* out) {                                                                                     \
        prefill_body<T, D>(                                                                                        \
            qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                      \
            Shape{heads, kv_heads, scale, window}, singles, out);                                                  \
    }
DEFINE(f16, 64) DEFINE(f16, 128) DEFINE(bf16, 64) DEFINE(bf16, 128)
#undef DEFINE
