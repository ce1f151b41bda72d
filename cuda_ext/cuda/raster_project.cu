// One thread per Gaussian: projection with everything that depends on one Gaussian alone, and its
// transpose with the sum of the Gaussian's rows.
#include "raster.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

__device__ __forceinline__ CameraOf<float> camera_of(const HsScene& s) {
  return make_camera(static_cast<const float*>(s.K), static_cast<const float*>(s.T_cam_world), (float)s.width,
                     (float)s.height);
}

__device__ __forceinline__ void load_gaussian(const HsScene& s, int64_t id, GaussianOf<float>& g) {
  const float* mean = static_cast<const float*>(s.means) + 3 * id;
  const float* quat = static_cast<const float*>(s.quats) + 4 * id;
  const float* scale = static_cast<const float*>(s.scales) + 3 * id;
  for (int k = 0; k < 3; ++k) {
    g.mean[k] = mean[k];
    g.scale[k] = scale[k];
  }
  for (int k = 0; k < 4; ++k) g.quat[k] = quat[k];
}

// Fills record and box; false where the Gaussian cannot be seen.
__device__ bool project_one(const HsScene& s, int64_t id, Record& record, Box& box) {
  GaussianOf<float> g;
  ProjectionOf<float> p;
  load_gaussian(s, id, g);
  project(camera_of(s), g, p);
  if (s.means2d_offset != nullptr) {
    const float* offset = static_cast<const float*>(s.means2d_offset) + 2 * id;
    p.x += offset[0];
    p.y += offset[1];
  }
  const float opacity = static_cast<const float*>(s.opacities)[id];
  const float log2_opacity = log2f(opacity);
  const ExponentOf<float> e = make_exponent(p, log2_opacity);
  // alpha >= 1/255 inside conic distance 2 ln(255 o); 3.33 sigma lies beyond it for every o <= 1.
  const float level = (float)(2 * kLn2) * (log2_opacity - (float)kLog2AlphaThreshold);
  const float reach_x = sqrtf(level * p.cov00), reach_y = sqrtf(level * p.cov11);
  const float* colour = static_cast<const float*>(s.colours) + id * s.channels;
  float colour_sum = 0;
  for (int64_t k = 0; k < s.channels; ++k) colour_sum += colour[k];
  record.z = p.z;
  // A NaN or an infinity anywhere makes this sum's product with zero a NaN.
  const float poison =
      (p.x + p.y + p.z + e.a + e.b + e.c + log2_opacity + reach_x + reach_y + colour_sum) * 0.0f;
  if (!(poison == 0.0f && p.z >= (float)kNearPlane && opacity >= (float)kAlphaThreshold)) return false;
  record.x = p.x;
  record.y = p.y;
  record.a = e.a;
  record.b = e.b;
  record.c = e.c;
  record.l = e.l;
  record.colour0 = s.channels > 0 ? colour[0] : 0.0f;
  record.colour1 = s.channels > 1 ? colour[1] : 0.0f;
  record.colour2 = s.channels > 2 ? colour[2] : 0.0f;
  record.slope_x = -0.5f * e.b / e.a;
  record.slope_y = -0.5f * e.b / e.c;
  // A hair wider than the ellipse: rounding here must not cut a pixel that blending would take.
  record.reach_x = reach_x * 1.0005f + 1e-3f;
  record.reach_y = reach_y * 1.0005f + 1e-3f;
  // Pixels whose centres i + 1/2 lie within reach, then the tiles they are in.
  const float left = fmaxf(0.0f, p.x - record.reach_x - 0.5f);
  const float top = fmaxf(0.0f, p.y - record.reach_y - 0.5f);
  const float right = fminf((float)(s.width - 1), p.x + record.reach_x - 0.5f);
  const float bottom = fminf((float)(s.height - 1), p.y + record.reach_y - 0.5f);
  if (!(left <= right && top <= bottom)) return false;
  const int i0 = (int)ceilf(left), i1 = (int)right, j0 = (int)ceilf(top), j1 = (int)bottom;
  if (i0 > i1 || j0 > j1) return false;
  box = {(uint16_t)(i0 / kTile), (uint16_t)(i1 / kTile + 1), (uint16_t)(j0 / kTile), (uint16_t)(j1 / kTile + 1)};
  return true;
}

