// What the training kernels share: a parallel loop over a callable, and vectors at a ragged end.
#pragma once

#include <stdint.h>
#include <string.h>

#include "parallel.h"
#include "simd.h"

// Lambdas that a hot loop calls from many unrolled places must be inlined, or their vectors go through
// memory.
#define HS_INLINE_LAMBDA __attribute__((always_inline))

namespace headsplat {
namespace HEADSPLAT_ISA {

constexpr int kLanes = 16;

// f(index, worker) for every index in [0, count), with denormals flushed to zero.
template <class F>
static void each(int64_t count, int threads, const F& f) {
  const auto call = [](void* context, int64_t index, int worker) {
    FlushDenormals flush;
    (*static_cast<const F*>(context))(index, worker);
  };
  parallel_for(count, threads, call, const_cast<void*>(static_cast<const void*>(&f)));
}

HS_FN int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
HS_FN int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

// The first `count` < 16 lanes from memory, zeros behind them.
HS_FN Wide load_some(const float* p, int64_t count) {
  float lanes[kLanes] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
  return Wide::load(lanes);
}

HS_FN void store_some(float* p, Wide value, int64_t count) {
  float lanes[kLanes];
  value.store(lanes);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

// Calls f(index, load, store) for vectors that cover [begin, end), the last of them perhaps partly.
template <class F>
HS_FN void each_vector(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    f(
        i, [](const float* p) HS_INLINE_LAMBDA { return Wide::load(p); },
        [](float* p, Wide value) HS_INLINE_LAMBDA { value.store(p); });
  }
  if (i < end) {
    const int64_t count = end - i;
    f(
        i, [count](const float* p) { return load_some(p, count); },
        [count](float* p, Wide value) { store_some(p, value, count); });
  }
}

// Sum of the lanes, in their order and in double.
HS_FN double total(Wide value) {
  float lanes[kLanes];
  value.store(lanes);
  double sum = 0;
  for (const float lane : lanes) sum += static_cast<double>(lane);
  return sum;
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
