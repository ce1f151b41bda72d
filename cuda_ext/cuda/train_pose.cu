// Posing all Gaussians of an avatar and the way back, a thread for each; the formulas are pose_math.h's.
#include <math.h>

#include "raster.cuh"  // what the maths headers expect of float
#include "train_common.cuh"

namespace headsplat {
namespace isa_cuda {
HS_BOTH float exp2(float x) { return exp2f(x); }
}  // namespace isa_cuda
}  // namespace headsplat

#include "pose_math.h"

namespace headsplat {
namespace isa_cuda {
namespace {

constexpr int kGaussians = 128;  // of a block

// HsPose with its types.
struct Rest {
  int64_t count, vertices;
  const float *means, *quats, *log_scales, *logit_opacities, *colours, *torso_logits, *offsets, *units;
  const int32_t* corners;
  const float* corner_weights;
  const int8_t* eye;
  const float *displacement, *T_world_head, *T_world_torso, *eye_turns, *eye_centres;
};

const float* reals(const void* array) { return static_cast<const float*>(array); }

Rest rest_of(const HsPose& s) {
  return {s.count,
          s.vertices,
          reals(s.means),
          reals(s.quats),
          reals(s.log_scales),
          reals(s.logit_opacities),
          reals(s.colours),
          reals(s.torso_logits),
          reals(s.offsets),
          reals(s.units),
          s.corners,
          reals(s.corner_weights),
          s.eye,
          reals(s.displacement),
          reals(s.T_world_head),
          reals(s.T_world_torso),
          reals(s.eye_turns),
          reals(s.eye_centres)};
}

// What all Gaussians share, made by the first four threads of a block: less than a launch of its own.
struct Shared {
  MotionsOf<float> motions;
  float units[HS_OFFSET_CHANNELS];
};

__device__ void read_shared(const Rest& s, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) rigid_from_matrix(s.T_world_head, shared.motions.head);
  if (thread == 1) rigid_from_matrix(s.T_world_torso, shared.motions.torso);
  if (thread == 2 || thread == 3) {
    const int side = thread - 2;
    rigid_from_eye<float>(s.eye_turns + 2 * side, s.eye_centres + 3 * side, shared.motions.eyes[side]);
  }
  if (thread >= 32 && thread < 32 + HS_OFFSET_CHANNELS) shared.units[thread - 32] = s.units[thread - 32];
  __syncthreads();
  if (thread == 0) bring_near(shared.motions.head, shared.motions.torso);
  __syncthreads();
}

template <int W>
__device__ __forceinline__ void read_row(const float* array, int64_t row, float* out) {
#pragma unroll
  for (int k = 0; k < W; ++k) out[k] = array[row * W + k];
}
template <int W>
__device__ __forceinline__ void read_row_or_zero(const void* array, int64_t row, float* out) {
#pragma unroll
  for (int k = 0; k < W; ++k) out[k] = array == nullptr ? 0.0f : static_cast<const float*>(array)[row * W + k];
}
template <int W>
__device__ __forceinline__ void write_row(void* array, int64_t row, const float* values) {
#pragma unroll
  for (int k = 0; k < W; ++k) static_cast<float*>(array)[row * W + k] = values[k];
}

__device__ void pose_one(const Rest& s, const Shared& shared, int64_t id, PosedOf<float>& p) {
  RestOf<float> g;
  read_row<3>(s.means, id, g.mean);
  read_row<4>(s.quats, id, g.quat);
  read_row<3>(s.log_scales, id, g.log_scale);
  read_row<1>(s.logit_opacities, id, &g.logit_opacity);
  read_row<3>(s.colours, id, g.colour);
  read_row<1>(s.torso_logits, id, &g.torso_logit);
  read_row<HS_OFFSET_CHANNELS>(s.offsets, id, g.offset);
  for (int k = 0; k < HS_OFFSET_CHANNELS; ++k) g.offset[k] *= shared.units[k];
  for (int k = 0; k < 3; ++k) g.displacement[k] = 0;
  for (int c = 0; c < 3; ++c) {
    const int64_t corner = s.corners[3 * id + c];
    const bool good = corner >= 0 && corner < s.vertices;
    const float weight = s.corner_weights[3 * id + c];
    for (int k = 0; k < 3; ++k) {
      g.displacement[k] += good ? weight * s.displacement[3 * corner + k] : static_cast<float>(NAN);
    }
  }
  const int side = s.eye[id];
  pose_gaussian(
      shared.motions, g,
      [&](float mean[3], float quat[4]) {
        if (side != 0 && side != 1) return;
        const RigidOf<float>& eye = shared.motions.eyes[side];
        float from_centre[3], turned[3], quat_turned[4];
        for (int i = 0; i < 3; ++i) from_centre[i] = mean[i] - eye.t[i];
        rotate(eye.R, from_centre, turned);
        quat_product(eye.q, quat, quat_turned);
        for (int i = 0; i < 3; ++i) mean[i] = turned[i] + eye.t[i];
        for (int i = 0; i < 4; ++i) quat[i] = quat_turned[i];
      },
      p);
}

__global__ void __launch_bounds__(kGaussians) pose_kernel(Rest s, HsPosed out) {
  __shared__ Shared shared;
  read_shared(s, shared);
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kGaussians + threadIdx.x;
  if (id >= s.count) return;
  PosedOf<float> p;
  pose_one(s, shared, id, p);
  write_row<3>(out.means, id, p.mean);
  write_row<4>(out.quats, id, p.quat);
  write_row<3>(out.scales, id, p.scale);
  write_row<1>(out.opacities, id, &p.opacity);
  write_row<3>(out.colours, id, p.colour);
}

__global__ void __launch_bounds__(kGaussians) pose_backward_kernel(Rest s, HsPoseGradients gradients) {
  __shared__ Shared shared;
  read_shared(s, shared);
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kGaussians + threadIdx.x;
  if (id >= s.count) return;
  PosedOf<float> p;
  pose_one(s, shared, id, p);
  PosedGradientOf<float> in;
  RestGradientOf<float> out;
  read_row_or_zero<3>(gradients.v_means, id, in.mean);
  read_row_or_zero<4>(gradients.v_quats, id, in.quat);
  read_row_or_zero<3>(gradients.v_scales, id, in.scale);
  read_row_or_zero<1>(gradients.v_opacities, id, &in.opacity);
  read_row_or_zero<3>(gradients.v_colours, id, in.colour);
  const int side = s.eye[id];
  pose_gaussian_vjp(
      shared.motions, p, in,
      [&](float mean[3], float quat[4]) {
        if (side != 0 && side != 1) return;
        const RigidOf<float>& eye = shared.motions.eyes[side];
        float turned[3], quat_turned[4];
        rotate_back(eye.R, mean, turned);
        quat_left_transpose(eye.q, quat, quat_turned);
        for (int i = 0; i < 3; ++i) mean[i] = turned[i];
        for (int i = 0; i < 4; ++i) quat[i] = quat_turned[i];
      },
      out);
  float offsets[HS_OFFSET_CHANNELS];
  for (int i = 0; i < 3; ++i) offsets[i] = out.mean[i] * shared.units[i];
  for (int i = 0; i < 4; ++i) offsets[3 + i] = out.quat[i] * shared.units[3 + i];
  for (int i = 0; i < 3; ++i) offsets[7 + i] = out.log_scale[i] * shared.units[7 + i];
  for (int i = 0; i < 3; ++i) offsets[10 + i] = out.colour[i] * shared.units[10 + i];
  write_row<3>(gradients.v_local_means, id, out.mean);
  write_row<4>(gradients.v_local_quats, id, out.quat);
  write_row<3>(gradients.v_log_scales, id, out.log_scale);
  write_row<1>(gradients.v_logit_opacities, id, &out.logit_opacity);
  write_row<3>(gradients.v_local_colours, id, out.colour);
  write_row<1>(gradients.v_torso_logits, id, &out.torso_logit);
  write_row<HS_OFFSET_CHANNELS>(gradients.v_offsets, id, offsets);
}

}  // namespace
}  // namespace isa_cuda
}  // namespace headsplat

int32_t hs_cuda_pose(const HsPose* pose, const HsPosed* posed, void* stream) {
  using namespace headsplat::isa_cuda;
  const int64_t blocks = parts_of(pose->count, kGaussians);
  if (blocks > kMostBlocksAcross) return HS_UNSUPPORTED;
  HS_LAUNCH(pose_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kGaussians), as_stream(stream),
            rest_of(*pose), *posed);
  return HS_OK;
}

int32_t hs_cuda_pose_backward(const HsPose* pose, const HsPoseGradients* gradients, void* stream) {
  using namespace headsplat::isa_cuda;
  const int64_t blocks = parts_of(pose->count, kGaussians);
  if (blocks > kMostBlocksAcross) return HS_UNSUPPORTED;
  HS_LAUNCH(pose_backward_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kGaussians), as_stream(stream),
            rest_of(*pose), *gradients);
  return HS_OK;
}
