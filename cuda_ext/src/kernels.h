// What one instruction set offers; dispatch.cpp picks a table at run time.
#pragma once

#include "headsplat.h"
#include "headsplat_pose.h"

namespace headsplat {

struct Kernels {
  void (*project)(const HsRun&, const HsScene&, void* records, uint16_t* boxes, int64_t* counts);
  // Counts lanes where `work` is not null.
  int64_t (*rasterize)(const HsRun&, const HsScene&, const void* records, const uint16_t* boxes,
                       int64_t pair_bound, void* state, const HsPicture&, int64_t* work);
  void (*rasterize_backward)(const HsRun&, const HsScene&, const void* records, int64_t pair_bound,
                             const void* state, const HsPicture&, const HsGradients&);
  int64_t (*state_bytes)(const HsScene&, int64_t pair_bound);
  // False where a corner is no vertex of the lattice.
  bool (*pose)(const HsRun&, const HsPose&, const HsPosed&);
  bool (*pose_backward)(const HsRun&, const HsPose&, const HsPoseGradients&);
  double (*fma_rate)(const HsRun&);
};

// Null where the library was built without that instruction set.
const Kernels* kernels_plain();
const Kernels* kernels_plain_double();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace headsplat
