// Blending: a block per tile, a thread per pixel, front to back.
#include "raster.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

// One Gaussian seen from one pixel.
struct Hit {
  float4 q1, q2;
  float alpha;
  bool reached;
  __device__ __forceinline__ Hit(const float4 (&near)[3][kThreads], uint32_t i, float px, float py)
      : q1(near[1][i]), q2(near[2][i]) {
    const float4 q0 = near[0][i];
    float raw;
    alpha = alpha_at(q0, q1, px - q0.x, py - q0.y, raw, reached);
  }
};

// What a pixel has gathered so far.
struct Ray {
  float transmittance;  // decays on below the stop, where nothing is blended any more
  float final;          // transmittance at the stop
  float colour[3] = {0, 0, 0}, depth = 0;
  uint32_t touched = 0;  // which of 32 pairs reached the pixel before it stopped

  template <bool kDepth>
  __device__ __forceinline__ void pass(const Hit& hit, int number) {
    const float next = fmaf(-hit.alpha, transmittance, transmittance);
    const bool going = next > kStop;
    const float weight = going ? hit.alpha * transmittance : 0.0f;
    colour[0] = fmaf(weight, hit.q1.z, colour[0]);
    colour[1] = fmaf(weight, hit.q1.w, colour[1]);
    colour[2] = fmaf(weight, hit.q2.x, colour[2]);
    if (kDepth) depth = fmaf(weight, hit.q2.y, depth);
    final = going ? next : final;
    // Also the pair at which the pixel stops: backward must see it stop there.
    touched |= (uint32_t)(hit.reached && transmittance > kStop) << number;
    transmittance = next;
  }
};

