// The rasterizer and the posing for one instruction set: compiled once for each HEADSPLAT_LEVEL.
#include "kernels.h"

#include <chrono>

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 says so of its own headers wherever an intrinsic is inlined into a lambda.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "pose_impl.h"
#include "raster_impl.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// Twelve independent chains of multiply-adds a thread: enough to hide their latency on every machine.
template <class V>
static double fma_rate(const HsRun& run) {
  using Real = typename V::Real;
  constexpr int kChains = 12;
  constexpr int64_t kRounds = 100000;
  const auto start = std::chrono::steady_clock::now();
  std::atomic<int> finite{0};
  parallel(run.threads, run.threads, [&](int64_t, int) {
    V sum[kChains];
    for (int i = 0; i < kChains; ++i) sum[i] = V(Real(i));
    const V scale(Real(0.999)), shift(Real(0.001));
    for (int64_t round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], scale, shift);
    }
    V total = sum[0];
    for (int i = 1; i < kChains; ++i) total = total + sum[i];
    finite += any(total >= V(0));  // the results are used, or there would be no loop
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return finite.load() == 0 ? 0 : 2.0 * kLanes * kChains * double(kRounds) * run.threads / seconds;
}

template <class V>
static const Kernels* table() {
  static const Kernels kernels = {project_all<V>, rasterize<V>, rasterize_backward<V>, State::bytes,
                                  pose<V>, pose_backward<V>, fma_rate<V>};
  return &kernels;
}

}  // namespace HEADSPLAT_ISA

#if HEADSPLAT_LEVEL == 3
const Kernels* kernels_avx512() { return HEADSPLAT_ISA::table<HEADSPLAT_ISA::Wide>(); }
#elif HEADSPLAT_LEVEL == 2
const Kernels* kernels_avx2() { return HEADSPLAT_ISA::table<HEADSPLAT_ISA::Wide>(); }
#else
const Kernels* kernels_plain() { return HEADSPLAT_ISA::table<HEADSPLAT_ISA::Wide>(); }
// Double exists for proof, not for speed: the same formulas at 1e-16, for gradcheck.
const Kernels* kernels_plain_double() { return HEADSPLAT_ISA::table<HEADSPLAT_ISA::Lanes<double>>(); }
#endif

}  // namespace headsplat
