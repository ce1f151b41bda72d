// Posing and projection of each Gaussian in one fragment, then one quad each. The formulas are those of
// avatar/raster/fused_reference.py (pose_reference) and cuda_ext/include/splat_math.h (project).

export const WIDTH = 1024;
/** Gaussians lie in textures of this many columns. */

export const FULL = `#version 300 es
void main() {
  vec2 p = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(p * 2.0 - 1.0, 0.0, 1.0);
}`;

export function poseShader(shapes: number, branches: number): string {
  return `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
precision highp usampler2DArray;
uniform sampler2DArray u_rest;     // 0 mean, opacity; 1 quat; 2 log scale, torso share; 3 colour, follow; 4 corner weights
uniform usampler2D u_bind;         // corners 0 | 1 << 16, corner 2 | triangle << 16, eye + 1
uniform usampler2DArray u_offsets; // a layer a shape: 13 signed bytes
uniform sampler2D u_lattice;       // displacement
uniform sampler2D u_growth;
layout(std140) uniform Weights { vec4 u_weights[${4 * shapes}]; };
uniform ivec4 u_branches[${branches}]; // first, end, first shape, shapes
uniform int u_count;
uniform float u_largest;
uniform mat3 u_head, u_torso, u_eyes[2], u_camera;
uniform vec3 u_headAt, u_torsoAt, u_eyeAt[2], u_cameraAt;
uniform vec4 u_headQuat, u_torsoQuat, u_eyeQuat[2];
uniform vec4 u_lens;   // fx, fy, cx, cy
uniform vec4 u_bounds; // of x/z and y/z in the Jacobian: low, high, low, high
layout(location = 0) out uvec4 o_first;  // centre, long half axis: one standard deviation, pixels
layout(location = 1) out uvec4 o_second; // short half axis, opacity, colour in half precision

vec4 turned(vec4 p, vec4 q) { // Hamilton product of (w, x, y, z)
  return vec4(p.x * q.x - p.y * q.y - p.z * q.z - p.w * q.w,
              p.x * q.y + p.y * q.x + p.z * q.w - p.w * q.z,
              p.x * q.z - p.y * q.w + p.z * q.x + p.w * q.y,
              p.x * q.w + p.y * q.z - p.z * q.y + p.w * q.x);
}
vec4 four(uint word) {
  ivec4 q = (ivec4(uvec4(word)) << ivec4(24, 16, 8, 0)) >> 24;
  return vec4(q * abs(q));
}
ivec2 place(uint i) { return ivec2(int(i) % ${WIDTH}, int(i) / ${WIDTH}); }

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  int index = at.y * ${WIDTH} + at.x;
  o_first = uvec4(0u);
  o_second = uvec4(0u);
  if (index >= u_count) return;
  vec4 r0 = texelFetch(u_rest, ivec3(at, 0), 0);
  vec4 r2 = texelFetch(u_rest, ivec3(at, 2), 0);
  vec4 r3 = texelFetch(u_rest, ivec3(at, 3), 0);
  vec3 corner = texelFetch(u_rest, ivec3(at, 4), 0).xyz;
  uvec4 bind = texelFetch(u_bind, at, 0);

  vec4 a = vec4(0.0), b = vec4(0.0), c = vec4(0.0);
  float d = 0.0;
  for (int branch = 0; branch < ${branches}; ++branch) {
    ivec4 run = u_branches[branch];
    if (index < run.x || index >= run.y) continue;
    for (int k = 0; k < run.w; ++k) {
      uvec4 word = texelFetch(u_offsets, ivec3(at, k), 0);
      int w = 4 * (run.z + k);
      a += u_weights[w] * four(word.x);
      b += u_weights[w + 1] * four(word.y);
      c += u_weights[w + 2] * four(word.z);
      d += u_weights[w + 3].x * four(word.w).x;
    }
  }
  vec3 mean = r0.xyz + a.xyz;
  mean += corner.x * texelFetch(u_lattice, place(bind.x & 0xffffu), 0).xyz;
  mean += corner.y * texelFetch(u_lattice, place(bind.x >> 16), 0).xyz;
  mean += corner.z * texelFetch(u_lattice, place(bind.y & 0xffffu), 0).xyz;
  vec4 quat = texelFetch(u_rest, ivec3(at, 1), 0) + vec4(a.w, b.xyz);
  quat /= max(length(quat), 1e-12);
  int eye = int(bind.z) - 1;
  if (eye >= 0) {
    mean = u_eyes[eye] * (mean - u_eyeAt[eye]) + u_eyeAt[eye];
    quat = turned(u_eyeQuat[eye], quat);
  }
  float growth = texelFetch(u_growth, place(bind.y >> 16), 0).x * r3.w;
  vec3 scale = min(exp(r2.xyz + growth + vec3(b.w, c.xy)), vec3(u_largest));
  vec3 colour = r3.xyz + vec3(c.zw, d);
  mean = mix(u_head * mean + u_headAt, u_torso * mean + u_torsoAt, r2.w);
  quat = turned(mix(u_headQuat, u_torsoQuat, r2.w), quat);

  vec3 cam = u_camera * mean + u_cameraAt;
  if (cam.z < 0.01 || r0.w < 1.0 / 255.0) return;
  float rz = 1.0 / cam.z;
  vec2 ratio = cam.xy * rz;
  vec2 centre = u_lens.xy * ratio + u_lens.zw;
  ratio = clamp(ratio, u_bounds.xz, u_bounds.yw);
  quat = normalize(quat);
  float w = quat.x, x = quat.y, y = quat.z, z = quat.w;
  mat3 Q = mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
                2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
                2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
  mat3 W = u_camera * Q;
  W[0] *= scale.x; W[1] *= scale.y; W[2] *= scale.z;
  vec3 rowZ = vec3(W[0].z, W[1].z, W[2].z);
  vec3 u = u_lens.x * rz * (vec3(W[0].x, W[1].x, W[2].x) - ratio.x * rowZ);
  vec3 v = u_lens.y * rz * (vec3(W[0].y, W[1].y, W[2].y) - ratio.y * rowZ);
  // The ellipse's axes, of the covariance with the blur of 0.3 pixels squared on its diagonal.
  float c00 = dot(u, u) + 0.3, c01 = dot(u, v), c11 = dot(v, v) + 0.3;
  vec3 area = cross(u, v);
  float determinant = dot(area, area) + 0.3 * (c00 + c11) - 0.09;
  float lean = 0.5 * (c00 - c11), radius = length(vec2(lean, c01));
  float large = 0.5 * (c00 + c11) + radius;
  vec2 along = radius < 1e-9 ? vec2(1.0, 0.0)
    : normalize(lean >= 0.0 ? vec2(lean + radius, c01) : vec2(c01, radius - lean));
  o_first = floatBitsToUint(vec4(centre, sqrt(large) * along));
  o_second = uvec4(floatBitsToUint(sqrt(determinant / large)), floatBitsToUint(r0.w),
                   packHalf2x16(colour.xy), packHalf2x16(vec2(colour.z, 0.0)));
}`;
}

