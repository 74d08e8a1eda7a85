// What blocks of a cluster say to one another, and write into one another's shared memory (compute capability 9.0).
#pragma once

#include <cstdint>

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

// A barrier's halves, by whole warps. It publishes nothing but what a fence has (`Arrivals::begin`): that would be a fence for
// the whole GPU. What threads have read before they arrive is free to be overwritten, or to go away, once they have waited.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Counts the bytes that others write into this block's shared memory.
struct Arrivals {
    uint64_t* barrier;

    // By one thread; the cluster meets before anything is sent.
    __device__ __forceinline__ void begin(unsigned bytes) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address()) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        expect(bytes);
#endif
    }
    // Those of the next phase; by that thread too, before the cluster meets again.
    __device__ __forceinline__ void expect(unsigned bytes) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
#endif
    }
    __device__ __forceinline__ void wait(unsigned phase = 0) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred done;\nagain:\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again;\n}" ::"r"(address()), "r"(phase % 2) : "memory");
#endif
    }
    __device__ __forceinline__ unsigned address() const { return unsigned(__cvta_generic_to_shared(barrier)); }
};

// Block `rank` of the cluster, to be sent to.
struct Neighbour {
    unsigned rank, barrier;

    __device__ __forceinline__ Neighbour(unsigned rank, const Arrivals& arrivals)
        : rank(rank), barrier(place(arrivals.barrier)) {}
    __device__ __forceinline__ unsigned place(const void* p) const {
        unsigned at = unsigned(__cvta_generic_to_shared(p));
#if __CUDA_ARCH__ >= 900
        asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
#endif
        return at;
    }
    __device__ __forceinline__ void send(const void* p, float4 v) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
                     ::"r"(place(p)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(barrier)
                     : "memory");
#endif
    }
    __device__ __forceinline__ void send(const void* p, float2 v) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
                     ::"r"(place(p)), "f"(v.x), "f"(v.y), "r"(barrier)
                     : "memory");
#endif
    }
};
