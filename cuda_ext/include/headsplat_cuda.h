// The C interface of the CUDA rasterizer: the structures of headsplat.h, with device pointers to float.
//
// Nothing here waits for the device, allocates on it or uses its default stream: every call only puts
// work on `stream`, so that a whole training step can be captured into a CUDA graph. Results are the
// same bit for bit from run to run. Functions return 0 (or a number of bytes), or a negative code for
// hs_cuda_message.
#pragma once

#include "headsplat.h"

#ifdef __cplusplus
extern "C" {
#endif

// Codes at and below this are CUDA's own: HS_CUDA_ERROR - cudaError_t.
enum { HS_CUDA_ERROR = -1000 };

// How gradients are summed: over the pixels of a warp, Gaussian by Gaussian; or by a lane for each of
// 32 Gaussians, pixel by pixel, which takes checkpoints from the forward pass.
enum HsCudaBackward { HS_CUDA_BACKWARD_WARP = 0, HS_CUDA_BACKWARD_GAUSSIAN = 1 };

// A code in words, with what to do; valid until the thread asks again.
HS_API const char* hs_cuda_message(int32_t code);

// Number of CUDA devices. hs_cuda_use_device: calls of this thread go to that one from here on; this
// library has a CUDA runtime of its own, which does not know what torch chose.
HS_API int32_t hs_cuda_devices(void);
HS_API int32_t hs_cuda_use_device(int32_t device);

// Bytes of the state that hs_cuda_rasterize leaves for hs_cuda_rasterize_backward, and of the scratch
// that each of the two may overwrite. `capacity`: room for that many pairs of a Gaussian and a tile.
// Of a scene only the counts and sizes are read here.
HS_API int64_t hs_cuda_state_bytes(const HsScene* scene, int64_t capacity, int32_t backward);
HS_API int64_t hs_cuda_scratch_bytes(const HsScene* scene, int64_t capacity);

// Project, sort, bin and blend. records: float [N, 16], boxes: uint16 [N, 4], both as hs_project gives
// them. counts: int64 [4] visible Gaussians, pairs that there are, pairs that were drawn, 0. Where
// there are more pairs than `capacity`, the farthest are left out: grow and draw again. records, boxes,
// counts, state and scratch begin at multiples of 16 bytes.
HS_API int32_t hs_cuda_rasterize(const HsScene* scene, int64_t capacity, int32_t backward, float* records,
                                 uint16_t* boxes, void* state, void* scratch, const HsPicture* picture,
                                 int64_t* counts, void* stream);

// Gradients of everything, from the picture and the state of the forward pass; `capacity` and
// `backward` as they were there.
HS_API int32_t hs_cuda_rasterize_backward(const HsScene* scene, int64_t capacity, int32_t backward,
                                          const float* records, const void* state, void* scratch,
                                          const HsPicture* picture, const HsGradients* gradients, void* stream);

#ifdef __cplusplus
}
#endif
