// The C interface of the training kernels: target pictures, the picture loss, the blend of offset shapes,
// and Adam.
//
// All arrays are dense, row-major and float unless noted (HsRun.precision must be 0). Results are the same bit for
// bit for every number of threads. Functions return 0, or a negative HsError. Denormals count as zero.
#pragma once

#include "headsplat.h"

#ifdef __cplusplus
extern "C" {
#endif

// Adam with decay rates `beta1`, `beta2` (Kingma and Ba 2015, algorithm 1); `epsilon` as torch.optim.Adam
// has it, beside the corrected root.
typedef struct HsAdam {
  double beta1, beta2, epsilon;
} HsAdam;

// One tensor under Adam. `step_size` is lr / (1 - beta1^t), `root_correction` is sqrt(1 - beta2^t), t
// counting this step as well.
typedef struct HsAdamTensor {
  int64_t count;
  float* values;           // [count]
  const float* gradients;  // [count]
  float* exp_avg;          // [count] first moment
  float* exp_avg_sq;       // [count] second moment
  double step_size, root_correction;
} HsAdamTensor;

// Of bytes `rgba` [pixels, 4], a person on white and the mask: mask [pixels] = the fourth / 255 and picture
// [pixels, 3] = red, green, blue / 255, with white changed to `background` [3] where that is not null.
HS_API int32_t hs_unpack_target(const HsRun* run, int64_t pixels, const uint8_t* rgba,
                                const float* background, float* picture, float* mask);

// loss = (1 - ssim_weight) mean|image - target| + ssim_weight (1 - mean SSIM), pictures [height, width, 3];
// SSIM of Wang et al. 2004: Gaussian window of 11x11 with sigma 1.5, zeros beyond the border, data range
// 1. `v_image` [height, width, 3] receives d loss / d image; null where it is not wanted.
HS_API int32_t hs_l1_ssim(const HsRun* run, int64_t height, int64_t width, const float* image,
                          const float* target, double ssim_weight, float* loss, float* v_image);

// blend[i] = sum_k weights[k] offsets[k, i], i < size, k < shapes.
HS_API int32_t hs_blend(const HsRun* run, int64_t shapes, int64_t size, const float* offsets,
                        const float* weights, float* blend);

// v_weights[k] = sum_i offsets[k, i] v_blend[i].
HS_API int32_t hs_blend_backward(const HsRun* run, int64_t shapes, int64_t size, const float* offsets,
                                 const float* v_blend, float* v_weights);

// A step of Adam on each tensor.
HS_API int32_t hs_adam(const HsRun* run, const HsAdam* adam, int64_t tensors, const HsAdamTensor* tensor);

// A step of Adam on one tensor [shapes, size] whose gradient is sum_r weights[r, k] v_blend[r, i],
// r < rank; `gradients` of the tensor is not read, its count is shapes * size. `v_weights` [rank, shapes]
// receives sum_i values[k, i] v_blend[r, i], with the values as they were before the step.
HS_API int32_t hs_adam_low_rank(const HsRun* run, const HsAdam* adam, const HsAdamTensor* tensor,
                                int64_t rank, int64_t shapes, int64_t size, const float* weights,
                                const float* v_blend, float* v_weights);

#ifdef __cplusplus
}
#endif
