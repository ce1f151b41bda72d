// The C interface of posing: an avatar's parameters and a state to the Gaussians that are drawn.
//
// All arrays are dense and row-major; `real` is float (precision 0) or double (precision 1). Results are
// the same bit for bit for every number of threads. Functions return 0, or a negative HsError.
#pragma once

#include "headsplat.h"

#ifdef __cplusplus
extern "C" {
#endif

// Offset channels of a Gaussian: mean (3), quaternion (4), log scale (3), colour (3).
enum { HS_OFFSET_CHANNELS = 13 };

// What is posed, and how. N = count Gaussians, V = vertices of the face lattice.
typedef struct HsPose {
  int64_t count, vertices;
  const void* means;            // real [N, 3] metres, head frame, neutral face
  const void* quats;            // real [N, 4] wxyz, any length
  const void* log_scales;       // real [N, 3] of metres
  const void* logit_opacities;  // real [N]
  const void* colours;          // real [N, 3]
  const void* torso_logits;     // real [N] of the share of the torso's motion
  const void* offsets;          // real [N, 13] in units of `units`
  const void* units;            // real [13]
  const int32_t* corners;       // [N, 3] vertices that the Gaussian follows
  const void* corner_weights;   // real [N, 3]
  const int8_t* eye;            // [N] 0 or 1 for a Gaussian of that eyeball, else -1
  const void* displacement;     // real [V, 3] metres, of the lattice from neutral
  const void* T_world_head;     // real [4, 4]
  const void* T_world_torso;    // real [4, 4]
  const void* eye_turns;        // real [2, 2] yaw to the left and pitch up from rest, radians
  const void* eye_centres;      // real [2, 3] metres, head frame
} HsPose;

// The Gaussians as HsScene has them.
typedef struct HsPosed {
  void *means, *quats, *scales, *opacities, *colours;
} HsPosed;

// Gradients of the loss to what HsPose holds; a null input means zero.
typedef struct HsPoseGradients {
  const void *v_means, *v_quats, *v_scales, *v_opacities, *v_colours;  // as HsPosed
  void *v_local_means, *v_local_quats, *v_log_scales, *v_logit_opacities, *v_local_colours;
  void* v_torso_logits;
  void* v_offsets;  // real [N, 13]
} HsPoseGradients;

HS_API int32_t hs_pose(const HsRun* run, const HsPose* pose, const HsPosed* posed);
HS_API int32_t hs_pose_backward(const HsRun* run, const HsPose* pose, const HsPoseGradients* gradients);

#ifdef __cplusplus
}
#endif
