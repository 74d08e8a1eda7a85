// Attention over the paged cache for sequences with several query rows.
#include "attention_cached.cuh"

// Sequences with several query rows (all of them with `singles`): grid (tiles, kv heads). A tile is 64 rows, position
// by position the query heads of one key head; a warp has 16 of them.
template <typename T, int D>
__device__ void prefill_body(
    const T* qkv, const T* keys, const T* values, Batch batch, Shape shape, int singles, T* out) {
    begin();
    const int group = shape.heads / shape.kv_heads, head = blockIdx.y;
    int seq, tile, rows;
    if (!find_tile(batch, group, singles, seq, tile, rows)) return;
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
        const Seen seen = seen_of(position, top, shape.window, b);
        attend_cached<T, D>(query, keys + at, values + at, seen, shape.scale, state);
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

#define DEFINE(T, D)                                                                                           \
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
