// Launching kernels, and the few things that differ between nvcc and the tests' emulator on the CPU.
//
// <<<>>> is not C++, so every launch goes through launch(), which returns its own error and leaves the
// sticky one of other libraries alone.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if !defined(HEADSPLAT_EMULATED)
#include <cuda_runtime.h>
#endif

namespace headsplat {
namespace isa_cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

// Ends a function that returns a cudaError_t at the first call that fails.
#define HS_TRY(call)                                 \
  do {                                               \
    const cudaError_t hs_error = (call);             \
    if (hs_error != cudaSuccess) return hs_error;    \
  } while (false)

// Blocks of `block` threads that cover `count` items.
inline unsigned blocks_for(int64_t count, int64_t block) { return (unsigned)((count + block - 1) / block); }

// Starts kernel(arguments...) on a stream; a grid without blocks is nothing to do.
template <class... Parameters, class... Arguments>
inline cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                          const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#if defined(HEADSPLAT_EMULATED)
  (void)stream;
  const std::tuple<Parameters...> all(arguments...);
  return emulator::run_grid(grid, block, [&] { std::apply(kernel, all); });
#else
  // One copy each, of the very types that the kernel takes.
  return [&](Parameters... exact) {
    void* pointers[sizeof...(Parameters) + 1] = {const_cast<void*>(static_cast<const void*>(&exact))..., nullptr};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, 0, stream);
  }(arguments...);
#endif
}

// 2^x to two parts in 2^22, and 1/x to one part in 2^23: one instruction each.
__device__ __forceinline__ float fast_exp2(float x) {
#if defined(HEADSPLAT_EMULATED)
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
__device__ __forceinline__ float fast_reciprocal(float x) {
#if defined(HEADSPLAT_EMULATED)
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// The sums of kCount numbers over a warp's 32 lanes, transposed: a lane gets the sum of
// the number(lane)-th. 12 numbers take 13 shuffles, where one number after the other takes 60. The
// order of additions is fixed by the lanes alone.
template <int kCount, int kOffset = 16>
struct WarpSums {
  static_assert(kCount <= 2 * kOffset || kOffset == 0, "a warp's lanes hold 32 sums at most");
  static constexpr int kHalf = (kCount + 1) / 2;
  __device__ __forceinline__ static float run(float (&values)[kCount], unsigned lane) {
    if constexpr (kOffset == 0) {
      return values[0];
    } else {
      const bool upper = (lane & kOffset) != 0;
      float kept[kHalf];
#pragma unroll
      for (int k = 0; k < kHalf; ++k) {
        if constexpr (kCount == 1) {
          kept[k] = values[k] + __shfl_xor_sync(kAllLanes, values[k], kOffset);
        } else {
          const float high = k + kHalf < kCount ? values[k + kHalf < kCount ? k + kHalf : 0] : 0.0f;
          const float sent = upper ? values[k] : high;
          kept[k] = (upper ? high : values[k]) + __shfl_xor_sync(kAllLanes, sent, kOffset);
        }
      }
      return WarpSums<kHalf, kOffset / 2>::run(kept, lane);
    }
  }
  // Which of the numbers a lane gets: -1 where another lane has the same one, or none.
  __device__ __forceinline__ static int number(unsigned lane) {
    int count = kCount, real = kCount, number = 0;  // real: without the zeros that fill up odd halves
    bool first = true;
    for (int offset = 16; offset > 0; offset /= 2) {
      const bool upper = (lane & offset) != 0;
      if (count == 1) {
        first = first && !upper;
      } else {
        const int half = (count + 1) / 2;
        number += upper ? half : 0;
        real = upper ? real - half : (real < half ? real : half);
        count = half;
      }
    }
    return first && real > 0 ? number : -1;
  }
};

}  // namespace isa_cuda
}  // namespace headsplat
