// Memory in which the GPUs that share a model exchange, and waiting for one another.
//
// A block and the blocks of its index on the other ranks are a channel. They exchange in turns, which each counts by
// itself (in its own memory, so that a recorded launch counts too), and wait for nothing but one another: a grid
// has no more blocks than run at once. Who waits too long, or is told to, gives up and says so in memory of the host.
#pragma once

#include "common.cuh"

// As in src/cuda/collective.rs.
constexpr int MAX_RANKS = 8;
constexpr int CHANNELS = 128;
constexpr int MAX_LINES = 2048;
constexpr int PART_BYTES = 32768;
constexpr int MOST_BLOCKS = 256;
constexpr int MOST_RESULTS = 1 << 17;

constexpr uint64_t PATIENCE_NS = 20'000'000'000;

// What a rank's exchange memory begins with; results, lines and parts follow.
struct Header {
    uint32_t result_turns[MOST_BLOCKS];
    uint32_t turns[CHANNELS];       // of lines
    uint32_t bulk_turns[CHANNELS];  // of sums in bulk
    uint32_t gather_turns[CHANNELS];
    uint32_t given[CHANNELS][MAX_RANKS];     // turns for which a rank has given its parts,
    uint32_t summed[CHANNELS][MAX_RANKS];    // its sums,
    uint32_t gathered[CHANNELS][MAX_RANKS];  // its columns
};

struct Group {
    uint64_t memory[MAX_RANKS];  // each rank's exchange memory
    uint32_t* given_up;          // of the host: 0, or one more than a rank that waits no longer
    uint32_t rank, count;

    __device__ Header& header(int of) const { return *reinterpret_cast<Header*>(memory[of]); }

    // Of rank `from` (MOST_RESULTS): a product's results, each with its turn.
    __device__ uint2* results(int of, uint32_t turn, int from) const {
        uint2* all = reinterpret_cast<uint2*>(memory[of] + sizeof(Header));
        return all + size_t(turn % 2 * count + from) * MOST_RESULTS;
    }

    // (CHANNELS, 2, count, MAX_LINES)
    __device__ uint4* lines(int of, uint32_t turn) const {
        uint4* all = reinterpret_cast<uint4*>(results(of, 0, 0) + size_t(2) * count * MOST_RESULTS);
        return all + size_t(blockIdx.x * 2 + turn % 2) * count * MAX_LINES;
    }

    // (channels in bulk, 2, count, PART_BYTES): parts given, and sums.
    __device__ uint4* parts(int of, int summed) const {
        uint4* all = reinterpret_cast<uint4*>(results(of, 0, 0) + size_t(2) * count * MOST_RESULTS);
        return all + size_t(CHANNELS) * 2 * count * MAX_LINES + size_t(blockIdx.x * 2 + summed) * count * (PART_BYTES / 16);
    }
};

struct Patience {
    const Group& group;
    uint64_t deadline = 0;
    uint32_t asked = 0;
    bool over = false;

    __device__ explicit Patience(const Group& group) : group(group) {}

    __device__ bool lasts() {
        if (over || ++asked % 4096 != 0) return !over;
        uint64_t now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (deadline == 0) deadline = now + PATIENCE_NS;
        volatile uint32_t* given_up = group.given_up;
        const bool told = *given_up != 0;
        if (!told && now < deadline) return true;
        if (!told) *given_up = 1 + group.rank;
        over = true;
        return false;
    }
};

// A result and the turn that it is of, which a receiver sees at once: eight bytes are written as one.
__device__ __forceinline__ void give_result(uint2* to, float result, uint32_t turn) {
    asm volatile("st.volatile.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(__float_as_uint(result)), "r"(turn) : "memory");
}

__device__ __forceinline__ float take_result(const uint2* from, uint32_t turn, Patience& patience) {
    uint2 v;
    do {
        asm volatile("ld.volatile.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory");
    } while (v.y != turn && patience.lasts());
    return __uint_as_float(v.x);
}
