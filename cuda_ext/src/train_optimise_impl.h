// The blend of offset shapes and Adam, for one instruction set. All of it waits for memory, so each
// kernel touches every number once.
#pragma once

#include "train_parallel.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// Elements of a task. The shapes of a block are visited in turn, so what they share (blend, gradient)
// stays in the first-level cache while each shape is one long run for the prefetcher.
constexpr int64_t kBlock = 4096;

static void blend(const HsRun& run, int64_t shapes, int64_t size, const float* offsets,
                  const float* weights, float* blend) {
  each((size + kBlock - 1) / kBlock, run.threads, [&](int64_t task, int) {
    const int64_t begin = task * kBlock, end = least(begin + kBlock, size);
    memset(blend + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
    for (int64_t k = 0; k < shapes; ++k) {
      const float* shape = offsets + k * size;
      const Wide weight(weights[k]);
      each_vector(begin, end, [&](int64_t i, auto load, auto store) HS_INLINE_LAMBDA {
        store(blend + i, fma(weight, load(shape + i), load(blend + i)));
      });
    }
  });
}

// Sum of a[i] b[i] over [begin, end), in double.
HS_FN double inner(const float* a, const float* b, int64_t begin, int64_t end) {
  Wide sum[4] = {Wide(0.0f), Wide(0.0f), Wide(0.0f), Wide(0.0f)};
  int64_t i = begin;
  for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const int64_t at = i + j * kLanes;
      sum[j] = fma(Wide::load(a + at), Wide::load(b + at), sum[j]);
    }
  }
  each_vector(i, end, [&](int64_t at, auto load, auto) HS_INLINE_LAMBDA {
    sum[0] = fma(load(a + at), load(b + at), sum[0]);
  });
  return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static void blend_backward(const HsRun& run, int64_t shapes, int64_t size, const float* offsets,
                           const float* v_blend, float* v_weights) {
  const int64_t tasks = (size + kBlock - 1) / kBlock;
  Scratch scratch(static_cast<size_t>(tasks * shapes + 1) * sizeof(double));
  double* part = scratch.take<double>(static_cast<size_t>(tasks * shapes));
  each(tasks, run.threads, [&](int64_t task, int) {
    const int64_t begin = task * kBlock, end = least(begin + kBlock, size);
    for (int64_t k = 0; k < shapes; ++k) {
      part[task * shapes + k] = inner(offsets + k * size, v_blend, begin, end);
    }
  });
  for (int64_t k = 0; k < shapes; ++k) {
    double sum = 0;
    for (int64_t task = 0; task < tasks; ++task) sum += part[task * shapes + k];
    v_weights[k] = static_cast<float>(sum);
  }
}

// The numbers of one tensor's step, in every lane.
struct AdamRates {
  Wide toward_gradient, keep_square, new_square, epsilon, step_size, root_scale;

  AdamRates(const HsAdam& adam, const HsAdamTensor& tensor)
      : toward_gradient(1 - adam.beta1),
        keep_square(adam.beta2),
        new_square(1 - adam.beta2),
        epsilon(adam.epsilon),
        step_size(tensor.step_size),
        root_scale(1 / tensor.root_correction) {}
};

template <class Load, class Store>
HS_FN void adam_vector(const AdamRates& rates, const HsAdamTensor& tensor, int64_t at, Wide gradient,
                       const Load& load, const Store& store) {
  const Wide old = load(tensor.exp_avg + at);
  const Wide mean = fma(rates.toward_gradient, gradient - old, old);
  const Wide square = fma(rates.keep_square, load(tensor.exp_avg_sq + at),
                          rates.new_square * gradient * gradient);
  const Wide step = mean / fma(sqrt(square), rates.root_scale, rates.epsilon);
  store(tensor.exp_avg + at, mean);
  store(tensor.exp_avg_sq + at, square);
  store(tensor.values + at, fnma(rates.step_size, step, load(tensor.values + at)));
}

static void adam(const HsRun& run, const HsAdam& adam, int64_t tensors, const HsAdamTensor* tensor) {
  int64_t tasks = 0;
  for (int64_t t = 0; t < tensors; ++t) tasks += (tensor[t].count + kBlock - 1) / kBlock;
  each(tasks, run.threads, [&](int64_t task, int) {
    const HsAdamTensor* own = tensor;
    for (;; ++own) {
      const int64_t blocks = (own->count + kBlock - 1) / kBlock;
      if (task < blocks) break;
      task -= blocks;
    }
    const AdamRates rates(adam, *own);
    each_vector(task * kBlock, least((task + 1) * kBlock, own->count),
                [&](int64_t i, auto load, auto store) HS_INLINE_LAMBDA {
                  adam_vector(rates, *own, i, load(own->gradients + i), load, store);
                });
  });
}

// The gradient is the sum over `rank` frames of weights[r, k] v_blend[r, i]. The offsets pass through the
// processor here anyway, so the gradient of the weights, which needs them too, is summed on the way.
static void adam_low_rank(const HsRun& run, const HsAdam& adam, const HsAdamTensor& tensor, int64_t rank,
                          int64_t shapes, int64_t size, const float* weights, const float* v_blend,
                          float* v_weights) {
  const AdamRates rates(adam, tensor);
  const int64_t tasks = (size + kBlock - 1) / kBlock, sums = rank * shapes;
  Scratch scratch(static_cast<size_t>(tasks * sums + 1) * sizeof(double));
  double* part = scratch.take<double>(static_cast<size_t>(tasks * sums));
  each(tasks, run.threads, [&](int64_t task, int) {
    const int64_t begin = task * kBlock, end = least(begin + kBlock, size);
    for (int64_t k = 0; k < shapes; ++k) {
      const float* shape = tensor.values + k * size;
      for (int64_t r = 0; r < rank; ++r) part[task * sums + r * shapes + k] = inner(shape, v_blend + r * size, begin, end);
      const Wide weight(weights[k]);
      each_vector(begin, end, [&](int64_t i, auto load, auto store) HS_INLINE_LAMBDA {
        Wide gradient = weight * load(v_blend + i);
        for (int64_t r = 1; r < rank; ++r) {
          gradient = fma(Wide(weights[r * shapes + k]), load(v_blend + r * size + i), gradient);
        }
        adam_vector(rates, tensor, k * size + i, gradient, load, store);
      });
    }
  });
  for (int64_t sum = 0; sum < sums; ++sum) {
    double whole = 0;
    for (int64_t task = 0; task < tasks; ++task) whole += part[task * sums + sum];
    v_weights[sum] = static_cast<float>(whole);
  }
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
