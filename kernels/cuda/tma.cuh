// Hopper's copies of tiles into shared memory, by one thread, and what clusters of blocks say to one another.
#pragma once

#include "wgmma.cuh"

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Arrives, and has the phase wait for `bytes` of copies.
__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes) {
    asm volatile("{.reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], %1;}" ::"r"(at), "r"(bytes) : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster. What this thread read before is then its to overwrite; what it
// wrote is not published (which would be a fence for the whole GPU each time).
__device__ __forceinline__ void barrier_arrive_at(uint32_t at, uint32_t rank) {
    asm volatile("{.reg .b32 a; mapa.shared::cluster.u32 a, %0, %1;"
                 "mbarrier.arrive.shared::cluster.b64 _, [a];}" ::"r"(at), "r"(rank) : "memory");
}
// Which block of the cluster this is.
__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// Its halves, by any threads, which publish nothing but barriers: that would be a fence for the whole GPU.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// What this block has at `at`, in block `rank` of the cluster.
__device__ __forceinline__ uint32_t in_block(uint32_t at, uint32_t rank) {
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}
// Writes there, on its own; the barrier at `counted`, also there, counts the bytes. Illegal where there is no cluster.
__device__ __forceinline__ void give(uint32_t there, float2 v, uint32_t counted) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(there), "f"(v.x),
                 "f"(v.y), "r"(counted)
                 : "memory");
}
// Waits for the first phase of a barrier, and sees what the cluster's blocks gave.
__device__ __forceinline__ void barrier_wait_for_cluster(uint32_t at) {
    asm volatile("{.reg .pred p; AGAIN: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0; @p bra DONE; "
                 "bra AGAIN; DONE:}" ::"r"(at)
                 : "memory");
}
// Barriers that this thread has made become visible to copies, and to the cluster.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Has a map fetched before it is used.
__device__ __forceinline__ void fetch_map(const CUtensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The box of `map` at (column, row), to `to`; `barrier` counts its bytes. What lies outside of the matrix is zero.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
                     "r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}
// Which lines the second-level cache gives up first.
enum class Keep : uint64_t { SHORT = 0x12F0000000000000, LONG = 0x14F0000000000000 };
// The same, with a word to that cache.
template <Keep KEEP>
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(KEEP)
                 : "memory");
}
// The same as the first, to both blocks of a cluster of two, at the same address and counted by the same barrier there.
__device__ __forceinline__ void copy_box_to_both(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(uint16_t(3))
                 : "memory");
}

#endif
