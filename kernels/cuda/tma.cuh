// Hopper's copies of tiles into shared memory, by one thread.
#pragma once

#include "cluster.cuh"
#include "wgmma.cuh"

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Arrives at the same barrier of block `rank` of the cluster. What this thread read before is then its to overwrite; what it
// wrote is not published (which would be a fence for the whole GPU each time).
__device__ __forceinline__ void barrier_arrive_at(uint32_t at, uint32_t rank) {
    asm volatile("{.reg .b32 a; mapa.shared::cluster.u32 a, %0, %1;"
                 "mbarrier.arrive.shared::cluster.b64 _, [a];}" ::"r"(at), "r"(rank) : "memory");
}
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
