// The transpose of blending, also from front to back: with the final colour C known, what lies behind a
// Gaussian is R = g.C - sum of w g.c so far, one number per pixel. Two ways to sum over the pixels.
#include "raster.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

// The loss's gradient at a pixel, and R before the first Gaussian.
struct PixelGradient {
  float colour[3] = {0, 0, 0}, depth = 0, behind = 0;

  template <bool kInitial, bool kDepth>
  __device__ __forceinline__ void load(const HsScene& s, const HsPicture& picture, const HsGradients& gradients,
                                       const float* transmittance, const Pass& pass, int64_t index) {
    if (gradients.v_image != nullptr) {
      const int64_t at = index * s.channels + pass.first;
      for (int k = 0; k < 3; ++k) {
        if (k >= pass.count) continue;
        colour[k] = static_cast<const float*>(gradients.v_image)[at + k];
        behind = fmaf(colour[k], static_cast<const float*>(picture.image)[at + k], behind);
      }
    }
    if (!kInitial) return;
    const float final = transmittance[index], alpha = 1.0f - final;
    float v_coverage = gradients.v_alpha == nullptr ? 0.0f : static_cast<const float*>(gradients.v_alpha)[index];
    if (kDepth && alpha > 0) {
      // depth = Z / alpha with Z = sum w z: Z is one more channel without background.
      const float v = static_cast<const float*>(gradients.v_depth)[index];
      const float z = static_cast<const float*>(picture.depth)[index];
      depth = v / alpha;
      v_coverage = fmaf(-depth, z, v_coverage);
      behind = fmaf(v, z, behind);
    }
    behind = fmaf(-final, v_coverage, behind);
  }
};

// The sums of one pair: six moments, three colours, depth.
constexpr int kSums = 9, kDepthSum = 9;

// One Gaussian and one pixel: moves the pixel's state behind the Gaussian and adds to the sums. Nothing
// changes where the Gaussian does not count.
template <bool kDepth>
__device__ __forceinline__ void step_back(const float4& q0, const float4& q1, const float4& q2, float px, float py,
                                          bool counts, float g0, float g1, float g2, float g_depth,
                                          float& transmittance, float& behind, float* sums) {
  const float dx = px - q0.x, dy = py - q0.y;
  float raw;
  bool reached;
  const float alpha_there = alpha_at(q0, q1, dx, dy, raw, reached);
  const float alpha = counts ? alpha_there : 0.0f;
  const float next = fmaf(-alpha, transmittance, transmittance);
  const bool going = next > kStop;
  const float weight = going ? alpha * transmittance : 0.0f;
  sums[6] = fmaf(weight, g0, sums[6]);
  sums[7] = fmaf(weight, g1, sums[7]);
  sums[8] = fmaf(weight, g2, sums[8]);
  float cg = fmaf(q2.x, g2, fmaf(q1.w, g1, q1.z * g0));
  if constexpr (kDepth) {
    sums[kDepthSum] = fmaf(weight, g_depth, sums[kDepthSum]);
    cg = fmaf(q2.y, g_depth, cg);
  }
  behind = fmaf(-weight, cg, behind);
  const float v_alpha = fmaf(-behind, fast_reciprocal(1.0f - alpha), transmittance * cg);
  const float v = counts && going && raw <= kMost ? raw * v_alpha : 0.0f;
  transmittance = next;
  const float vx = v * dx, vy = v * dy;
  sums[0] += v;
  sums[1] += vx;
  sums[2] += vy;
  sums[3] = fmaf(vx, dx, sums[3]);
  sums[4] = fmaf(vx, dy, sums[4]);
  sums[5] = fmaf(vy, dy, sums[5]);
}

// Puts one of a pair's sums where its row has it; later passes add to the moments of the first.
template <bool kInitial>
__device__ __forceinline__ void put(float* row, const Pass& pass, int number, float value) {
  if (number < 6) {
    row[number] = kInitial ? value : row[number] + value;
  } else if (number == kDepthSum) {
    row[kDepthInRow] = value;
  } else if (number - 6 < pass.count) {
    row[kColourInRow + pass.first + number - 6] = value;
  }
}

// Pairs that a block works on between barriers, and Gaussians that a warp works on at a time: their sums
// share the rounds of shuffles, which take longer than all the rest.
constexpr int kBatch = 64, kTogether = 2;