// One quad around each ellipse; indexed, not instanced: software WebGL takes each instance for a draw of its
// own, several times slower.
export const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D u_first, u_second, u_order;
uniform vec2 u_size;
out vec2 v_at;
flat out vec4 v_colour;
ivec2 place(int i) { return ivec2(i % ${WIDTH}, i / ${WIDTH}); }
void main() {
  int rank = gl_VertexID >> 2, corner = gl_VertexID & 3;
  ivec2 at = place(int(texelFetch(u_order, place(rank), 0).x));
  uvec4 second = texelFetch(u_second, at, 0);
  float opacity = uintBitsToFloat(second.y);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  v_at = vec2(0.0);
  v_colour = vec4(0.0);
  if (!(opacity >= 1.0 / 255.0)) return;
  vec4 first = uintBitsToFloat(texelFetch(u_first, at, 0));
  // Alpha is 1/255 at this many standard deviations.
  float extent = sqrt(max(0.0, 2.0 * log(255.0 * opacity))) + 1e-3;
  v_at = extent * (vec2(float(corner & 1), float(corner >> 1)) * 2.0 - 1.0);
  float short_ = uintBitsToFloat(second.x);
  vec2 across = vec2(-first.w, first.z) * (short_ / length(first.zw));
  vec2 pixel = first.xy + v_at.x * first.zw + v_at.y * across;
  gl_Position = vec4(pixel.x / u_size.x * 2.0 - 1.0, 1.0 - pixel.y / u_size.y * 2.0, 0.0, 1.0);
  v_colour = vec4(unpackHalf2x16(second.z), unpackHalf2x16(second.w).x, opacity);
}`;

export const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 v_at;
flat in vec4 v_colour;
out vec4 o_colour;
void main() {
  float alpha = min(0.999, v_colour.w * exp(-0.5 * dot(v_at, v_at)));
  if (alpha < 1.0 / 255.0) discard;
  o_colour = vec4(v_colour.xyz * alpha, alpha);
}`;

export const RESOLVE = `#version 300 es
precision highp float;
uniform sampler2D u_sum;
uniform vec4 u_background;
out vec4 o_colour;
void main() {
  vec4 sum = texelFetch(u_sum, ivec2(gl_FragCoord.xy), 0);
  o_colour = clamp(sum + (1.0 - sum.w) * u_background, 0.0, 1.0);
}`;
