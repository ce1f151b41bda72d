// The C interface of the CUDA training kernels: posing, the picture loss, the blend of offset shapes, Adam.
//
// The definitions are those of headsplat_train.h and headsplat_pose.h. All arrays are dense, row-major, float, and in device
// memory unless marked "host". Nothing here allocates, waits for the device or reads from it, so that every
// function may be captured in a CUDA graph; what changes from step to step lies in device memory. Sums
// are taken in a fixed order: the same input gives the same bits. Functions return 0 (or a number of
// bytes), or a negative code for hs_cuda_message.
#pragma once

#include "headsplat_cuda.h"
#include "headsplat_pose.h"
#include "headsplat_train.h"

#ifdef __cplusplus
extern "C" {
#endif

// As hs_pose and hs_pose_backward; the structures are host memory, their arrays device memory. A
// Gaussian whose corner is no vertex becomes NaN, so that it is not drawn.
HS_API int32_t hs_cuda_pose(const HsPose* pose, const HsPosed* posed, void* stream);
HS_API int32_t hs_cuda_pose_backward(const HsPose* pose, const HsPoseGradients* gradients, void* stream);

// Bytes of scratch memory for hs_cuda_l1_ssim; `with_gradient` is 0 where v_image is null.
HS_API int64_t hs_cuda_l1_ssim_bytes(int64_t height, int64_t width, int32_t with_gradient);

// As hs_l1_ssim. `loss` [1]; `scratch` has hs_cuda_l1_ssim_bytes and is aligned to 16 bytes.
HS_API int32_t hs_cuda_l1_ssim(int64_t height, int64_t width, const float* image, const float* target,
                               double ssim_weight, float* loss, float* v_image, void* scratch,
                               void* stream);

// As hs_blend.
HS_API int32_t hs_cuda_blend(int64_t shapes, int64_t size, const float* offsets, const float* weights,
                             float* blend, void* stream);

// Bytes of scratch memory for hs_cuda_blend_backward.
HS_API int64_t hs_cuda_blend_backward_bytes(int64_t shapes, int64_t size);

// As hs_blend_backward; the gradient of the offsets is weights[k] v_blend[i], which
// hs_cuda_adam_low_rank takes without its being written.
HS_API int32_t hs_cuda_blend_backward(int64_t shapes, int64_t size, const float* offsets,
                                      const float* v_blend, float* v_weights, void* scratch, void* stream);

// One tensor under Adam. Rate and counter are in device memory, so that a captured step goes on counting
// and takes rates that are written between replays.
typedef struct HsCudaAdamTensor {
  int64_t count;
  float* values;           // [count]
  const float* gradients;  // [count]
  float* exp_avg;          // [count] first moment
  float* exp_avg_sq;       // [count] second moment
  const float* rate;       // [1] learning rate
  int64_t* steps;          // [1] steps taken; this call adds one. No two tensors may share it
} HsCudaAdamTensor;

// A step of Adam on each tensor; `adam` and `tensor` [tensors] are host memory and need not outlive the
// call. `ticket` [1] must be zero, and is left zero.
HS_API int32_t hs_cuda_adam(const HsAdam* adam, int64_t tensors, const HsCudaAdamTensor* tensor,
                            uint32_t* ticket, void* stream);

// Bytes of scratch memory for hs_cuda_adam_low_rank.
HS_API int64_t hs_cuda_adam_low_rank_bytes(int64_t rank, int64_t shapes, int64_t size);

// As hs_adam_low_rank; `adam` and `tensor` [1] are host memory, `ticket` as above.
HS_API int32_t hs_cuda_adam_low_rank(const HsAdam* adam, const HsCudaAdamTensor* tensor, int64_t rank,
                                     int64_t shapes, int64_t size, const float* weights,
                                     const float* v_blend, float* v_weights, void* scratch,
                                     uint32_t* ticket, void* stream);

#ifdef __cplusplus
}
#endif
