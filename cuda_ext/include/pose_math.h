// Every formula of posing and its derivative, once, templated on the scalar as splat_math.h is.
//
// A Gaussian rests in the head frame on a neutral face. Its offsets move it, the lattice carries it, an
// eyeball may turn it about its centre, and then it moves with a mixture of head and torso: points by
// linear blend skinning, rotations by the same mixture of the two quaternions.
#pragma once

#include <math.h>

#include "splat_math.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// A rigid motion; R row-major, q the same rotation (wxyz).
template <class T>
struct RigidOf {
  T R[9], t[3], q[4];
};

// The motions of one state, broadcast to T. Eyeballs turn about their centres: p -> R (p - t) + t.
template <class T>
struct MotionsOf {
  RigidOf<T> head, torso, eyes[2];
};

// The unit quaternion of a rotation matrix (Shepperd 1978: divide by the largest of the four).
template <class Real>
HS_INLINE void matrix_to_quat(const Real* R, Real* q) {
  const Real trace = R[0] + R[4] + R[8];
  const Real squares[4] = {trace, R[0] + R[0] - trace, R[4] + R[4] - trace, R[8] + R[8] - trace};
  int largest = 0;
  for (int i = 1; i < 4; ++i) {
    if (squares[i] > squares[largest]) largest = i;
  }
  const Real twice = Real(__builtin_sqrt(double(squares[largest] + Real(1))));
  const Real s = Real(0.5) / twice;
  const Real wx = (R[7] - R[5]) * s, wy = (R[2] - R[6]) * s, wz = (R[3] - R[1]) * s;
  const Real xy = (R[1] + R[3]) * s, xz = (R[2] + R[6]) * s, yz = (R[5] + R[7]) * s;
  const Real half = Real(0.5) * twice;
  const Real columns[4][4] = {{half, wx, wy, wz}, {wx, half, xy, xz}, {wy, xy, half, yz}, {wz, xz, yz, half}};
  for (int i = 0; i < 4; ++i) q[i] = columns[largest][i];
}

// The motion of a matrix [4, 4].
template <class Real>
HS_INLINE void rigid_from_matrix(const Real* T, RigidOf<Real>& rigid) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) rigid.R[3 * i + j] = T[4 * i + j];
    rigid.t[i] = T[4 * i + 3];
  }
  matrix_to_quat(rigid.R, rigid.q);
}

// The turn (yaw, pitch) of an eyeball: a rotation vector of (-pitch, yaw, 0), reckoned in `Working`.
template <class Working, class Real>
HS_INLINE void rigid_from_eye(const Real* turn, const Real* centre, RigidOf<Real>& rigid) {
  const Working x = -Working(turn[1]), y = Working(turn[0]), angle = ::sqrt(x * x + y * y);
  const Working half = Working(0.5) * angle, sine = angle > Working(1e-12) ? ::sin(half) / angle : Working(0.5);
  const Working q[4] = {::cos(half), x * sine, y * sine, Working(0)};
  Working R[9];
  quat_to_matrix(q, R);
  for (int i = 0; i < 4; ++i) rigid.q[i] = Real(q[i]);
  for (int i = 0; i < 9; ++i) rigid.R[i] = Real(R[i]);
  for (int i = 0; i < 3; ++i) rigid.t[i] = centre[i];
}

// Takes the nearer of the two quaternions of the torso, or the mixture would turn the long way round.
template <class Real>
HS_INLINE void bring_near(const RigidOf<Real>& head, RigidOf<Real>& torso) {
  Real along = 0;
  for (int i = 0; i < 4; ++i) along += head.q[i] * torso.q[i];
  for (int i = 0; i < 4 && along < 0; ++i) torso.q[i] = -torso.q[i];
}

template <class T>
HS_INLINE void quat_product(const T p[4], const T q[4], T out[4]) {
  out[0] = p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3];
  out[1] = p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2];
  out[2] = p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1];
  out[3] = p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0];
}

// conj(p) q: the transpose of q -> p q, and with the arguments changed about that of p -> p q.
template <class T>
HS_INLINE void quat_left_transpose(const T p[4], const T v[4], T out[4]) {
  const T conjugate[4] = {p[0], -p[1], -p[2], -p[3]};
  quat_product(conjugate, v, out);
}
template <class T>
HS_INLINE void quat_right_transpose(const T q[4], const T v[4], T out[4]) {
  const T conjugate[4] = {q[0], -q[1], -q[2], -q[3]};
  quat_product(v, conjugate, out);
}

template <class T>
HS_INLINE void rotate(const T R[9], const T x[3], T out[3]) {
  for (int i = 0; i < 3; ++i) out[i] = R[3 * i] * x[0] + R[3 * i + 1] * x[1] + R[3 * i + 2] * x[2];
}
template <class T>
HS_INLINE void rotate_back(const T R[9], const T x[3], T out[3]) {
  for (int i = 0; i < 3; ++i) out[i] = R[i] * x[0] + R[3 + i] * x[1] + R[6 + i] * x[2];
}

