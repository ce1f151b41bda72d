// Small kernels, right and wrong, that show what the emulator does and what it finds.
#include "launch.cuh"

#define TOY_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace headsplat::isa_cuda;

// out[block, k] = sum over the block's 256 threads of in[thread, k].
template <int kCount, bool kBarrier>
__global__ void sums(const float* in, float* out) {
  __shared__ float partial[8][kCount];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float values[kCount];
  for (int k = 0; k < kCount; ++k) values[k] = in[(blockIdx.x * blockDim.x + threadIdx.x) * kCount + k];
  const float sum = WarpSums<kCount>::run(values, lane);
  const int number = WarpSums<kCount>::number(lane);
  if (number >= 0) partial[warp][number] = sum;
  if (kBarrier) __syncthreads();
  if (threadIdx.x < kCount) {
    float total = 0;
    for (int w = 0; w < 8; ++w) total += partial[w][threadIdx.x];
    out[blockIdx.x * kCount + threadIdx.x] = total;
  }
}

// Every collective once, of a warp and of a half warp, with threads that left before.
__global__ void collectives(int* out) {
  const int lane = (int)threadIdx.x;
  if (lane >= 40) return;
  const uint32_t mask = lane < 16 ? 0xffffu : lane < 32 ? 0xffff0000u : 0xffu;
  int* row = out + 8 * lane;
  row[0] = (int)__ballot_sync(mask, lane % 3 == 0);
  row[1] = __shfl_up_sync(mask, lane, 2, 8);
  row[2] = __shfl_down_sync(mask, lane, 3, 8);
  row[3] = __shfl_xor_sync(mask, lane, 5);
  row[4] = __reduce_add_sync(mask, lane);
  row[5] = __all_sync(mask, lane >= 16);
  row[6] = __shfl_sync(mask, lane, 1, 4);
  row[7] = __syncthreads_count(lane % 2 == 0);
}

__global__ void different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void a_lane_is_missing(int* out) {
  if (threadIdx.x != 3) out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1, 1);
  __syncthreads();
}

__global__ void not_in_its_mask(int* out) {
  out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 1);
}

__global__ void out_of_bounds(int* out, int size) {
  __shared__ int values[32];
  values[(int)threadIdx.x * size] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

template <int kCount>
int run_sums(bool barrier, const float* in, float* out) {
  const auto kernel = barrier ? sums<kCount, true> : sums<kCount, false>;
  return launch(kernel, dim3(3), dim3(256), nullptr, in, out);
}

}  // namespace

TOY_API int toy_sums(int count, int barrier, const float* in, float* out) {
  const bool with = barrier != 0;
  return count == 1    ? run_sums<1>(with, in, out)
         : count == 9  ? run_sums<9>(with, in, out)
         : count == 12 ? run_sums<12>(with, in, out)
                       : run_sums<32>(with, in, out);
}

TOY_API int toy_collectives(int* out) { return launch(collectives, dim3(1), dim3(64), nullptr, out); }

TOY_API int toy_wrong(int which, int* out) {
  switch (which) {
    case 0:
      return launch(different_barriers, dim3(2), dim3(64), nullptr);
    case 1:
      return launch(a_lane_is_missing, dim3(1), dim3(32), nullptr, out);
    case 2:
      return launch(not_in_its_mask, dim3(1), dim3(32), nullptr, out);
    default:
      return launch(out_of_bounds, dim3(1), dim3(32), nullptr, out, which);
  }
}