__global__ void __launch_bounds__(kThreads)
    project_kernel(HsScene s, Record* records, Box* boxes, uint32_t* keys, uint32_t* ids, uint32_t* tile_counts,
                   unsigned long long* counts) {
  __shared__ uint32_t visible_of[kWarps], pairs_of[kWarps];
  const int64_t id = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  bool visible = false;
  uint32_t reached = 0;
  Record r = {};
  Box box = {0, 0, 0, 0};
  if (id < s.count) {
    visible = project_one(s, id, r, box);
    records[id] = r;
    boxes[id] = box;
    // Depths are positive, so their bit patterns order like the numbers.
    keys[id] = visible ? __float_as_uint(r.z) : kInvisible;
    ids[id] = (uint32_t)id;
  }
  const TileWalk walk = {make_float4(r.x, r.y, r.a, r.b), make_float4(r.c, r.l, 0.0f, 0.0f),
                         make_float4(0.0f, 0.0f, r.slope_x, r.slope_y), box, tiles_x(s)};
  walk.each([&](int) { ++reached; },
            [&](int owner, uint32_t lanes, int) { reached += (int)lane == owner ? (uint32_t)__popc(lanes) : 0u; });
  if (id < s.count) tile_counts[id] = reached;
  const uint32_t visible_here = (uint32_t)__popc(__ballot_sync(kAllLanes, visible));
  const uint32_t pairs_here = __reduce_add_sync(kAllLanes, reached);
  if (lane == 0) {
    visible_of[warp] = visible_here;
    pairs_of[warp] = pairs_here;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    unsigned long long sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += threadIdx.x == 0 ? visible_of[w] : pairs_of[w];
    atomicAdd(&counts[threadIdx.x], sum);  // of integers: the order does not matter
  }
}

// Adds up a Gaussian's rows from `first` on, slot by slot.
template <int kCount>
__device__ __forceinline__ bool add_rows(const uint2 slots, const uint8_t* coloured, const float* rows, int stride,
                                         int first, int count, float (&sums)[kCount]) {
  for (int k = 0; k < kCount; ++k) sums[k] = 0;
  bool seen = false;
  for (uint32_t slot = slots.x; slot < slots.x + slots.y; ++slot) {
    if (coloured[slot] == 0) continue;
    seen = true;
    const float* row = rows + (int64_t)slot * stride + first;
    for (int k = 0; k < kCount; ++k) sums[k] += k < count ? row[k] : 0.0f;
  }
  return seen;
}

template <int kCount>
__device__ __forceinline__ void store(void* array, int64_t id, const float* values) {
  if (array == nullptr) return;
  float* to = static_cast<float*>(array) + kCount * id;
  for (int k = 0; k < kCount; ++k) to[k] = values[k];
}

