// Attention over the paged cache for sequences with several query rows, on Hopper's products of four warps.
//
// A block has 128 lines of one sequence: position by position the query heads of one key head. Two groups of four warps
// have 64 lines each; four more warps bring keys and values, N tokens at a time, into two rings in shared memory. While a
// group turns the scores of a tile into probabilities, the tensor cores mix the values of the tile before.
#include "attention_mma.cuh"
#include "wgmma.cuh"

template <int D_, int N_, int STAGES_> struct Tiles {
    static constexpr int D = D_, N = N_, STAGES = STAGES_, GROUPS = 2;
    static constexpr int LINES = GROUPS * 64, CONSUMERS = GROUPS * 128, THREADS = CONSUMERS + 128;
    static constexpr int QUERY_BYTES = LINES * D * 2, TILE_BYTES = N * D * 2;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A block's part of the batch; without rows there is nothing to do.
struct Place {
    int seq, tile, rows;
};

// Tile number `index` of all sequences. All lanes ask.
__device__ __forceinline__ Place find_place(const Batch& batch, int group, int lines, int singles, int index) {
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < batch.num_seqs; base += 32) {
        const int seq = base + lane;
        const int rows = seq < batch.num_seqs ? int(batch.cu_seqlens[seq + 1] - batch.cu_seqlens[seq]) : 0;
        const int tiles = rows == 1 && !singles ? 0 : (rows * group + lines - 1) / lines;
        int upto = tiles;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const int before = __shfl_up_sync(FULL_WARP, upto, d);
            if (lane >= d) upto += before;
        }
        const unsigned hit = __ballot_sync(FULL_WARP, index < upto);
        if (hit) {
            const int from = __ffs(hit) - 1;
            upto = __shfl_sync(FULL_WARP, upto, from);
            // The longest first.
            return {base + from, upto - 1 - index, __shfl_sync(FULL_WARP, rows, from)};
        }
        index -= __shfl_sync(FULL_WARP, upto, 31);
    }
    return {0, 0, 0};
}

// Addresses in shared memory.
struct Rings {
    uint32_t keys, values, full_keys, full_values, empty_keys, empty_values;
};

template <typename C> __device__ __forceinline__ Rings rings_at(uint32_t shared) {
    const uint32_t keys = shared + C::QUERY_BYTES, values = keys + C::STAGES * C::TILE_BYTES;
    const uint32_t barriers = values + C::STAGES * C::TILE_BYTES, step = C::STAGES * 8;
    return {keys, values, barriers, barriers + step, barriers + 2 * step, barriers + 3 * step};
}

