// Every formula of the rasterizer and its derivative, once, templated on the scalar.
//
// T is float, double, or a vector of 16 Gaussians or pixels; conditions are masks of the same kind and
// `select(mask, a, b)` takes the place of branches. The including file names the namespace
// (HEADSPLAT_ISA): code compiled for AVX-512 must never be merged by the linker with code of the
// plain path, so nothing here may have a name that two of them share.
#pragma once

#include "constants.h"

#if defined(__CUDACC__)
#define HS_INLINE __host__ __device__ __forceinline__
#else
#define HS_INLINE inline __attribute__((always_inline))
#endif

namespace headsplat {
namespace HEADSPLAT_ISA {

// A pinhole camera, broadcast to T.
template <class T>
struct CameraOf {
  T fx, fy, cx, cy;
  T R[9], t[3];                   // world to camera
  T min_x, max_x, min_y, max_y;   // bounds of x/z and y/z in the Jacobian
};

// Fill a scalar camera from K [3, 3] and T_cam_world [4, 4].
template <class Real>
HS_INLINE CameraOf<Real> make_camera(const Real* K, const Real* T_cam_world, Real width, Real height) {
  CameraOf<Real> camera;
  camera.fx = K[0];
  camera.fy = K[4];
  camera.cx = K[2];
  camera.cy = K[5];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) camera.R[3 * i + j] = T_cam_world[4 * i + j];
    camera.t[i] = T_cam_world[4 * i + 3];
  }
  const Real margin_x = Real(kTangentMargin * 0.5) * width / camera.fx;
  const Real margin_y = Real(kTangentMargin * 0.5) * height / camera.fy;
  camera.min_x = -(camera.cx / camera.fx + margin_x);
  camera.max_x = (width - camera.cx) / camera.fx + margin_x;
  camera.min_y = -(camera.cy / camera.fy + margin_y);
  camera.max_y = (height - camera.cy) / camera.fy + margin_y;
  return camera;
}

// One Gaussian's activated parameters.
template <class T>
struct GaussianOf {
  T mean[3], quat[4], scale[3];
};

// What projection yields, with the intermediate values that its derivative needs.
template <class T>
struct ProjectionOf {
  T x, y, z;               // centre in pixels, depth in metres
  T cov00, cov01, cov11;   // 2D covariance, px^2
  T conic00, conic01, conic11;
  T cam[3], rz, ratio_x, ratio_y;  // camera space; x/z and y/z clamped
  T inside_x, inside_y;            // 1 where the clamp did not act, else 0
  T unit[4], inverse_length;       // normalised quaternion
  T Q[9];                          // its rotation
  T W[9];                          // R Q diag(scale): columns are the camera-space axes
  T u[3], v[3];                    // rows of J W
};

template <class T>
HS_INLINE void quat_to_matrix(const T q[4], T Q[9]) {
  const T one(1), two(2);
  const T w = q[0], x = q[1], y = q[2], z = q[3];
  Q[0] = one - two * (y * y + z * z);
  Q[1] = two * (x * y - w * z);
  Q[2] = two * (x * z + w * y);
  Q[3] = two * (x * y + w * z);
  Q[4] = one - two * (x * x + z * z);
  Q[5] = two * (y * z - w * x);
  Q[6] = two * (x * z - w * y);
  Q[7] = two * (y * z + w * x);
  Q[8] = one - two * (x * x + y * y);
}

