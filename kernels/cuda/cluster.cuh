// What blocks of a cluster say to one another, and write into one another's shared memory (compute capability 9.0). Places
// are addresses of shared memory.
#pragma once

#include <cstdint>

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

// All blocks have come to here, and see what the others wrote before. By whole warps.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Its halves, by whole warps or by lanes apart. They publish nothing but what a fence has (`publish_barriers`): that would be a
// fence for the whole GPU. What threads have read before they arrive is free to be overwritten, or to go away, once they have
// waited.
template <bool WHOLE_WARPS = true> __device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    if constexpr (WHOLE_WARPS) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    else asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
template <bool WHOLE_WARPS = true> __device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    if constexpr (WHOLE_WARPS) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    else asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// What this block has at `at`, in block `rank`.
__device__ __forceinline__ uint32_t in_block(uint32_t at, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
#endif
    return at;
}

// Writes there, on its own; the barrier at `counted`, also there, counts the bytes. Illegal where there is no cluster.
__device__ __forceinline__ void send(uint32_t there, float2 v, uint32_t counted) {
#if __CUDA_ARCH__ >= 900
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(there), "f"(v.x),
                 "f"(v.y), "r"(counted)
                 : "memory");
#endif
}
__device__ __forceinline__ void send(uint32_t there, float4 v, uint32_t counted) {
#if __CUDA_ARCH__ >= 900
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(counted)
                 : "memory");
#endif
}

// Barriers that this thread has made become visible to copies, and to the cluster.
__device__ __forceinline__ void publish_barriers() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives at a barrier, and has the phase wait for `bytes`.
__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
#endif
}

// Waits for a phase of a barrier that counts bytes, and sees what the cluster's blocks sent.
__device__ __forceinline__ void await_sent(uint32_t at, uint32_t phase) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(at), "r"(phase % 2) : "memory");
#endif
}

// Counts the bytes that others write into this block's shared memory.
struct Arrivals {
    uint64_t* barrier;

    // By one thread; the cluster meets before anything is sent.
    __device__ __forceinline__ void begin(uint32_t bytes) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address()) : "memory");
        publish_barriers();
        expect(bytes);
#endif
    }
    // Those of the next phase; by that thread too, before the cluster meets again.
    __device__ __forceinline__ void expect(uint32_t bytes) const { barrier_expect(address(), bytes); }
    __device__ __forceinline__ void wait(uint32_t phase = 0) const { await_sent(address(), phase); }
    __device__ __forceinline__ uint32_t address() const { return uint32_t(__cvta_generic_to_shared(barrier)); }
};

// Block `rank` of the cluster, to be sent to.
struct Neighbour {
    uint32_t rank, barrier;

    __device__ __forceinline__ Neighbour(uint32_t rank, const Arrivals& arrivals)
        : rank(rank), barrier(in_block(arrivals.address(), rank)) {}
    template <typename V> __device__ __forceinline__ void send(const void* p, V v) const {
        ::send(in_block(uint32_t(__cvta_generic_to_shared(p)), rank), v, barrier);
    }
};
