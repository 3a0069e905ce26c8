// What a kernel needs of its machine: a GPU, or (with HOST) one thread of a CPU that plays all lanes in turn.
//
// The same source runs on both. A warp blends one tile: code for its lanes stands in FOR_LANES, and what a lane
// holds in arrays of HELD. Code for a block of threads stands in plain loops from thread() on in steps of
// threads(), with SYNC() between them. A kernel's body stands in FOR_BLOCKS, where `continue` leaves the block.

#pragma once

#ifdef HOST

#include <cmath>
#include <cstdint>
#include <cstring>

#define DEVICE static inline
#define KERNEL(threads) extern "C" void
#define RESTRICT
#define HELD 32

#define FOR_LANES for (int lane = 0, held = 0; lane < 32; lane = ++held)
#define FOR_BLOCKS for (block.y = 0; block.y < grid.y; ++block.y) for (block.x = 0; block.x < grid.x; ++block.x)
#define SYNC()
#define SYNC_WARP()

struct float4 { float x, y, z, w; };
struct Place { int x, y; };
static thread_local Place block, grid;
alignas(16) static thread_local char shared_memory[1 << 20];
extern "C" void set_grid(int x, int y) { grid.x = x; grid.y = y; }

DEVICE int thread() { return 0; }
DEVICE int threads() { return 1; }
DEVICE int warp() { return 0; }
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float reciprocal(float x) { return 1.0f / x; }
DEVICE int min(int a, int b) { return a < b ? a : b; }
DEVICE int max(int a, int b) { return a > b ? a : b; }
DEVICE int first_bit(unsigned bits) { return __builtin_ctz(bits); }
DEVICE void sincospi(double x, double* s, double* c) { *s = sin(M_PI * x), *c = cos(M_PI * x); }
DEVICE unsigned short to_half(float x) {
    _Float16 half = (_Float16)x;
    unsigned short bits;
    memcpy(&bits, &half, 2);
    return bits;
}
DEVICE float from_half(unsigned short bits) { _Float16 half; memcpy(&half, &bits, 2); return (float)half; }

// The sum over lanes, in the order of a butterfly.
DEVICE float warp_sum(const float* values, int stride) {
    float sums[32];
    for (int lane = 0; lane < 32; ++lane) sums[lane] = values[lane * stride];
    for (int width = 16; width; width /= 2)
        for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    return sums[0];
}

#else

typedef unsigned char uint8_t;
typedef unsigned long long uint64_t;
#define DEVICE __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads, 1) void
#define RESTRICT __restrict__
#define HELD 1

#define FOR_LANES for ([[maybe_unused]] int lane = threadIdx.x % 32, held = 0; held < 1; ++held)
#define FOR_BLOCKS for (int once = 0; once < 1; ++once)
#define SYNC() __syncthreads()
#define SYNC_WARP() __syncwarp()
#define block blockIdx
#define grid gridDim

extern __shared__ float4 shared_memory[];

DEVICE int thread() { return threadIdx.x; }
DEVICE int threads() { return blockDim.x; }
DEVICE int warp() { return threadIdx.x / 32; }
DEVICE float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE int first_bit(unsigned bits) { return __ffs(bits) - 1; }
DEVICE unsigned short to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
DEVICE float from_half(unsigned short bits) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }

DEVICE float warp_sum(const float* value, int) {
    float sum = *value;
    for (int width = 16; width; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);
    return sum;
}

#endif