// Lanes are pixels: each warp sums a Gaussian over its sub-tile by shuffles, and the block adds the
// warps' sums in order.
template <bool kInitial, bool kDepth>
__global__ void __launch_bounds__(kThreads, kDepth ? 3 : 4)
    backward_by_warp(HsScene s, const Record* records, State state, HsPicture picture, HsGradients gradients,
                     Pass pass, float* rows, int stride) {
  constexpr int kValues = kSums + kDepth;
  __shared__ float4 near[3][kBatch];
  __shared__ uint32_t slots[kBatch], masks[kBatch];
  __shared__ float partial[kWarps][kBatch][kValues];
  const unsigned tile = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint2 range = state.tile_ranges[tile];
  if (range.x == range.y) return;
  const Pixel pixel(s, tile, warp, lane);
  const float px = pixel.x(), py = pixel.y();
  const int number = WarpSums<kTogether * kValues>::number(lane);
  PixelGradient g;
  if (pixel.inside) {
    g.load<kInitial, kDepth>(s, picture, gradients, state.transmittance, pass, pixel.index(s));
  }
  float transmittance = pixel.inside ? 1.0f : 0.0f, behind = g.behind;

  // Each batch is on its way from memory while the one before is worked on.
  Loaded next;
  uint32_t next_mask = 0;
  const auto fetch = [&](uint32_t first) {
    next_mask = 0;
    if (threadIdx.x >= kBatch || first + threadIdx.x >= range.y) return;
    next.load<kInitial>(s, records, state, pass, first + threadIdx.x);
    next_mask = state.coloured[next.pair.y];
  };
  fetch(range.x);
  for (uint32_t first = range.x; first < range.y; first += kBatch) {
    const uint32_t count = range.y - first < kBatch ? range.y - first : kBatch;
    const uint32_t mask = next_mask;
    __syncthreads();  // the sums of the batch before are read
    if (threadIdx.x < kBatch) {
      slots[threadIdx.x] = next.pair.y;
      masks[threadIdx.x] = mask;
      near[0][threadIdx.x] = next.q0;
      near[1][threadIdx.x] = next.q1;
      near[2][threadIdx.x] = next.q2;
    }
    const bool any = __syncthreads_or(mask != 0) != 0;
    fetch(first + kBatch);
    if (!any) continue;
    const bool low = (masks[lane] >> warp & 1) != 0, high = (masks[32 + lane] >> warp & 1) != 0;
    unsigned long long hits = __ballot_sync(kAllLanes, high);
    hits = hits << 32 | __ballot_sync(kAllLanes, low);
    while (hits != 0) {
      int index[kTogether];
      bool there[kTogether];
      float sums[kTogether * kValues];
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
        there[n] = hits != 0;
        index[n] = there[n] ? __ffsll((long long)hits) - 1 : index[0];
        hits &= hits - 1;
#pragma unroll
        for (int k = 0; k < kValues; ++k) sums[n * kValues + k] = 0;
        step_back<kDepth>(near[0][index[n]], near[1][index[n]], near[2][index[n]], px, py, there[n], g.colour[0],
                          g.colour[1], g.colour[2], g.depth, transmittance, behind, sums + n * kValues);
      }
      const float total = WarpSums<kTogether * kValues>::run(sums, lane);
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
        if (number >= n * kValues && number < (n + 1) * kValues && there[n]) {
          partial[warp][index[n]][number - n * kValues] = total;
        }
      }
    }
    __syncthreads();
    for (uint32_t item = threadIdx.x; item < count * kValues; item += kThreads) {
      const uint32_t i = item / kValues, k = item % kValues, who = masks[i];
      if (who == 0) continue;
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if ((who >> w & 1) != 0) total += partial[w][i][k];
      }
      put<kInitial>(rows + (int64_t)slots[i] * stride, pass, (int)k, total);
    }
  }
}

