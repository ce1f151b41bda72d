// The C interface of the headsplat kernels: plain pointers and sizes, no torch, no Python.
//
// All arrays are dense and row-major; `real` is float (precision 0) or double (precision 1).
// Results are the same bit for bit for every number of threads. Functions return 0, or a negative HsError.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define HS_API __declspec(dllexport)
#else
#define HS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum HsError {
  HS_OK = 0,
  HS_OUT_OF_MEMORY = -1,
  HS_UNSUPPORTED = -2,
  HS_TOO_MANY_PAIRS = -3,
  HS_BAD_INDEX = -4
};
enum HsSimd { HS_SIMD_AUTO = 0, HS_SIMD_PLAIN = 1, HS_SIMD_AVX2 = 2, HS_SIMD_AVX512 = 3 };

// How to run a kernel.
typedef struct HsRun {
  int32_t precision;  // 0 float, 1 double (double runs on the plain path only)
  int32_t simd;       // HsSimd
  int32_t threads;    // at least 1
} HsRun;

// What to draw. N = count, C = channels.
typedef struct HsScene {
  int64_t count, channels, width, height;
  const void* means;       // real [N, 3] metres, world
  const void* quats;       // real [N, 4] wxyz, any length
  const void* scales;      // real [N, 3] metres
  const void* opacities;   // real [N] in [0, 1]
  const void* colours;     // real [N, C]
  const void* background;  // real [C] or [H, W, C], or null for zero
  int64_t background_stride;  // reals from one pixel's background to the next: 0 or C
  const void* means2d_offset;  // real [N, 2] pixels added to the projected centres, or null
  const void* K;            // real [3, 3] pixels
  const void* T_cam_world;  // real [4, 4]
} HsScene;

typedef struct HsPicture {
  void* image;  // real [H, W, C]
  void* alpha;  // real [H, W]
  void* depth;  // real [H, W] metres
} HsPicture;

// Gradients of the loss; a null input means zero, a null output is not wanted.
typedef struct HsGradients {
  const void *v_image, *v_alpha, *v_depth;                    // as HsPicture
  void *v_means, *v_quats, *v_scales, *v_opacities, *v_colours;  // as HsScene
  void* v_means2d;      // real [N, 2] pixels
  void* v_background;   // real [H, W, C]: gradient of each pixel's background colour
  void* v_T_cam_world;  // real [4, 4]; the last row is zero
} HsGradients;

// The best path that this machine runs (an HsSimd), and whether it runs a given one.
HS_API int32_t hs_best_simd(void);
HS_API int32_t hs_has_simd(int32_t simd);

// Project every Gaussian. records: real [N, 16]; boxes: uint16 [N, 4] tile box (x0, x1, y0, y1; ends
// exclusive; empty where invisible). counts: [0] visible Gaussians, [1] an upper bound of the pairs of
// a Gaussian and a tile.
HS_API int32_t hs_project(const HsRun* run, const HsScene* scene, void* records, uint16_t* boxes,
                          int64_t* counts);

// Bytes of the state that hs_rasterize leaves for hs_rasterize_backward; `pair_bound` from hs_project.
HS_API int64_t hs_state_bytes(const HsScene* scene, int64_t pair_bound);

// Sort, bin and blend. `pairs` receives the exact number of pairs.
HS_API int32_t hs_rasterize(const HsRun* run, const HsScene* scene, const void* records,
                            const uint16_t* boxes, int64_t pair_bound, void* state,
                            const HsPicture* picture, int64_t* pairs);

// Gradients of everything, from the picture and the state of the forward pass.
HS_API int32_t hs_rasterize_backward(const HsRun* run, const HsScene* scene, const void* records,
                                     int64_t pair_bound, const void* state, const HsPicture* picture,
                                     const HsGradients* gradients);

// For `avatar bench`: draws as hs_rasterize does, with one thread, and counts work[0] lanes (pixels of a
// block, for each Gaussian that the block was blended with) and work[1] those of them that the Gaussian
// really reached.
HS_API int32_t hs_count_work(const HsRun* run, const HsScene* scene, const void* records,
                             const uint16_t* boxes, int64_t pair_bound, void* state,
                             const HsPicture* picture, int64_t* work);

// Floating-point operations a second that `threads` threads together do in nothing but multiply-adds
// (two operations each) of this instruction set, in float: what a kernel's speed is held against.
HS_API int32_t hs_fma_rate(const HsRun* run, double* operations_per_second);

#ifdef __cplusplus
}
#endif
