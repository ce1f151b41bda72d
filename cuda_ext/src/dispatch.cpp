// The C interface: picks the instruction set and keeps exceptions inside the library.
#include "headsplat.h"
#include "choose.h"
#include "kernels.h"

namespace headsplat {
namespace {

constexpr Paths<Kernels> kPaths = {
    kernels_plain,
    kernels_plain_double,
#if defined(HEADSPLAT_X86)
    kernels_avx2,
    kernels_avx512,
#else
    nullptr,
    nullptr,
#endif
};

// Pair and slot numbers are 32 bits wide.
constexpr int64_t kMostPairs = (int64_t(1) << 32) - 1;

}  // namespace
}  // namespace headsplat

using namespace headsplat;

extern "C" {

int32_t hs_has_simd(int32_t simd) {
  switch (simd) {
    case HS_SIMD_PLAIN:
      return 1;
#if defined(HEADSPLAT_X86)
    case HS_SIMD_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case HS_SIMD_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma");
#endif
    default:
      return 0;
  }
}

int32_t hs_best_simd(void) {
  if (hs_has_simd(HS_SIMD_AVX512)) return HS_SIMD_AVX512;
  if (hs_has_simd(HS_SIMD_AVX2)) return HS_SIMD_AVX2;
  return HS_SIMD_PLAIN;
}

int32_t hs_project(const HsRun* run, const HsScene* scene, void* records, uint16_t* boxes,
                   int64_t* counts) {
  return guarded(run, kPaths, [&](const Kernels& k) { k.project(*run, *scene, records, boxes, counts); });
}

int64_t hs_state_bytes(const HsScene* scene, int64_t pair_bound) {
  return kernels_plain()->state_bytes(*scene, pair_bound);
}

int32_t hs_rasterize(const HsRun* run, const HsScene* scene, const void* records, const uint16_t* boxes,
                     int64_t pair_bound, void* state, const HsPicture* picture, int64_t* pairs) {
  if (pair_bound > kMostPairs) return HS_TOO_MANY_PAIRS;
  return guarded(run, kPaths, [&](const Kernels& k) {
    *pairs = k.rasterize(*run, *scene, records, boxes, pair_bound, state, *picture, nullptr);
  });
}

int32_t hs_rasterize_backward(const HsRun* run, const HsScene* scene, const void* records,
                              int64_t pair_bound, const void* state, const HsPicture* picture,
                              const HsGradients* gradients) {
  return guarded(run, kPaths, [&](const Kernels& k) {
    k.rasterize_backward(*run, *scene, records, pair_bound, state, *picture, *gradients);
  });
}

int32_t hs_count_work(const HsRun* run, const HsScene* scene, const void* records, const uint16_t* boxes,
                      int64_t pair_bound, void* state, const HsPicture* picture, int64_t* work) {
  if (pair_bound > kMostPairs) return HS_TOO_MANY_PAIRS;
  HsRun alone = *run;
  alone.threads = 1;
  work[0] = work[1] = 0;
  return guarded(&alone, kPaths, [&](const Kernels& k) {
    k.rasterize(alone, *scene, records, boxes, pair_bound, state, *picture, work);
  });
}

int32_t hs_fma_rate(const HsRun* run, double* operations_per_second) {
  return guarded(run, kPaths, [&](const Kernels& k) { *operations_per_second = k.fma_rate(*run); });
}

int32_t hs_pose(const HsRun* run, const HsPose* pose, const HsPosed* posed) {
  bool good = true;
  const int32_t code = guarded(run, kPaths, [&](const Kernels& k) { good = k.pose(*run, *pose, *posed); });
  return good ? code : HS_BAD_INDEX;
}

int32_t hs_pose_backward(const HsRun* run, const HsPose* pose, const HsPoseGradients* gradients) {
  bool good = true;
  const int32_t code =
      guarded(run, kPaths, [&](const Kernels& k) { good = k.pose_backward(*run, *pose, *gradients); });
  return good ? code : HS_BAD_INDEX;
}

}  // extern "C"
