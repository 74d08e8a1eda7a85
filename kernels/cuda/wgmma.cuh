// Hopper's tensor-core products of four warps, whose operands lie in shared memory, and the barriers of those who fill it.
#pragma once

#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// How rows are laid out in shared memory, so that eight of them are read without conflicts: which of the 16-byte chunks
// of rows of 128 or of 32 bytes change places depends on the address.
enum class Swizzle : uint64_t { OF_128 = 1, OF_32 = 3 };

// A side of a product: rows of 128 or 32 bytes behind one another.
template <Swizzle KIND> __device__ __forceinline__ uint64_t operand(uint32_t address) {
    constexpr uint64_t EIGHT_ROWS = 8 * (KIND == Swizzle::OF_128 ? 128 : 32);
    return uint64_t(address >> 4) | (uint64_t(1) << 16) | (EIGHT_ROWS >> 4 << 32) | (uint64_t(KIND) << 62);
}

// Products run beside what the warps do next. Between `products_begin` and the wait for them their registers are not to
// be touched; `pin` keeps the compiler from moving a use across.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
template <int COUNT> __device__ __forceinline__ void pin(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int COUNT> __device__ __forceinline__ void pin(uint32_t (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// d (64, N) = a (64, 16) . b (N, 16)^T, added to d with `add`; both sides are operands. Of the four warps each has 16 rows,
// as for `mma`: lane 4 g + t holds of columns 8 i + 2 t and the next (g, g) and (g + 8, g + 8) at d[4 i].
template <typename T> __device__ __forceinline__ void product(float (&d)[64], uint64_t a, uint64_t b, bool add);
// The same, added, with a as a lane's part for `mma`.
template <typename T> __device__ __forceinline__ void product_add(float (&d)[32], const uint32_t* a, uint64_t b);
template <typename T> __device__ __forceinline__ void product_add(float (&d)[64], const uint32_t* a, uint64_t b);

#define SUMS8(i)                                                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define SUMS32(i) SUMS8(i), SUMS8(i + 8), SUMS8(i + 16), SUMS8(i + 24)
#define NAMES32                                                                                                    \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"   \
    "%30,%31"
#define NAMES64                                                                                                    \
    NAMES32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"    \
            "%57,%58,%59,%60,%61,%62,%63"
#define DEFINE_PRODUCTS(T, type)                                                                                   \
    template <> __device__ __forceinline__ void product<T>(float (&d)[64], uint64_t a, uint64_t b, bool add) {         \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;"                                                           \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" NAMES64                         \
                     "}, %64, %65, p, 1, 1, 0, 0;}"                                                                    \
                     : SUMS32(0), SUMS32(32) : "l"(a), "l"(b), "r"(int(add)));                                         \
    }                                                                                                              \
    template <> __device__ __forceinline__ void product_add<T>(float (&d)[32], const uint32_t* a, uint64_t b) {        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" NAMES32                          \
                     "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"                                                          \
                     : SUMS32(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                \
    }                                                                                                              \
    template <> __device__ __forceinline__ void product_add<T>(float (&d)[64], const uint32_t* a, uint64_t b) {        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" NAMES64                         \
                     "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"                                                          \
                     : SUMS32(0), SUMS32(32) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                    \
    }
DEFINE_PRODUCTS(bf16, "bf16")
DEFINE_PRODUCTS(f16, "f16")
#undef DEFINE_PRODUCTS
#undef SUMS8
#undef SUMS32
#undef NAMES32
#undef NAMES64

// What this thread wrote or waited for in shared memory becomes visible to `product`.
__device__ __forceinline__ void publish_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barriers in shared memory: each phase ends when `count` have arrived, and is waited for by its parity.
__device__ __forceinline__ void barrier_init(uint32_t at, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t at) {
    asm volatile("{.reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0];}" ::"r"(at) : "memory");
}
// When all copies of this thread so far are there.
__device__ __forceinline__ void barrier_arrive_behind_copies(uint32_t at) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t at, int parity) {
    asm volatile("{.reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra DONE; bra AGAIN; DONE:}"
                 ::"r"(at), "r"(parity) : "memory");
}
// 8 bytes.
__device__ __forceinline__ void copy8(uint32_t to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
// 16 bytes, of which all behind the first `count` are zero.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, int count) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
}

#endif
