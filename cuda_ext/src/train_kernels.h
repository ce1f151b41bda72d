// What one instruction set offers for training; train_dispatch.cpp picks a table at run time.
#pragma once

#include "headsplat_train.h"

namespace headsplat {

struct TrainKernels {
  void (*unpack_target)(const HsRun&, int64_t pixels, const uint8_t* rgba, const float* background,
                        float* picture, float* mask);
  void (*l1_ssim)(const HsRun&, int64_t height, int64_t width, const float* image, const float* target,
                  double ssim_weight, float* loss, float* v_image);
  void (*blend)(const HsRun&, int64_t shapes, int64_t size, const float* offsets, const float* weights,
                float* blend);
  void (*blend_backward)(const HsRun&, int64_t shapes, int64_t size, const float* offsets,
                         const float* v_blend, float* v_weights);
  void (*adam)(const HsRun&, const HsAdam&, int64_t tensors, const HsAdamTensor* tensor);
  void (*adam_low_rank)(const HsRun&, const HsAdam&, const HsAdamTensor&, int64_t rank, int64_t shapes,
                        int64_t size, const float* weights, const float* v_blend, float* v_weights);
};

// Defined where the library is built with that instruction set.
const TrainKernels* train_kernels_plain();
const TrainKernels* train_kernels_avx2();
const TrainKernels* train_kernels_avx512();

}  // namespace headsplat