// EWA projection (Zwicker et al. 2001, eq. 26-31) with the blur and the tangent clamp of 3DGS.
//
// The covariance is (J W)(J W)^T, so its determinant before the blur is |u x v|^2: a sum of squares
// where the textbook form cov00 cov11 - cov01^2 cancels for long thin Gaussians.
template <class T>
HS_INLINE void project(const CameraOf<T>& camera, const GaussianOf<T>& g, ProjectionOf<T>& p) {
  const T one(1), zero(0), blur{T(kEps2d)};
  for (int i = 0; i < 3; ++i) {
    p.cam[i] = camera.R[3 * i] * g.mean[0] + camera.R[3 * i + 1] * g.mean[1] +
               camera.R[3 * i + 2] * g.mean[2] + camera.t[i];
  }
  p.z = p.cam[2];
  p.rz = one / p.z;
  const T tx = p.cam[0] * p.rz, ty = p.cam[1] * p.rz;
  p.x = camera.fx * tx + camera.cx;
  p.y = camera.fy * ty + camera.cy;
  p.ratio_x = min(camera.max_x, max(camera.min_x, tx));
  p.ratio_y = min(camera.max_y, max(camera.min_y, ty));
  p.inside_x = select((tx >= camera.min_x) & (tx <= camera.max_x), one, zero);
  p.inside_y = select((ty >= camera.min_y) & (ty <= camera.max_y), one, zero);

  p.inverse_length = one / sqrt(g.quat[0] * g.quat[0] + g.quat[1] * g.quat[1] +
                                g.quat[2] * g.quat[2] + g.quat[3] * g.quat[3]);
  for (int i = 0; i < 4; ++i) p.unit[i] = g.quat[i] * p.inverse_length;
  quat_to_matrix(p.unit, p.Q);
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) {
      p.W[3 * i + k] = (camera.R[3 * i] * p.Q[k] + camera.R[3 * i + 1] * p.Q[3 + k] +
                        camera.R[3 * i + 2] * p.Q[6 + k]) *
                       g.scale[k];
    }
  }
  // J = [[fx/z, 0, -fx ratio_x / z], [0, fy/z, -fy ratio_y / z]]
  const T jx = camera.fx * p.rz, jy = camera.fy * p.rz;
  for (int k = 0; k < 3; ++k) {
    p.u[k] = jx * (p.W[k] - p.ratio_x * p.W[6 + k]);
    p.v[k] = jy * (p.W[3 + k] - p.ratio_y * p.W[6 + k]);
  }
  const T uu = p.u[0] * p.u[0] + p.u[1] * p.u[1] + p.u[2] * p.u[2];
  const T vv = p.v[0] * p.v[0] + p.v[1] * p.v[1] + p.v[2] * p.v[2];
  const T c0 = p.u[1] * p.v[2] - p.u[2] * p.v[1];
  const T c1 = p.u[2] * p.v[0] - p.u[0] * p.v[2];
  const T c2 = p.u[0] * p.v[1] - p.u[1] * p.v[0];
  p.cov00 = uu + blur;
  p.cov01 = p.u[0] * p.v[0] + p.u[1] * p.v[1] + p.u[2] * p.v[2];
  p.cov11 = vv + blur;
  const T determinant = c0 * c0 + c1 * c1 + c2 * c2 + blur * (uu + vv) + blur * blur;
  const T inverse = one / determinant;
  p.conic00 = p.cov11 * inverse;
  p.conic01 = -p.cov01 * inverse;
  p.conic11 = p.cov00 * inverse;
}

// Incoming gradients of a projection: centre (pixels), depth, and the conic's three numbers, where
// conic01 stands for both off-diagonal entries at once.
template <class T>
struct ProjectionGradientOf {
  T x, y, z, conic00, conic01, conic11;
};

template <class T>
struct GaussianGradientOf {
  T mean[3], quat[4], scale[3];
  T R[9], t[3];  // of the camera pose
};

// The transpose of project().
template <class T>
HS_INLINE void project_vjp(const CameraOf<T>& camera, const GaussianOf<T>& g, const ProjectionOf<T>& p,
                           const ProjectionGradientOf<T>& in, GaussianGradientOf<T>& out) {
  const T half(0.5), two(2);
  // d(X^-1) = -X^-1 dX X^-1, hence v_cov = -conic v_conic conic with v_conic as a symmetric matrix.
  const T off = half * in.conic01;
  const T m00 = p.conic00 * in.conic00 + p.conic01 * off;
  const T m01 = p.conic00 * off + p.conic01 * in.conic11;
  const T m10 = p.conic01 * in.conic00 + p.conic11 * off;
  const T m11 = p.conic01 * off + p.conic11 * in.conic11;
  const T g00 = -two * (m00 * p.conic00 + m01 * p.conic01);
  const T g01 = -two * (m00 * p.conic01 + m01 * p.conic11);
  const T g11 = -two * (m10 * p.conic01 + m11 * p.conic11);

  // cov = [u; v][u; v]^T
  const T jx = camera.fx * p.rz, jy = camera.fy * p.rz;
  T v_W[9];
  T v_jx(0), v_jy(0), v_jx_ratio(0), v_jy_ratio(0);
  for (int k = 0; k < 3; ++k) {
    const T v_u = g00 * p.u[k] + g01 * p.v[k];
    const T v_v = g01 * p.u[k] + g11 * p.v[k];
    v_W[k] = jx * v_u;
    v_W[3 + k] = jy * v_v;
    v_W[6 + k] = -(p.ratio_x * v_W[k] + p.ratio_y * v_W[3 + k]);
    v_jx = v_jx + v_u * (p.W[k] - p.ratio_x * p.W[6 + k]);
    v_jy = v_jy + v_v * (p.W[3 + k] - p.ratio_y * p.W[6 + k]);
    v_jx_ratio = v_jx_ratio - v_u * p.W[6 + k];
    v_jy_ratio = v_jy_ratio - v_v * p.W[6 + k];
  }
  const T v_tx = camera.fx * in.x + p.inside_x * (jx * v_jx_ratio);
  const T v_ty = camera.fy * in.y + p.inside_y * (jy * v_jy_ratio);
  const T v_rz = camera.fx * v_jx + camera.fy * v_jy + v_tx * p.cam[0] + v_ty * p.cam[1];
  out.t[0] = v_tx * p.rz;
  out.t[1] = v_ty * p.rz;
  out.t[2] = in.z - v_rz * p.rz * p.rz;

  for (int j = 0; j < 3; ++j) {
    out.mean[j] =
        camera.R[j] * out.t[0] + camera.R[3 + j] * out.t[1] + camera.R[6 + j] * out.t[2];
  }
  // W = R (Q diag(scale))
  T V[9];  // gradient of Q
  for (int k = 0; k < 3; ++k) {
    T v_scale(0);
    for (int i = 0; i < 3; ++i) {
      const T v_M = camera.R[i] * v_W[k] + camera.R[3 + i] * v_W[3 + k] + camera.R[6 + i] * v_W[6 + k];
      v_scale = v_scale + v_M * p.Q[3 * i + k];
      V[3 * i + k] = v_M * g.scale[k];
    }
    out.scale[k] = v_scale;
  }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      T sum = out.t[i] * g.mean[j];
      for (int k = 0; k < 3; ++k) sum = sum + v_W[3 * i + k] * p.Q[3 * j + k] * g.scale[k];
      out.R[3 * i + j] = sum;
    }
  }
  const T w = p.unit[0], x = p.unit[1], y = p.unit[2], z = p.unit[3];
  T v_unit[4];
  v_unit[0] = two * (x * (V[7] - V[5]) + y * (V[2] - V[6]) + z * (V[3] - V[1]));
  v_unit[1] = two * (y * (V[1] + V[3]) + z * (V[2] + V[6]) + w * (V[7] - V[5]) - two * x * (V[4] + V[8]));
  v_unit[2] = two * (x * (V[1] + V[3]) + z * (V[5] + V[7]) + w * (V[2] - V[6]) - two * y * (V[0] + V[8]));
  v_unit[3] = two * (x * (V[2] + V[6]) + y * (V[5] + V[7]) + w * (V[3] - V[1]) - two * z * (V[0] + V[4]));
  const T along = v_unit[0] * w + v_unit[1] * x + v_unit[2] * y + v_unit[3] * z;
  for (int i = 0; i < 4; ++i) out.quat[i] = (v_unit[i] - along * p.unit[i]) * p.inverse_length;
}