// e^x and 1 / (1 + e^-x). Beyond the range of float the former is held, so that it stays a number; what
// is not a number stays none.
template <class T>
HS_INLINE T exponential(const T& x) {
  const T limit(126);
  return exp2(min(limit, max(-limit, x * T(kLog2E)))) + (x - x);
}
template <class T>
HS_INLINE T logistic(const T& x) {
  return T(1) / (T(1) + exponential(-x));
}

// One Gaussian before and after posing, and what the derivative needs of the way.
template <class T>
struct RestOf {
  T mean[3], quat[4], log_scale[3], logit_opacity, colour[3], torso_logit;
  T offset[13];       // in units
  T displacement[3];  // by the lattice
};

template <class T>
struct PosedOf {
  T mean[3], quat[4], scale[3], opacity, colour[3];
  T share;                    // of the torso
  T unit[4], inverse_length;  // the offset quaternion, normalised
  T turned[4];                // that, after its eyeball's turn
  T mixed[4];                 // quaternion of head and torso
  T apart[3];                 // torso's point less the head's
};

// `eye(side, mean, quat)` turns the lanes that belong to an eyeball, in place.
template <class T, class Eye>
HS_INLINE void pose_gaussian(const MotionsOf<T>& motions, const RestOf<T>& g, const Eye& eye, PosedOf<T>& p) {
  T local[3], torso[3], quat[4];
  for (int i = 0; i < 3; ++i) local[i] = g.mean[i] + g.offset[i] + g.displacement[i];
  for (int i = 0; i < 4; ++i) quat[i] = g.quat[i] + g.offset[3 + i];
  p.inverse_length = T(1) / sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
  for (int i = 0; i < 4; ++i) p.turned[i] = p.unit[i] = quat[i] * p.inverse_length;
  eye(local, p.turned);
  rotate(motions.head.R, local, p.mean);
  rotate(motions.torso.R, local, torso);
  p.share = logistic(g.torso_logit);
  for (int i = 0; i < 3; ++i) {
    p.mean[i] = p.mean[i] + motions.head.t[i];
    p.apart[i] = torso[i] + motions.torso.t[i] - p.mean[i];
    p.mean[i] = p.mean[i] + p.share * p.apart[i];
    p.scale[i] = exponential(g.log_scale[i] + g.offset[7 + i]);
    p.colour[i] = g.colour[i] + g.offset[10 + i];
  }
  for (int i = 0; i < 4; ++i) {
    p.mixed[i] = motions.head.q[i] + p.share * (motions.torso.q[i] - motions.head.q[i]);
  }
  quat_product(p.mixed, p.turned, p.quat);
  p.opacity = logistic(g.logit_opacity);
}

// Gradients to a Gaussian's posed values, and to its parameters; the offsets' are those of mean,
// quaternion, log scale and colour, in units.
template <class T>
struct PosedGradientOf {
  T mean[3], quat[4], scale[3], opacity, colour[3];
};
template <class T>
struct RestGradientOf {
  T mean[3], quat[4], log_scale[3], logit_opacity, colour[3], torso_logit;
};

// The transpose of pose_gaussian(); `eye_back(mean, quat)` is that of `eye`.
template <class T, class EyeBack>
HS_INLINE void pose_gaussian_vjp(const MotionsOf<T>& motions, const PosedOf<T>& p, const PosedGradientOf<T>& in,
                                 const EyeBack& eye_back, RestGradientOf<T>& out) {
  const T one(1);
  T v_mixed[4], v_quat[4], by_head[3], by_torso[3];
  quat_right_transpose(p.turned, in.quat, v_mixed);
  quat_left_transpose(p.mixed, in.quat, v_quat);
  T v_share(0);
  for (int i = 0; i < 3; ++i) v_share = v_share + in.mean[i] * p.apart[i];
  for (int i = 0; i < 4; ++i) {
    v_share = v_share + v_mixed[i] * (motions.torso.q[i] - motions.head.q[i]);
  }
  out.torso_logit = v_share * p.share * (one - p.share);
  rotate_back(motions.head.R, in.mean, by_head);
  rotate_back(motions.torso.R, in.mean, by_torso);
  for (int i = 0; i < 3; ++i) out.mean[i] = by_head[i] + p.share * (by_torso[i] - by_head[i]);
  eye_back(out.mean, v_quat);
  const T along = v_quat[0] * p.unit[0] + v_quat[1] * p.unit[1] + v_quat[2] * p.unit[2] + v_quat[3] * p.unit[3];
  for (int i = 0; i < 4; ++i) out.quat[i] = (v_quat[i] - along * p.unit[i]) * p.inverse_length;
  for (int i = 0; i < 3; ++i) {
    out.log_scale[i] = in.scale[i] * p.scale[i];
    out.colour[i] = in.colour[i];
  }
  out.logit_opacity = in.opacity * p.opacity * (one - p.opacity);
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
