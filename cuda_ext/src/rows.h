// What kernels over Gaussians share: a parallel loop over a callable, and the way between rows of an
// array [N, W] and W vectors of 16 Gaussians.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// Gaussians of one task.
constexpr int64_t kGaussianChunk = 512;

template <class F>
static inline void parallel(int64_t count, int threads, const F& f) {
  parallel_for(
      count, threads,
      [](void* context, int64_t index, int worker) { (*static_cast<const F*>(context))(index, worker); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

template <class T>
HS_FN T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
HS_FN T larger(T a, T b) {
  return a > b ? a : b;
}

// Reads up to 16 rows of W numbers, transposed; missing rows repeat the first.
template <class V, int W, class Real = typename V::Real>
HS_FN void gather_rows(const void* array, int64_t first, int count, V* out) {
  const Real* from = static_cast<const Real*>(array) + first * W;
  if (W == 1 && count == kLanes) {
    out[0] = V::load(from);
  } else if (W == 3 && count == kLanes) {
    deinterleave(from, out);
  } else {
    alignas(64) Real rows[W][kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Real* row = from + (lane < count ? lane : 0) * W;
      for (int k = 0; k < W; ++k) rows[k][lane] = row[k];
    }
    for (int k = 0; k < W; ++k) out[k] = V::load(rows[k]);
  }
}

template <class V, int W, class Real = typename V::Real>
HS_FN void scatter_rows(void* array, int64_t first, int count, const V* in) {
  if (array == nullptr) return;
  Real* to = static_cast<Real*>(array) + first * W;
  if (W == 1 && count == kLanes) {
    in[0].store(to);
  } else if (W == 3 && count == kLanes) {
    interleave(in, to);
  } else {
    alignas(64) Real rows[W][kLanes];
    for (int k = 0; k < W; ++k) in[k].store(rows[k]);
    for (int lane = 0; lane < count; ++lane) {
      for (int k = 0; k < W; ++k) to[lane * W + k] = rows[k][lane];
    }
  }
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