// The exponent of one Gaussian: alpha = 2^(l + a dx^2 + b dx dy + c dy^2), with log2(e) and the
// opacity folded in, so that the threshold of 1/255 is a comparison of exponents.
template <class T>
struct ExponentOf {
  T a, b, c, l;
};

template <class T>
HS_INLINE ExponentOf<T> make_exponent(const ProjectionOf<T>& p, T log2_opacity) {
  const T half{T(-0.5 * kLog2E)}, whole{T(-kLog2E)};
  return {half * p.conic00, whole * p.conic01, half * p.conic11, log2_opacity};
}

template <class T>
HS_INLINE T exponent(const T& a, const T& b, const T& c, const T& l, const T& dx, const T& dy) {
  return fma(dy, fma(c, dy, b * dx), fma(a * dx, dx, l));
}

// The largest exponent in the rectangle [x0, x1] x [y0, y1] (pixels relative to the centre).
//
// A concave quadratic whose top lies outside of a rectangle is largest on one of the two edges that
// face the top; along each of them the best point is the line's own top, clamped to the edge.
template <class T>
HS_INLINE T largest_exponent(const T& a, const T& b, const T& c, const T& l, const T& slope_x,
                             const T& slope_y, const T& x0, const T& x1, const T& y0, const T& y1) {
  const T zero(0);
  const T x_edge = min(x1, max(x0, zero));
  const T y_edge = min(y1, max(y0, zero));
  const T y_on_x = min(y1, max(y0, slope_y * x_edge));  // slope_y = -b / (2 c)
  const T x_on_y = min(x1, max(x0, slope_x * y_edge));  // slope_x = -b / (2 a)
  return max(exponent(a, b, c, l, x_edge, y_on_x), exponent(a, b, c, l, x_on_y, y_edge));
}

// The sums over pixels from which all of a Gaussian's screen-space gradients follow, where
// s = alpha dL/dalpha (0 where alpha is clamped) and (dx, dy) = pixel - centre.
template <class T>
struct MomentsOf {
  T s, x, y, xx, xy, yy;
};

// From moments to the gradient of centre and conic. With alpha = o exp(-d^T conic d / 2):
// dL/dcentre = conic sum(s d), dL/dconic = -sum(s d d^T) / 2.
template <class T>
HS_INLINE void moments_to_gradient(const ProjectionOf<T>& p, const MomentsOf<T>& m,
                                   ProjectionGradientOf<T>& out) {
  const T half(-0.5);
  out.x = p.conic00 * m.x + p.conic01 * m.y;
  out.y = p.conic01 * m.x + p.conic11 * m.y;
  out.conic00 = half * m.xx;
  out.conic01 = -m.xy;
  out.conic11 = half * m.yy;
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
