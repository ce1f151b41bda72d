// Posing all Gaussians of an avatar, 16 at a time, and the way back.
#pragma once

#include <atomic>

#include "headsplat_pose.h"
#include "pose_math.h"
#include "rows.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

template <class V, class Real = typename V::Real>
static RigidOf<V> broadcast(const RigidOf<Real>& one) {
  RigidOf<V> all;
  for (int i = 0; i < 9; ++i) all.R[i] = V(one.R[i]);
  for (int i = 0; i < 3; ++i) all.t[i] = V(one.t[i]);
  for (int i = 0; i < 4; ++i) all.q[i] = V(one.q[i]);
  return all;
}

template <class V, class Real = typename V::Real>
static MotionsOf<V> motions_of(const HsPose& s) {
  RigidOf<Real> head, torso, eye;
  rigid_from_matrix(static_cast<const Real*>(s.T_world_head), head);
  rigid_from_matrix(static_cast<const Real*>(s.T_world_torso), torso);
  bring_near(head, torso);
  MotionsOf<V> motions;
  motions.head = broadcast<V>(head);
  motions.torso = broadcast<V>(torso);
  for (int side = 0; side < 2; ++side) {
    rigid_from_eye<double>(static_cast<const Real*>(s.eye_turns) + 2 * side,
                           static_cast<const Real*>(s.eye_centres) + 3 * side, eye);
    motions.eyes[side] = broadcast<V>(eye);
  }
  return motions;
}

// Which of 16 Gaussians belong to an eyeball; most groups have none.
template <class V>
struct EyeLanes {
  typename V::Mask mask[2];
  bool some[2];

  EyeLanes(const int8_t* eye, int64_t first, int count) {
    using Real = typename V::Real;
    for (int side = 0; side < 2; ++side) {
      alignas(64) Real flags[kLanes] = {};
      some[side] = false;
      for (int lane = 0; lane < count; ++lane) {
        flags[lane] = Real(eye[first + lane] == side);
        some[side] |= eye[first + lane] == side;
      }
      mask[side] = V::load(flags) > V(0);
    }
  }
};

// Reads what is posed of Gaussians first .. first + count; false if a corner is no vertex.
template <class V, class Real = typename V::Real>
HS_FN bool gather_rest(const HsPose& s, const V* units, int64_t first, int count, RestOf<V>& g) {
  gather_rows<V, 3>(s.means, first, count, g.mean);
  gather_rows<V, 4>(s.quats, first, count, g.quat);
  gather_rows<V, 3>(s.log_scales, first, count, g.log_scale);
  gather_rows<V, 1>(s.logit_opacities, first, count, &g.logit_opacity);
  gather_rows<V, 3>(s.colours, first, count, g.colour);
  gather_rows<V, 1>(s.torso_logits, first, count, &g.torso_logit);
  gather_rows<V, HS_OFFSET_CHANNELS>(s.offsets, first, count, g.offset);
  for (int k = 0; k < HS_OFFSET_CHANNELS; ++k) g.offset[k] = g.offset[k] * units[k];
  const Real* weights = static_cast<const Real*>(s.corner_weights);
  const Real* moved = static_cast<const Real*>(s.displacement);
  alignas(64) Real sums[3][kLanes] = {};
  for (int lane = 0; lane < count; ++lane) {
    const int64_t id = first + lane;
    for (int c = 0; c < 3; ++c) {
      const int64_t corner = s.corners[3 * id + c];
      if (corner < 0 || corner >= s.vertices) return false;
      for (int k = 0; k < 3; ++k) sums[k][lane] += weights[3 * id + c] * moved[3 * corner + k];
    }
  }
  for (int k = 0; k < 3; ++k) g.displacement[k] = V::load(sums[k]);
  return true;
}