// Keys and values of tokens `first` (of a tile) up to `end`, by four warps. Of keys, rows of 128 bytes (two halves where D
// is 128), of values blocks of D rows of 16 tokens, both swizzled as the products want them.
template <typename T, typename C>
__device__ __forceinline__ void bring(
    const T* keys, const T* values, const uint32_t* table, size_t block_stride, int first, int end, const Rings& rings) {
    constexpr int D = C::D, BLOCKS = C::N / BLOCK, CHUNKS = D / 8, ROWS = 32 / CHUNKS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, row = lane / CHUNKS, chunk = lane % CHUNKS;
    const int blocks = (end + BLOCK - 1) / BLOCK, tiles = (end - first + C::N - 1) / C::N;
    const uint32_t key_at = rings.keys + (chunk / 8) * C::N * 128 + row * 128;
    const uint32_t value_at = rings.values + (lane / 2) * 32 + (((lane % 2) ^ ((lane >> 3) & 1)) * 16);
    uint32_t numbers = 0;   // of 32 blocks of the cache, one a lane
    for (int j = 0, stage = 0, phase = 1; j < tiles; ++j) {
        const int block = first / BLOCK + j * BLOCKS, at = (j * BLOCKS) % 32;
        if (at == 0) numbers = block + lane < blocks ? table[block + lane] : 0;
        barrier_wait(rings.empty_keys + 8 * stage, phase);
#pragma unroll
        for (int b = warp; b < BLOCKS; b += 4) {
            const T* from = keys + size_t(__shfl_sync(FULL_WARP, numbers, at + b)) * block_stride + lane * 8;
#pragma unroll
            for (int i = 0; i < BLOCK / ROWS; ++i)
                copy16(key_at + stage * C::TILE_BYTES + (b * BLOCK + i * ROWS) * 128 +
                           (((chunk % 8) ^ ((i * ROWS + row) % 8)) * 16),
                       from + i * 256, block + b < blocks ? 16 : 0);
        }
        barrier_arrive_behind_copies(rings.full_keys + 8 * stage);
        barrier_wait(rings.empty_values + 8 * stage, phase);
#pragma unroll
        for (int b = warp; b < BLOCKS; b += 4) {
            const T* from = values + size_t(__shfl_sync(FULL_WARP, numbers, at + b)) * block_stride + lane * 8;
            // Behind the last token lies what was never written, or by another sequence: it may be no number.
            const int count = 2 * min(max(end - ((block + b) * BLOCK + lane % 2 * 8), 0), 8);
#pragma unroll
            for (int i = 0; i < D / 16; ++i)
                copy16(value_at + stage * C::TILE_BYTES + b * D * 32 + i * 512, from + i * 256, count);
        }
        barrier_arrive_behind_copies(rings.full_values + 8 * stage);
        if (++stage == C::STAGES) stage = 0, phase ^= 1;
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 64 lines of D elements, swizzled as the products want them: where the 16 bytes of a chunk lie.
__device__ __forceinline__ uint32_t chunk_at(int line, int chunk) {
    return (chunk / 8) * 64 * 128 + line * 128 + ((chunk % 8) ^ (line % 8)) * 16;
}

// A group of four warps at its 64 lines. A warp has 16 of them, a lane what `mma` gives it of rows g and g + 8.
template <typename T, typename C> struct Group {
    static constexpr int D = C::D, N = C::N;
    Rings rings;
    uint32_t query;                       // in shared memory
    float scale;
    int window, first, tiles;             // of tokens
    int position[2], lowest, highest;     // of rows g and g + 8, and of all of the group's lines
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, keep[2];
    float mixed[D / 2] = {}, score[N / 2];
    uint32_t p[N / 4];

    __device__ __forceinline__ void start_scores(int stage) {
        const uint64_t a = operand<Swizzle::OF_128>(query), b = operand<Swizzle::OF_128>(rings.keys + stage * C::TILE_BYTES);
        products_begin();
#pragma unroll
        for (int k = 0; k < D / 16; ++k)   // 32 bytes a step, and from one half to the next
            product<T>(score, a + ((k / 4) * 64 * 128 + k % 4 * 32) / 16, b + ((k / 4) * N * 128 + k % 4 * 32) / 16, k > 0);
        products_commit();
    }

    __device__ __forceinline__ void start_mixing(int stage) {
        const uint64_t b = operand<Swizzle::OF_32>(rings.values + stage * C::TILE_BYTES);
        products_begin();
#pragma unroll
        for (int k = 0; k < N / 16; ++k) product_add<T>(mixed, p + 4 * k, b + k * D * 32 / 16);
        products_commit();
    }

    // What no row may see scores nothing. Only tiles at the edges of what the rows see have such tokens.
    __device__ __forceinline__ void mask(int tile) {
        const int token = first + tile * N, t = threadIdx.x % 4;
        if (token + N <= lowest + 1 && (window == 0 || token >= highest + 1 - window)) return;
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const int at = token + i / 4 * 8 + 2 * t + i % 2, last = position[i / 2 % 2];
            if (at > last || (window > 0 && at <= last - window)) score[i] = -INFINITY;
        }
    }

    // Turns scores into probabilities, relative to the largest score so far, and says how much of what was summed before
    // `keep`s its weight.
    __device__ __forceinline__ void weigh(int tile) {
        mask(tile);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float most = largest[r];
#pragma unroll
            for (int i = 0; i < N / 8; ++i) most = fmaxf(most, fmaxf(score[4 * i + 2 * r], score[4 * i + 2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
            // Nothing seen yet: any finite number does.
            const float base = most == -INFINITY ? 0.f : most * scale;
            // Exactly 1 where nothing is larger: tokens that a row does not see do not change its sums.
            keep[r] = most == largest[r] ? 1.f : exp2_fast((largest[r] - most) * scale);
            largest[r] = most;
            float total = 0.f;
#pragma unroll
            for (int i = 0; i < N / 4; ++i) {
                float& s = score[i / 2 * 4 + 2 * r + i % 2];
                s = exp2_fast(fmaf(s, scale, -base));
                total += s;
            }
            sum[r] = sum[r] * keep[r] + total;
        }
    }

    // Probabilities as the left side of a product.
    __device__ __forceinline__ void pack() {
#pragma unroll
        for (int i = 0; i < N / 4; ++i) p[i] = pack2<T>(score[2 * i], score[2 * i + 1]);
    }

    __device__ __forceinline__ void decay_mixed() {
        // Mostly no row has a new largest.
        if (__all_sync(FULL_WARP, keep[0] == 1.f && keep[1] == 1.f)) return;
#pragma unroll
        for (int i = 0; i < D / 2; ++i) mixed[i] *= keep[i / 2 % 2];
    }

    // The registers of products are packed and decayed when none is under way: the compiler would have them wait for one
    // another otherwise.
    __device__ __forceinline__ void attend() {
        const bool tells = threadIdx.x % 32 == 0;
        barrier_wait(rings.full_keys, 0);
        publish_to_products();
        start_scores(0);
        products_wait<0>();
        pin(score);
        if (tells) barrier_arrive(rings.empty_keys);
        weigh(0);
        pack();
        int stage = 0, phase = 0;
        for (int j = 1; j < tiles; ++j) {
            const int next = stage + 1 == C::STAGES ? 0 : stage + 1, next_phase = next == 0 ? phase ^ 1 : phase;
            barrier_wait(rings.full_keys + 8 * next, next_phase);
            publish_to_products();
            pin(mixed);
            pin(p);
            pin(score);
            start_scores(next);
            barrier_wait(rings.full_values + 8 * stage, phase);
            publish_to_products();
            start_mixing(stage);
            products_wait<1>();
            pin(score);
            if (tells) barrier_arrive(rings.empty_keys + 8 * next);
            weigh(j);
            products_wait<0>();
            pin(mixed);
            pin(p);
            if (tells) barrier_arrive(rings.empty_values + 8 * stage);
            decay_mixed();
            pack();
            stage = next, phase = next_phase;
        }
        barrier_wait(rings.full_values + 8 * stage, phase);
        publish_to_products();
        pin(mixed);
        pin(p);
        start_mixing(stage);
        products_wait<0>();
        pin(mixed);
    }

    // Leaves the lines where the queries were.
    __device__ __forceinline__ void finish(unsigned char* lines) {
        const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 1);
            sum[r] += __shfl_xor_sync(FULL_WARP, sum[r], 2);
            const float inverse = 1.f / sum[r];
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<uint32_t*>(lines + chunk_at(warp * 16 + g + 8 * r, d) + 4 * t) =
                    pack2<T>(mixed[4 * d + 2 * r] * inverse, mixed[4 * d + 2 * r + 1] * inverse);
        }
    }
};

// Moves 64 lines between memory and shared memory: line `at` is a position's query head. Lines past the last are zero, and
// are not stored.
template <typename T, int D, typename Move>
__device__ __forceinline__ void move_lines(int first_line, int lines, int group, Move move) {
#pragma unroll
    for (int i = threadIdx.x % 128; i < 64 * D / 8; i += 128) {
        const int line = i / (D / 8), chunk = i % (D / 8), at = first_line + line;
        move(chunk_at(line, chunk), at < lines, size_t(at / group), at % group, chunk * 8);
    }
}

__device__ __forceinline__ void sync_group(int index) { asm volatile("bar.sync %0, 128;" ::"r"(index + 1) : "memory"); }

template <typename T, typename C>
__device__ __forceinline__ void attend_lines(
    const T* qkv, const Batch& batch, const Shape& shape, const Place& place, const Rings& rings, int first, int end,
    unsigned char* shared, T* out) {
    constexpr int D = C::D;
    const int index = threadIdx.x / 128, heads = shape.heads / shape.kv_heads, lines = place.rows * heads;
    const int first_line = place.tile * C::LINES + index * 64, own_head = blockIdx.x * heads;
    const int start = int(batch.context_lens[place.seq]) - place.rows;
    const size_t row = batch.cu_seqlens[place.seq], width = size_t(shape.heads + 2 * shape.kv_heads) * D;
    unsigned char* own = shared + index * 64 * D * 2;
    move_lines<T, D>(first_line, lines, heads, [&](uint32_t to, bool is_line, size_t position, int head, int d) {
        const T* from = qkv + (row + position) * width + (own_head + head) * D + d;
        *reinterpret_cast<uint4*>(own + to) = is_line ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    });
    publish_to_products();
    sync_group(index);
    Group<T, C> group;
    group.rings = rings, group.query = shared_address(own), group.scale = shape.scale, group.window = shape.window;
    group.first = first, group.tiles = (end - first + C::N - 1) / C::N;
    const int line = first_line + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
    for (int r = 0; r < 2; ++r) group.position[r] = start + min(line + 8 * r, lines - 1) / heads;
    group.lowest = start + min(first_line, lines - 1) / heads;
    group.highest = start + min(first_line + 63, lines - 1) / heads;
    group.attend();
    group.finish(own);
    sync_group(index);
    move_lines<T, D>(first_line, lines, heads, [&](uint32_t from, bool is_line, size_t position, int head, int d) {
        if (is_line)
            *reinterpret_cast<uint4*>(out + ((row + position) * shape.heads + own_head + head) * D + d) =
                *reinterpret_cast<const uint4*>(own + from);
    });
}

// Sequences with several query rows (all of them with `singles`): grid (kv heads, tiles).
template <typename T, typename C>
__device__ __forceinline__ void hopper_body(
    const T* qkv, const T* keys, const T* values, const Batch& batch, const Shape& shape, int singles, T* out) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Rings rings = rings_at<C>(shared_address(memory));
    if (threadIdx.x < C::STAGES) {
        barrier_init(rings.full_keys + 8 * threadIdx.x, 128);
        barrier_init(rings.full_values + 8 * threadIdx.x, 128);
        barrier_init(rings.empty_keys + 8 * threadIdx.x, C::GROUPS * 4);
        barrier_init(rings.empty_values + 8 * threadIdx.x, C::GROUPS * 4);
    }
    begin();
    const int group = shape.heads / shape.kv_heads;
    const Place place = find_place(batch, group, C::LINES, singles, blockIdx.y);
    if (place.rows == 0) return;
    __syncthreads();
    const int start = int(batch.context_lens[place.seq]) - place.rows, line = place.tile * C::LINES;
    const int end = start + min(line + C::LINES - 1, place.rows * group - 1) / group + 1;
    // Tiles are counted from the sequence's start: a row's sums do not depend on the rows beside it.
    const int first = shape.window > 0 ? max(0, start + line / group + 1 - shape.window) / C::N * C::N : 0;
    if (threadIdx.x >= C::CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        const size_t at = size_t(blockIdx.x) * BLOCK * C::D;
        bring<T, C>(keys + at, values + at, batch.tables + size_t(place.seq) * batch.max_blocks,
                    size_t(shape.kv_heads) * BLOCK * C::D, first, end, rings);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        attend_lines<T, C>(qkv, batch, shape, place, rings, first, end, memory, out);
    }
}

#define HOPPER_BODY(T, D, STAGES)                                                                                  \
    hopper_body<T, Tiles<D, 128, STAGES>>(                                                                             \
        qkv, keys, values, Batch{cu_seqlens, context_lens, tables, max_blocks, num_seqs},                              \
        Shape{heads, kv_heads, scale, window}, singles, out)
#else
#define HOPPER_BODY(T, D, STAGES)
#endif

#define DEFINE(T, D, STAGES)                                                                                       \
    extern "C" __global__ void __launch_bounds__(Tiles<D, 128, STAGES>::THREADS, 1) attention_hopper_##D##_##T(        \
        const T* qkv, const T* keys, const T* values, const uint32_t* cu_seqlens, const uint32_t* context_lens,        \
        const uint32_t* tables, int max_blocks, int num_seqs, int heads, int kv_heads, float scale, int window,        \
        int singles, T* out) {                                                                                         \
        HOPPER_BODY(T, D, STAGES);                                                                                     \
    }
DEFINE(f16, 64, 4) DEFINE(f16, 128, 2) DEFINE(bf16, 64, 4) DEFINE(bf16, 128, 2)
#undef DEFINE
