// The training kernels for one instruction set: compiled once for each HEADSPLAT_LEVEL.
#include "train_kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 says so of its own headers wherever _mm512_sqrt_ps is inlined into a lambda.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "train_loss_impl.h"
#include "train_optimise_impl.h"
#include "train_target_impl.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

static const TrainKernels* train_table() {
  static const TrainKernels kernels = {unpack_target, l1_ssim, blend, blend_backward, adam, adam_low_rank};
  return &kernels;
}

}  // namespace HEADSPLAT_ISA

#if HEADSPLAT_LEVEL == 3
const TrainKernels* train_kernels_avx512() { return HEADSPLAT_ISA::train_table(); }
#elif HEADSPLAT_LEVEL == 2
const TrainKernels* train_kernels_avx2() { return HEADSPLAT_ISA::train_table(); }
#else
const TrainKernels* train_kernels_plain() { return HEADSPLAT_ISA::train_table(); }
#endif

}  // namespace headsplat
