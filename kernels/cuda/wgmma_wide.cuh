// Products of four warps with many columns, on Hopper: d (64, N) = a (64, 16) . b (N, 16)^T as `product` of wgmma.cuh, for the
// widths by which tiles of a large product divide evenly among multiprocessors.
#pragma once

#include "wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename T, int COUNT> struct WideProduct;

#define SUMS16(i)                                                                                                  \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),    \
        "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),         \
        "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define SUMS64 SUMS16(0), SUMS16(16), SUMS16(32), SUMS16(48)
#define NAMES64                                                                                                    \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"                                                        \
    ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"                                             \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                                             \
    ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES80 NAMES64                                                                                            \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define NAMES96 NAMES80                                                                                            \
    ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NAMES104 NAMES96                                                                                           \
    ",%96,%97,%98,%99,%100,%101,%102,%103"
#define NAMES112 NAMES104                                                                                          \
    ",%104,%105,%106,%107,%108,%109,%110,%111"
#define NAMES120 NAMES112                                                                                          \
    ",%112,%113,%114,%115,%116,%117,%118,%119"
#define NAMES128 NAMES120                                                                                          \
    ",%120,%121,%122,%123,%124,%125,%126,%127"
#define SUMS80 SUMS64, SUMS16(64)
#define SUMS96 SUMS80, SUMS16(80)
#define SUMS104 SUMS96, SUMS8(96)
#define SUMS112 SUMS104, SUMS8(104)
#define SUMS120 SUMS112, SUMS8(112)
#define SUMS128 SUMS120, SUMS8(120)
#define SUMS8(i)                                                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),    \
        "+f"(d[i + 7])

// With `add` false d is what it was not before: the product alone.
#define DEFINE_WIDE(T, type, N, COUNT, A, B, ADD)                                                                  \
    template <> struct WideProduct<T, COUNT> {                                                                     \
        static __device__ __forceinline__ void run(float (&d)[COUNT], uint64_t a, uint64_t b, bool add) {          \
            asm volatile("{.reg .pred p; setp.ne.b32 p, " ADD ", 0;"                                               \
                         "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." type "." type " {" NAMES##COUNT          \
                         "}, " A ", " B ", p, 1, 1, 0, 0;}"                                                        \
                         : SUMS##COUNT : "l"(a), "l"(b), "r"(int(add)));                                           \
        }                                                                                                          \
    };
#define DEFINE_WIDE_ALL(T, type)                                                                                   \
    DEFINE_WIDE(T, type, "160", 80, "%80", "%81", "%82")                                                           \
    DEFINE_WIDE(T, type, "208", 104, "%104", "%105", "%106")                                                       \
    DEFINE_WIDE(T, type, "224", 112, "%112", "%113", "%114")                                                       \
    DEFINE_WIDE(T, type, "240", 120, "%120", "%121", "%122")                                                       \
    DEFINE_WIDE(T, type, "256", 128, "%128", "%129", "%130")
DEFINE_WIDE_ALL(bf16, "bf16")
DEFINE_WIDE_ALL(f16, "f16")
#undef DEFINE_WIDE_ALL
#undef DEFINE_WIDE
#undef SUMS8
#undef SUMS16
#undef NAMES64

#endif
