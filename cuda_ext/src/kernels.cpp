// The rasterizer for one instruction set: compiled once for each HEADSPLAT_LEVEL.
#include "kernels.h"

#include "raster_impl.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

template <class V>
static const Kernels* table() {
  static const Kernels kernels = {project_all<V>, rasterize<V>, rasterize_backward<V>, State::bytes};
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
