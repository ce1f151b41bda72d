// Adam: over many tensors in one launch, and over offset shapes whose gradient is a product of two vectors.
//
// Counter and rate lie in device memory. Every block reads them, and the last one to finish advances
// the counters; so a step is one launch, and a captured one counts on.
#include <math.h>

#include "train_common.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // elements that a thread takes: their loads are under way together
constexpr int64_t kPart = kThreads * kEach;
constexpr int kTensors = 32;  // of one launch: the table is a kernel argument, of which 4 KiB may be used

struct Decay {
  float toward_gradient, keep_square, new_square, epsilon;
  float log_beta1, log_beta2;
};

Decay make_decay(const HsAdam& adam) {
  return {static_cast<float>(1 - adam.beta1), static_cast<float>(adam.beta2),
          static_cast<float>(1 - adam.beta2), static_cast<float>(adam.epsilon),
          static_cast<float>(log(adam.beta1)), static_cast<float>(log(adam.beta2))};
}

struct Step {
  float size, root_scale;
};

// 1 - beta^t through expm1: in float, 1 - powf would lose four of seven digits at the first steps.
__device__ __forceinline__ Step make_step(const Decay& decay, const HsCudaAdamTensor& tensor) {
  const float t = static_cast<float>(*tensor.steps + 1);
  return {*tensor.rate / -expm1f(t * decay.log_beta1), 1 / sqrtf(-expm1f(t * decay.log_beta2))};
}

__device__ __forceinline__ void adam_element(const Decay& decay, const Step& step,
                                             const HsCudaAdamTensor& tensor, int64_t at, float gradient) {
  const float old = tensor.exp_avg[at];
  const float mean = fmaf(decay.toward_gradient, gradient - old, old);
  const float square =
      fmaf(decay.keep_square, tensor.exp_avg_sq[at], decay.new_square * gradient * gradient);
  const float move = mean / fmaf(sqrtf(square), step.root_scale, decay.epsilon);
  tensor.exp_avg[at] = mean;
  tensor.exp_avg_sq[at] = square;
  tensor.values[at] = fmaf(-step.size, move, tensor.values[at]);
}

struct Table {
  HsCudaAdamTensor tensor[kTensors];
  unsigned end[kTensors];  // of the blocks of each tensor
  int tensors;
};

__global__ void __launch_bounds__(kThreads) adam_kernel(Decay decay, Table table, unsigned* ticket) {
  int t = 0;
  while (blockIdx.x >= table.end[t]) ++t;
  const HsCudaAdamTensor& tensor = table.tensor[t];
  const Step step = make_step(decay, tensor);
  const unsigned first = t == 0 ? 0 : table.end[t - 1];
  const int64_t begin = static_cast<int64_t>(blockIdx.x - first) * kPart + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = begin + j * kThreads;
    if (i < tensor.count) adam_element(decay, step, tensor, i, tensor.gradients[i]);
  }
  if (is_last_block(ticket) && static_cast<int>(threadIdx.x) < table.tensors) {
    ++*table.tensor[threadIdx.x].steps;
  }
}

// blockIdx.y is the shape. parts[r, shape, blockIdx.x] = the sum of values times v_blend, before the step.
__global__ void __launch_bounds__(kThreads)
    adam_low_rank_kernel(Decay decay, HsCudaAdamTensor tensor, int64_t rank, int64_t size,
                         const float* __restrict__ weights,  // [rank, shapes]
                         const float* __restrict__ v_blend,  // [rank, size]
                         double* __restrict__ parts, unsigned* ticket) {
  __shared__ double warp_sums[kThreads / kWarp];
  const Step step = make_step(decay, tensor);
  const int64_t shapes = gridDim.y, shape = blockIdx.y;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kPart + threadIdx.x;
  float value[kEach], gradient[kEach] = {};
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = begin + j * kThreads;
    value[j] = i < size ? tensor.values[shape * size + i] : 0.0f;
  }
  for (int64_t r = 0; r < rank; ++r) {
    const float weight = weights[r * shapes + shape];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t i = begin + j * kThreads;
      const float pull = i < size ? v_blend[r * size + i] : 0.0f;
      gradient[j] = fmaf(weight, pull, gradient[j]);
      sum = fmaf(value[j], pull, sum);
    }
    const double total = block_sum<kThreads>(sum, warp_sums);
    if (threadIdx.x == 0) parts[(r * shapes + shape) * gridDim.x + blockIdx.x] = total;
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int64_t i = begin + j * kThreads;
    if (i < size) adam_element(decay, step, tensor, shape * size + i, gradient[j]);
  }
  if (is_last_block(ticket) && threadIdx.x == 0) ++*tensor.steps;
}

}  // namespace
}  // namespace isa_cuda
}  // namespace headsplat

int32_t hs_cuda_adam(const HsAdam* adam, int64_t tensors, const HsCudaAdamTensor* tensor,
                     uint32_t* ticket, void* stream) {
  using namespace headsplat::isa_cuda;
  const Decay decay = make_decay(*adam);
  for (int64_t done = 0; done < tensors; done += kTensors) {
    Table table;
    int64_t blocks = 0;
    table.tensors = static_cast<int>(tensors - done < kTensors ? tensors - done : kTensors);
    for (int t = 0; t < table.tensors; ++t) {
      table.tensor[t] = tensor[done + t];
      // A tensor without elements has a block too, so that its counter advances.
      blocks += tensor[done + t].count > 0 ? parts_of(tensor[done + t].count, kPart) : 1;
      if (blocks > kMostBlocksAcross) return HS_UNSUPPORTED;
      table.end[t] = static_cast<unsigned>(blocks);
    }
    HS_LAUNCH(adam_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), as_stream(stream),
                  decay, table, ticket);
  }
  return HS_OK;
}

int64_t hs_cuda_adam_low_rank_bytes(int64_t rank, int64_t shapes, int64_t size) {
  using namespace headsplat::isa_cuda;
  return rank * shapes * parts_of(size, kPart) * static_cast<int64_t>(sizeof(double));
}

int32_t hs_cuda_adam_low_rank(const HsAdam* adam, const HsCudaAdamTensor* tensor, int64_t rank,
                              int64_t shapes, int64_t size, const float* weights, const float* v_blend,
                              float* v_weights, void* scratch, uint32_t* ticket, void* stream) {
  using namespace headsplat::isa_cuda;
  const int64_t blocks = parts_of(size, kPart);
  if (blocks > kMostBlocksAcross || shapes > kMostBlocksDown || rank * shapes > kMostBlocksAcross) {
    return HS_UNSUPPORTED;
  }
  if (shapes == 0) return HS_OK;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(shapes));
  double* parts = static_cast<double*>(scratch);
  HS_LAUNCH(adam_low_rank_kernel, grid, dim3(kThreads), as_stream(stream), make_decay(*adam), *tensor,
                rank, size, weights, v_blend, parts, ticket);
  HS_LAUNCH(sum_rows_kernel<kThreads>, dim3(static_cast<unsigned>(rank * shapes)), dim3(kThreads),
                as_stream(stream), blocks, parts, v_weights);
  return HS_OK;
}