__global__ void __launch_bounds__(kThreads)
    project_backward_kernel(HsScene s, const uint2* all_slots, const uint8_t* coloured, HsGradients gradients,
                            const float* rows, int stride, float* poses) {
  const int64_t id = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  float pose[12] = {};
  if (id < s.count) {
    const uint2 slots = all_slots[id];
    float sums[kColourInRow + 3];
    const int first_channels = s.channels < 3 ? (int)s.channels : 3;
    const bool seen = add_rows(slots, coloured, rows, stride, 0, kColourInRow + first_channels, sums);
    if (gradients.v_colours != nullptr) {
      float* to = static_cast<float*>(gradients.v_colours) + id * s.channels;
      for (int k = 0; k < 3; ++k) {
        if (k < first_channels) to[k] = sums[kColourInRow + k];
      }
      for (int first = 3; first < s.channels; first += 4) {
        float more[4];
        const int count = (int)s.channels - first < 4 ? (int)s.channels - first : 4;
        add_rows(slots, coloured, rows, stride, kColourInRow + first, count, more);
        for (int k = 0; k < 4; ++k) {
          if (k < count) to[first + k] = more[k];
        }
      }
    }
    GaussianGradientOf<float> out = {};
    float v_opacity = 0, v_means2d[2] = {0, 0};
    // A Gaussian that nobody saw may hold NaN.
    if (seen) {
      GaussianOf<float> g;
      ProjectionOf<float> p;
      const CameraOf<float> camera = camera_of(s);
      load_gaussian(s, id, g);
      project(camera, g, p);
      const MomentsOf<float> moments = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
      ProjectionGradientOf<float> in;
      moments_to_gradient(p, moments, in);
      in.z = gradients.v_depth != nullptr ? sums[kDepthInRow] : 0.0f;
      project_vjp(camera, g, p, in, out);
      v_opacity = moments.s / static_cast<const float*>(s.opacities)[id];
      v_means2d[0] = in.x;
      v_means2d[1] = in.y;
    }
    store<3>(gradients.v_means, id, out.mean);
    store<4>(gradients.v_quats, id, out.quat);
    store<3>(gradients.v_scales, id, out.scale);
    store<1>(gradients.v_opacities, id, &v_opacity);
    store<2>(gradients.v_means2d, id, v_means2d);
    for (int k = 0; k < 9; ++k) pose[k] = out.R[k];
    for (int k = 0; k < 3; ++k) pose[9 + k] = out.t[k];
  }
  if (gradients.v_T_cam_world == nullptr) return;
  __shared__ float partial[kWarps][12];
  const unsigned lane = threadIdx.x % 32;
  const float sum = WarpSums<12>::run(pose, lane);
  const int number = WarpSums<12>::number(lane);
  if (number >= 0) partial[threadIdx.x / 32][number] = sum;
  __syncthreads();
  if (threadIdx.x < 12) {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += partial[w][threadIdx.x];
    poses[12 * blockIdx.x + threadIdx.x] = total;
  }
}

// One warp for each of the pose's twelve numbers.
__global__ void __launch_bounds__(12 * 32) add_poses_kernel(const float* poses, int count, float* v_T) {
  const int lane = (int)threadIdx.x % 32, k = (int)threadIdx.x / 32;
  float sum[1] = {0};
  for (int i = lane; i < count; i += 32) sum[0] += poses[12 * i + k];
  const float total = WarpSums<1>::run(sum, (unsigned)lane);
  if (lane == 0) {
    v_T[k < 9 ? k / 3 * 4 + k % 3 : (k - 9) * 4 + 3] = total;
    if (k < 4) v_T[12 + k] = 0;
  }
}

__global__ void __launch_bounds__(kThreads)
    background_kernel(HsScene s, const float* transmittance, HsGradients gradients) {
  const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  if (i >= s.width * s.height * s.channels) return;
  const float* v_image = static_cast<const float*>(gradients.v_image);
  static_cast<float*>(gradients.v_background)[i] =
      v_image == nullptr ? 0.0f : v_image[i] * transmittance[i / s.channels];
}

}  // namespace

cudaError_t project_all(const HsScene& s, Record* records, Box* boxes, const ForwardScratch& scratch,
                        unsigned long long* counts, cudaStream_t stream) {
  return launch(project_kernel, dim3(blocks_for(s.count, kThreads)), dim3(kThreads), stream, s, records, boxes,
                scratch.depth_keys, scratch.ids, scratch.tile_counts, counts);
}

cudaError_t project_backward(const HsScene& s, const State& state, const HsGradients& gradients,
                             const BackwardScratch& scratch, cudaStream_t stream) {
  const unsigned blocks = blocks_for(s.count, kThreads);
  HS_TRY(launch(project_backward_kernel, dim3(blocks), dim3(kThreads), stream, s, state.slots, state.coloured,
                gradients, scratch.rows, row_length(s.channels), scratch.poses));
  if (gradients.v_T_cam_world != nullptr) {
    HS_TRY(launch(add_poses_kernel, dim3(1), dim3(12 * 32), stream, scratch.poses, (int)blocks,
                  static_cast<float*>(gradients.v_T_cam_world)));
  }
  if (gradients.v_background == nullptr) return cudaSuccess;
  return launch(background_kernel, dim3(blocks_for(s.width * s.height * s.channels, kThreads)), dim3(kThreads), stream,
                s, state.transmittance, gradients);
}

}  // namespace isa_cuda
}  // namespace headsplat