// kInitial: the pass that also does alpha, depth and what backward needs. kCheckpoints: also leave each
// pixel's state before every 32 pairs.
template <bool kInitial, bool kCheckpoints>
__global__ void __launch_bounds__(kThreads)
    blend_kernel(HsScene s, const Record* records, State state, HsPicture picture, Pass pass) {
  __shared__ float4 near[3][kThreads];                   // the first three quarters of the records
  __shared__ uint32_t coloured[kThreads / 32][kWarps];  // by 32 pairs: which ones touched the sub-tile
  const unsigned tile = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint2 range = state.tile_ranges[tile];
  const Pixel pixel(s, tile, warp, lane), corner(s, tile, warp, 0);
  const float px = pixel.x(), py = pixel.y(), left = corner.x(), top = corner.y();
  const uint32_t first_bucket = range.x / kBucket + tile;
  if (kInitial && kCheckpoints) {
    for (uint32_t k = threadIdx.x; k * kBucket < range.y - range.x; k += kThreads) {
      state.bucket_tiles[first_bucket + k] = tile;
    }
  }

  Ray ray;
  ray.transmittance = ray.final = pixel.inside ? 1.0f : 0.0f;
  // Each batch is on its way from memory while the one before is worked on.
  Loaded next;
  if (range.x + threadIdx.x < range.y) next.load<kInitial>(s, records, state, pass, range.x + threadIdx.x);
  uint32_t first = range.x;
  for (; first < range.y; first += kThreads) {
    // Also: every warp is done with the shared arrays of the batch before.
    if (__syncthreads_or(ray.transmittance > kStop) == 0) break;
    const uint32_t count = range.y - first < kThreads ? range.y - first : kThreads;
    const uint32_t slot = next.pair.y;
    near[0][threadIdx.x] = next.q0;
    near[1][threadIdx.x] = next.q1;
    near[2][threadIdx.x] = next.q2;
    if (threadIdx.x < kThreads / 32 * kWarps) coloured[threadIdx.x / kWarps][threadIdx.x % kWarps] = 0;
    __syncthreads();
    const uint32_t after = first + kThreads + threadIdx.x;
    if (after < range.y) next.load<kInitial>(s, records, state, pass, after);
    for (uint32_t chunk = 0; chunk * 32 < count; ++chunk) {
      if (!__any_sync(kAllLanes, ray.transmittance > kStop)) break;
      if (kCheckpoints) {
        float* at = state.checkpoints +
                    (int64_t)(first_bucket + (first - range.x) / kBucket + chunk) * state.planes * kThreads +
                    threadIdx.x;
        if (kInitial) {
          at[0] = ray.transmittance;
          at[kThreads] = ray.depth;
        }
        at[(2 + pass.first) * kThreads] = ray.colour[0];
        at[(3 + pass.first) * kThreads] = ray.colour[1];
        at[(4 + pass.first) * kThreads] = ray.colour[2];
      }
      const uint32_t mine = chunk * 32 + lane;
      bool reaches_here = false;
      if (mine < count) {
        const float4 q0 = near[0][mine];
        reaches_here =
            reaches(q0, near[1][mine], near[2][mine], left - q0.x, top - q0.y, kSubWidth - 1, kSubHeight - 1);
      }
      // Two at a time: the second one's alpha does not wait for the first one's.
      for (uint32_t hits = __ballot_sync(kAllLanes, reaches_here); hits != 0;) {
        const int i = __ffs((int)hits) - 1;
        hits &= hits - 1;
        const bool two = hits != 0;
        const int j = two ? __ffs((int)hits) - 1 : i;
        hits &= hits - 1;
        const Hit one(near, chunk * 32 + i, px, py), other(near, chunk * 32 + j, px, py);
        ray.template pass<kInitial>(one, i);
        if (two) ray.template pass<kInitial>(other, j);
      }
      const uint32_t touched = __reduce_or_sync(kAllLanes, ray.touched);
      ray.touched = 0;
      if (lane == 0) coloured[chunk][warp] = touched;
    }
    if (kInitial) {
      __syncthreads();
      if (threadIdx.x < count) {
        uint32_t bits = 0;
        for (int w = 0; w < kWarps; ++w) bits |= (coloured[warp][w] >> lane & 1) << w;
        state.coloured[slot] = (uint8_t)bits;
      }
    }
  }
  // Nothing behind it was touched: backward need not even look. Every thread has read the range by now.
  if (kInitial && threadIdx.x == 0 && first > range.x && first < range.y) state.tile_ranges[tile].y = first;

  if (!pixel.inside) return;
  const int64_t index = pixel.index(s);
  float* to = static_cast<float*>(picture.image) + index * s.channels + pass.first;
  const float* behind = s.background == nullptr ? nullptr
                                                : static_cast<const float*>(s.background) +
                                                      index * s.background_stride + pass.first;
  for (int k = 0; k < 3; ++k) {
    if (k < pass.count) to[k] = behind == nullptr ? ray.colour[k] : fmaf(ray.final, behind[k], ray.colour[k]);
  }
  if (kInitial) {
    const float alpha = 1.0f - ray.final;
    static_cast<float*>(picture.alpha)[index] = alpha;
    static_cast<float*>(picture.depth)[index] = alpha > 0 ? ray.depth / alpha : 0.0f;
    state.transmittance[index] = ray.final;
  }
}

}  // namespace

cudaError_t blend(const HsScene& s, const Record* records, const State& state, const HsPicture& picture,
                  cudaStream_t stream) {
  const bool checkpoints = state.buckets > 0;
  for (int number = 0; number < passes(s); ++number) {
    const int first = 3 * number, left = (int)s.channels - first;
    const Pass pass = {first, left < 3 ? left : 3};
    const auto kernel = number == 0 ? (checkpoints ? blend_kernel<true, true> : blend_kernel<true, false>)
                                    : (checkpoints ? blend_kernel<false, true> : blend_kernel<false, false>);
    HS_TRY(launch(kernel, dim3((unsigned)tiles(s)), dim3(kThreads), stream, s, records, state, picture, pass));
  }
  return cudaSuccess;
}

}  // namespace isa_cuda
}  // namespace headsplat