// Calls f(first, count, posed, motions, lanes of eyes) for all Gaussians; false if a corner is no vertex.
template <class V, class F>
static bool each_posed(const HsRun& run, const HsPose& s, const F& f) {
  using Real = typename V::Real;
  const MotionsOf<V> motions = motions_of<V>(s);
  V units[HS_OFFSET_CHANNELS];
  for (int k = 0; k < HS_OFFSET_CHANNELS; ++k) units[k] = V(static_cast<const Real*>(s.units)[k]);
  std::atomic<bool> good{true};
  parallel((s.count + kGaussianChunk - 1) / kGaussianChunk, run.threads, [&](int64_t chunk, int) {
    FlushDenormals guard;
    const int64_t end = smaller(s.count, (chunk + 1) * kGaussianChunk);
    for (int64_t first = chunk * kGaussianChunk; first < end; first += kLanes) {
      const int count = (int)smaller<int64_t>(kLanes, end - first);
      RestOf<V> g;
      PosedOf<V> p;
      if (!gather_rest(s, units, first, count, g)) {
        good.store(false, std::memory_order_relaxed);
        return;
      }
      const EyeLanes<V> lanes(s.eye, first, count);
      pose_gaussian(
          motions, g,
          [&](V mean[3], V quat[4]) {
            for (int side = 0; side < 2; ++side) {
              if (!lanes.some[side]) continue;
              const RigidOf<V>& eye = motions.eyes[side];
              V from_centre[3], turned[3], quat_turned[4];
              for (int i = 0; i < 3; ++i) from_centre[i] = mean[i] - eye.t[i];
              rotate(eye.R, from_centre, turned);
              quat_product(eye.q, quat, quat_turned);
              for (int i = 0; i < 3; ++i) mean[i] = select(lanes.mask[side], turned[i] + eye.t[i], mean[i]);
              for (int i = 0; i < 4; ++i) quat[i] = select(lanes.mask[side], quat_turned[i], quat[i]);
            }
          },
          p);
      f(first, count, p, motions, units, lanes);
    }
  });
  return good.load();
}

template <class V>
static bool pose(const HsRun& run, const HsPose& s, const HsPosed& out) {
  return each_posed<V>(run, s, [&](int64_t first, int count, const PosedOf<V>& p, const auto&, const V*, const auto&) {
    scatter_rows<V, 3>(out.means, first, count, p.mean);
    scatter_rows<V, 4>(out.quats, first, count, p.quat);
    scatter_rows<V, 3>(out.scales, first, count, p.scale);
    scatter_rows<V, 1>(out.opacities, first, count, &p.opacity);
    scatter_rows<V, 3>(out.colours, first, count, p.colour);
  });
}

template <class V, int W>
HS_FN void gather_gradient(const void* array, int64_t first, int count, V* out) {
  for (int k = 0; k < W; ++k) out[k] = V(0);
  if (array != nullptr) gather_rows<V, W>(array, first, count, out);
}

template <class V>
static bool pose_backward(const HsRun& run, const HsPose& s, const HsPoseGradients& gradients) {
  return each_posed<V>(run, s, [&](int64_t first, int count, const PosedOf<V>& p, const MotionsOf<V>& motions,
                                   const V* units, const EyeLanes<V>& lanes) {
    PosedGradientOf<V> in;
    RestGradientOf<V> out;
    gather_gradient<V, 3>(gradients.v_means, first, count, in.mean);
    gather_gradient<V, 4>(gradients.v_quats, first, count, in.quat);
    gather_gradient<V, 3>(gradients.v_scales, first, count, in.scale);
    gather_gradient<V, 1>(gradients.v_opacities, first, count, &in.opacity);
    gather_gradient<V, 3>(gradients.v_colours, first, count, in.colour);
    pose_gaussian_vjp(
        motions, p, in,
        [&](V mean[3], V quat[4]) {
          for (int side = 0; side < 2; ++side) {
            if (!lanes.some[side]) continue;
            const RigidOf<V>& eye = motions.eyes[side];
            V turned[3], quat_turned[4];
            rotate_back(eye.R, mean, turned);
            quat_left_transpose(eye.q, quat, quat_turned);
            for (int i = 0; i < 3; ++i) mean[i] = select(lanes.mask[side], turned[i], mean[i]);
            for (int i = 0; i < 4; ++i) quat[i] = select(lanes.mask[side], quat_turned[i], quat[i]);
          }
        },
        out);
    V offsets[HS_OFFSET_CHANNELS];
    for (int i = 0; i < 3; ++i) offsets[i] = out.mean[i] * units[i];
    for (int i = 0; i < 4; ++i) offsets[3 + i] = out.quat[i] * units[3 + i];
    for (int i = 0; i < 3; ++i) offsets[7 + i] = out.log_scale[i] * units[7 + i];
    for (int i = 0; i < 3; ++i) offsets[10 + i] = out.colour[i] * units[10 + i];
    scatter_rows<V, 3>(gradients.v_local_means, first, count, out.mean);
    scatter_rows<V, 4>(gradients.v_local_quats, first, count, out.quat);
    scatter_rows<V, 3>(gradients.v_log_scales, first, count, out.log_scale);
    scatter_rows<V, 1>(gradients.v_logit_opacities, first, count, &out.logit_opacity);
    scatter_rows<V, 3>(gradients.v_local_colours, first, count, out.colour);
    scatter_rows<V, 1>(gradients.v_torso_logits, first, count, &out.torso_logit);
    scatter_rows<V, HS_OFFSET_CHANNELS>(gradients.v_offsets, first, count, offsets);
  });
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
