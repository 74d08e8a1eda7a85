// The results of warps that share a sequence, brought together in the shared memory of their blocks: of one, or of a cluster.
#pragma once

#include "attention_mma.cuh"
#include "cluster.cuh"

// Whether the splits of a sequence's key head are a cluster (compute capability 9.0).
__device__ __forceinline__ bool in_cluster() {
    unsigned blocks = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
#endif
    return blocks > 1;
}

// Which part of the work a block has.
struct Part {
    int seq, head, group, split, splits;
    uint32_t row;
};

constexpr int MOST_BLOCKS = 8;   // of a cluster

// Joins what warps have of the blocks of a cluster: each block gets some columns of all warps' results, (sources, group,
// 8 each) in `mixed`, and each source's largest score and sum of probabilities of each line, (group, SOURCES) in `stats`, which
// later are its weight. A block alone has all columns.
template <int D, int WARPS> struct Joint {
    static constexpr int SOURCES = MOST_BLOCKS * WARPS;

    float *mixed, *scratch;   // (group, D) of this warp
    float2* stats;
    Arrivals arrivals;
    int group, ranks, rank, each;   // columns in eights

    __device__ __forceinline__ Joint(const Part& part, uint64_t* barrier)
        : arrivals{barrier}, group(part.group), ranks(in_cluster() ? part.splits : 1), rank(in_cluster() ? part.split : 0),
          each((D / 8 + ranks - 1) / ranks) {}

    // Where it has room; none for `scratch` is behind the rest.
    __device__ __forceinline__ void place(float* from, float* of_warp) {
        mixed = from;
        stats = reinterpret_cast<float2*>(mixed + WARPS * ranks * group * each * 8);
        scratch = of_warp ? of_warp : reinterpret_cast<float*>(stats + group * SOURCES) + threadIdx.x / 32 * group * D;
    }
    __device__ __forceinline__ int own_columns() const { return 8 * max(0, min(each, D / 8 - rank * each)); }
    // Bytes that this block gets.
    __device__ __forceinline__ unsigned bytes() const { return ranks * WARPS * group * (own_columns() * 4 + sizeof(float2)); }

    // Gives every block what it joins of a warp's results.
    __device__ __forceinline__ void give(const State<D>& state) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, source = rank * WARPS + warp;
        float* rows = ranks > 1 ? scratch : mixed + warp * group * D;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int line = g + 8 * r;
            if (line >= group) continue;
#pragma unroll
            for (int d = 0; d < D / 8; ++d)
                *reinterpret_cast<float2*>(rows + line * D + 8 * d + 2 * t) =
                    make_float2(state.mixed[d][2 * r], state.mixed[d][2 * r + 1]);
            const float2 stat = make_float2(state.largest[r], state.sum[r]);
            float2* to = stats + line * SOURCES + source;
            if (ranks == 1) {
                if (t == 0) *to = stat;
                continue;
            }
#pragma unroll 1
            for (int other = t; other < ranks; other += 4) Neighbour(other, arrivals).send(to, stat);
        }
        if (ranks == 1) return;
        __syncwarp();
        const int column = lane % (D / 4) * 4, owner = column / 8 / each;
        const Neighbour neighbour(owner, arrivals);
        float* to = mixed + source * group * each * 8 + column - owner * each * 8;
#pragma unroll 1
        for (int line = lane / (D / 4); line < group; line += 128 / D)
            neighbour.send(to + line * each * 8, *reinterpret_cast<const float4*>(rows + line * D + column));
    }
    // Calls `finish(line, column, four values, largest score, sum)` for all that this block joins; a warp a line.
    template <typename Finish> __device__ __forceinline__ void join(Finish finish) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, sources = ranks * WARPS;
        const int quads = own_columns() / 4;
        int across = 32;   // lanes that have a column each; the others another source
#pragma unroll 1
        while (across >= 2 * quads && across > 1) across /= 2;
#pragma unroll 1
        for (int line = warp; line < group; line += WARPS) {
            float2* own = stats + line * SOURCES;
            float largest = -INFINITY, sum = 0.f;
#pragma unroll
            for (int i = lane; i < SOURCES; i += 32)
                if (i < sources) largest = fmaxf(largest, own[i].x);
            largest = warp_max(largest);
#pragma unroll
            for (int i = lane; i < SOURCES; i += 32) {
                const float weight = largest == -INFINITY || i >= sources ? 0.f : exp2f(own[i].x - largest);
                if (i < sources) sum += own[i].y * weight, own[i].x = weight;
            }
            sum = warp_sum(sum);
            __syncwarp();
            const int quad = lane % across;
            float4 value = {};
            if (quad < quads)
#pragma unroll 4
                for (int s = lane / across; s < sources; s += 32 / across) {
                    const float4 v = *reinterpret_cast<const float4*>(mixed + (s * group + line) * each * 8 + quad * 4);
                    const float w = stats[line * SOURCES + s].x;
                    value.x += v.x * w, value.y += v.y * w, value.z += v.z * w, value.w += v.w * w;
                }
#pragma unroll 1
            for (int d = across; d < 32; d *= 2) {
                value.x += __shfl_xor_sync(FULL_WARP, value.x, d), value.y += __shfl_xor_sync(FULL_WARP, value.y, d);
                value.z += __shfl_xor_sync(FULL_WARP, value.z, d), value.w += __shfl_xor_sync(FULL_WARP, value.w, d);
            }
            if (lane < quads) finish(line, rank * each * 8 + quad * 4, value, largest, sum);
        }
    }
};
