// Indices on their way from the host, and to it, several buffers at once.
#include "common.cuh"

constexpr int PARTS = 8;

// Where each part goes, and where it ends among all.
struct Parts {
    uint32_t* to[PARTS];
    uint64_t ends[PARTS];
};

// `from`, in memory of the host or the device, is all parts, one after another. Any grid.
extern "C" __global__ void spread_indices(const uint32_t* from, Parts parts) {
    begin();
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < parts.ends[PARTS - 1]; i += size_t(gridDim.x) * blockDim.x) {
        const uint32_t value = from[i];
        int part = 0;
        size_t first = 0;
        while (i >= parts.ends[part]) first = parts.ends[part++];
        parts.to[part][i - first] = value;
    }
}
