// The C interface of the training kernels: picks the instruction set, keeps exceptions inside.
#include "choose.h"
#include "train_kernels.h"

namespace headsplat {
namespace {

constexpr Paths<TrainKernels> kPaths = {
    train_kernels_plain,
    nullptr,
#if defined(HEADSPLAT_X86)
    train_kernels_avx2,
    train_kernels_avx512,
#else
    nullptr,
    nullptr,
#endif
};

}  // namespace
}  // namespace headsplat

using namespace headsplat;

extern "C" {

int32_t hs_unpack_target(const HsRun* run, int64_t pixels, const uint8_t* rgba, const float* background,
                         float* picture, float* mask) {
  return guarded(run, kPaths, [&](const TrainKernels& k) {
    k.unpack_target(*run, pixels, rgba, background, picture, mask);
  });
}

int32_t hs_l1_ssim(const HsRun* run, int64_t height, int64_t width, const float* image,
                   const float* target, double ssim_weight, float* loss, float* v_image) {
  return guarded(run, kPaths, [&](const TrainKernels& k) {
    k.l1_ssim(*run, height, width, image, target, ssim_weight, loss, v_image);
  });
}

int32_t hs_blend(const HsRun* run, int64_t shapes, int64_t size, const float* offsets,
                 const float* weights, float* blend) {
  return guarded(run, kPaths, [&](const TrainKernels& k) {
    k.blend(*run, shapes, size, offsets, weights, blend);
  });
}

int32_t hs_blend_backward(const HsRun* run, int64_t shapes, int64_t size, const float* offsets,
                          const float* v_blend, float* v_weights) {
  return guarded(run, kPaths, [&](const TrainKernels& k) {
    k.blend_backward(*run, shapes, size, offsets, v_blend, v_weights);
  });
}

int32_t hs_adam(const HsRun* run, const HsAdam* adam, int64_t tensors, const HsAdamTensor* tensor) {
  return guarded(run, kPaths, [&](const TrainKernels& k) { k.adam(*run, *adam, tensors, tensor); });
}

int32_t hs_adam_low_rank(const HsRun* run, const HsAdam* adam, const HsAdamTensor* tensor, int64_t rank,
                         int64_t shapes, int64_t size, const float* weights, const float* v_blend,
                         float* v_weights) {
  return guarded(run, kPaths, [&](const TrainKernels& k) {
    k.adam_low_rank(*run, *adam, *tensor, rank, shapes, size, weights, v_blend, v_weights);
  });
}

}  // extern "C"
