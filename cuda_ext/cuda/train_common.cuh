// What the training kernels share: sums in a fixed order, and a counter that one launch reads and advances.
#pragma once

#include "headsplat_cuda_train.h"
#include "launch.cuh"

namespace headsplat {
namespace isa_cuda {

constexpr int kWarp = 32;
constexpr int64_t kMostBlocksAcross = 0x7fffffff, kMostBlocksDown = 65535;

// Launches, and ends an entry point with the code of a launch that fails.
#define HS_LAUNCH(...)                                                                          \
  do {                                                                                          \
    const cudaError_t hs_error = launch(__VA_ARGS__);                                           \
    if (hs_error != cudaSuccess) return HS_CUDA_ERROR - static_cast<int32_t>(hs_error);         \
  } while (false)

inline cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

inline int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Sum a value over the block; thread 0 has it. `shared` holds a number for each warp. The sum of a
// warp is taken in the type of the value: double is slow on all but the GPUs of data centres.
template <int Threads, class T>
__device__ double block_sum(T value, double* shared) {
  static_assert(Threads % kWarp == 0 && Threads / kWarp <= kWarp, "whole warps, and one for their sums");
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_down_sync(kAllLanes, value, step);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  double sum = 0;
  if (warp == 0) {
    if (lane < Threads / kWarp) sum = shared[lane];
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(kAllLanes, sum, step);
  }
  __syncthreads();  // the caller may use `shared` again
  return sum;
}

// sums[blockIdx.x] = the sum of row blockIdx.x of parts [rows, count].
template <int Threads>
static __global__ void __launch_bounds__(Threads)
    sum_rows_kernel(int64_t count, const double* __restrict__ parts, float* __restrict__ sums) {
  __shared__ double warp_sums[Threads / kWarp];
  const double* row = parts + static_cast<int64_t>(blockIdx.x) * count;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += Threads) sum += row[i];
  sum = block_sum<Threads>(sum, warp_sums);
  if (threadIdx.x == 0) sums[blockIdx.x] = static_cast<float>(sum);
}

// Whether this block is the last of the launch to get here; then all that the others read, they have
// read. Sets the ticket back to zero for the next launch. To be called once, by all threads.
__device__ inline bool is_last_block(unsigned* ticket) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned blocks = gridDim.x * gridDim.y;
    last = atomicAdd(ticket, 1u) == blocks - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  return last;
}

}  // namespace isa_cuda
}  // namespace headsplat