// Lanes are Gaussians: a warp takes 32 pairs of a tile, and every pixel walks through its lanes, one
// lane a step, from the checkpoint that the forward pass left.
template <bool kInitial, bool kDepth>
__global__ void __launch_bounds__(kThreads, 4)
    backward_by_gaussian(HsScene s, const Record* records, State state, HsPicture picture, HsGradients gradients,
                         Pass pass, float* rows, int stride) {
  // Two times 32 pixels of a warp: while the last lanes are still at the one, the first begin the other.
  __shared__ float4 g_of[kWarps][2][32];
  __shared__ float2 start_of[kWarps][32];  // transmittance and R at the checkpoint
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t bucket = (int64_t)blockIdx.x * kWarps + warp;
  if (bucket >= state.buckets) return;
  const uint32_t tile = state.bucket_tiles[bucket];
  if (tile == 0xffffffffu) return;
  const uint2 range = state.tile_ranges[tile];
  const uint32_t at = range.x + ((uint32_t)bucket - (range.x / kBucket + tile)) * kBucket + lane;
  Loaded mine;
  uint32_t mask = 0;
  if (at < range.y) {
    mine.load<kInitial>(s, records, state, pass, at);
    mask = state.coloured[mine.pair.y];
  }
  uint32_t left = __reduce_or_sync(kAllLanes, mask);  // sub-tiles to do
  if (left == 0) return;
  const float* checkpoint = state.checkpoints + bucket * state.planes * kThreads;

  float sums[kSums + kDepth] = {};
  float transmittance = 0, behind = 0;
  uint32_t sub_tile = 0, sub_tile_before = 0;
  const int groups = __popc(left);
  // One group more than there are: the last pixels have to get through to the last lane.
  for (int group = 0; group <= groups; ++group) {
    sub_tile_before = sub_tile;
    if (group < groups) {
      sub_tile = (uint32_t)__ffs((int)left) - 1;
      left &= left - 1;
      const Pixel pixel(s, tile, sub_tile, lane);
      const unsigned place = sub_tile * 32 + lane;
      PixelGradient g;
      if (pixel.inside) {
        g.load<kInitial, kDepth>(s, picture, gradients, state.transmittance, pass, pixel.index(s));
      }
      const float* blended = checkpoint + (2 + pass.first) * kThreads + place;
      float start = g.behind;
      for (int k = 0; k < 3; ++k) start = fmaf(-g.colour[k], blended[k * kThreads], start);
      if (kDepth) start = fmaf(-g.depth, checkpoint[kThreads + place], start);
      __syncwarp();  // nobody reads the group before the one before any more
      g_of[warp][group & 1][lane] = make_float4(g.colour[0], g.colour[1], g.colour[2], g.depth);
      start_of[warp][lane] = make_float2(checkpoint[place], start);
      __syncwarp();
    }
    for (int step = 0; step < 32; ++step) {
      transmittance = __shfl_up_sync(kAllLanes, transmittance, 1);
      behind = __shfl_up_sync(kAllLanes, behind, 1);
      if (lane == 0) {
        const float2 start = start_of[warp][step];
        transmittance = start.x;
        behind = start.y;
      }
      const int place = step - (int)lane;  // of this lane's pixel in the group, or in the one before
      const bool before = place < 0;
      if (before ? group == 0 : group == groups) continue;
      const uint32_t here = before ? sub_tile_before : sub_tile;
      if ((mask >> here & 1) == 0) continue;
      const Pixel pixel(s, tile, here, (unsigned)place % 32);
      const float4 g = g_of[warp][(group ^ (int)before) & 1][place & 31];
      step_back<kDepth>(mine.q0, mine.q1, mine.q2, pixel.x(), pixel.y(), true, g.x, g.y, g.z, g.w, transmittance,
                        behind, sums);
    }
  }
  if (mask == 0) return;
#pragma unroll
  for (int k = 0; k < kSums + kDepth; ++k) put<kInitial>(rows + (int64_t)mine.pair.y * stride, pass, k, sums[k]);
}

}  // namespace

cudaError_t blend_backward(const HsScene& s, int32_t backward, const Record* records, const State& state,
                           const HsPicture& picture, const HsGradients& gradients, float* rows,
                           cudaStream_t stream) {
  const bool by_gaussian = backward == HS_CUDA_BACKWARD_GAUSSIAN;
  const unsigned blocks = by_gaussian ? blocks_for(state.buckets, kWarps) : (unsigned)tiles(s);
  for (int number = 0; number < passes(s); ++number) {
    const int first = 3 * number, left = (int)s.channels - first;
    const Pass pass = {first, left < 3 ? left : 3};
    const bool depth = gradients.v_depth != nullptr;
    const auto by_warp_kernel = number > 0 ? backward_by_warp<false, false>
                                : depth    ? backward_by_warp<true, true>
                                           : backward_by_warp<true, false>;
    const auto by_gaussian_kernel = number > 0 ? backward_by_gaussian<false, false>
                                    : depth    ? backward_by_gaussian<true, true>
                                               : backward_by_gaussian<true, false>;
    HS_TRY(launch(by_gaussian ? by_gaussian_kernel : by_warp_kernel, dim3(blocks), dim3(kThreads), stream, s, records,
                  state, picture, gradients, pass, rows, row_length(s.channels)));
  }
  return cudaSuccess;
}

}  // namespace isa_cuda
}  // namespace headsplat
