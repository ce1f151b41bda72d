// The blend of offset shapes and its gradient to the weights. Both read the shapes once and wait for memory.
#include "train_common.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kShapes = 4;                      // shapes that a block of the gradient takes together
constexpr int kEach = 8;                        // elements that a thread of the gradient takes
constexpr int64_t kPart = kThreads * kEach;

__global__ void __launch_bounds__(kThreads)
    blend_kernel(int64_t shapes, int64_t size, const float* __restrict__ offsets,  // [shapes, size]
                 const float* __restrict__ weights, float* __restrict__ blend) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < shapes; ++k) sum = fmaf(weights[k], offsets[k * size + i], sum);
  blend[i] = sum;
}

// parts[k, blockIdx.x] = the sum over this block's elements.
__global__ void __launch_bounds__(kThreads)
    weight_parts_kernel(int64_t shapes, int64_t size, const float* __restrict__ offsets,
                        const float* __restrict__ v_blend, double* __restrict__ parts) {
  __shared__ double warp_sums[kThreads / kWarp];
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kShapes;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kPart + threadIdx.x;
  float sum[kShapes] = {};
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = begin + j * kThreads;
    const bool inside = i < size;
    const float pull = inside ? v_blend[i] : 0.0f;
#pragma unroll
    for (int k = 0; k < kShapes; ++k) {
      if (inside && first + k < shapes) sum[k] = fmaf(offsets[(first + k) * size + i], pull, sum[k]);
    }
  }
  for (int k = 0; k < kShapes && first + k < shapes; ++k) {
    const double total = block_sum<kThreads>(sum[k], warp_sums);
    if (threadIdx.x == 0) parts[(first + k) * gridDim.x + blockIdx.x] = total;
  }
}

}  // namespace
}  // namespace isa_cuda
}  // namespace headsplat

int32_t hs_cuda_blend(int64_t shapes, int64_t size, const float* offsets, const float* weights,
                      float* blend, void* stream) {
  using namespace headsplat::isa_cuda;
  const int64_t blocks = parts_of(size, kThreads);
  if (blocks > kMostBlocksAcross) return HS_UNSUPPORTED;
  if (blocks == 0) return HS_OK;
  HS_LAUNCH(blend_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), as_stream(stream), shapes,
                size, offsets, weights, blend);
  return HS_OK;
}

int64_t hs_cuda_blend_backward_bytes(int64_t shapes, int64_t size) {
  using namespace headsplat::isa_cuda;
  return shapes * parts_of(size, kPart) * static_cast<int64_t>(sizeof(double));
}

int32_t hs_cuda_blend_backward(int64_t shapes, int64_t size, const float* offsets,
                               const float* v_blend, float* v_weights, void* scratch, void* stream) {
  using namespace headsplat::isa_cuda;
  const int64_t blocks = parts_of(size, kPart), groups = parts_of(shapes, kShapes);
  if (blocks > kMostBlocksAcross || groups > kMostBlocksDown) return HS_UNSUPPORTED;
  if (shapes == 0) return HS_OK;
  double* parts = static_cast<double*>(scratch);
  if (blocks > 0) {
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(groups));
    HS_LAUNCH(weight_parts_kernel, grid, dim3(kThreads), as_stream(stream), shapes, size, offsets,
                  v_blend, parts);
  }
  HS_LAUNCH(sum_rows_kernel<kThreads>, dim3(static_cast<unsigned>(shapes)), dim3(kThreads),
                as_stream(stream), blocks, parts, v_weights);
  return HS_OK;
}
