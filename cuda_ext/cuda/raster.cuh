// What the parts of the CUDA rasterizer share: records, the layout of state and scratch, pixels.
//
// Method: a block of 256 threads is a tile of 16x16 pixels, each of its warps an 8x4 sub-tile. For 32
// Gaussians at a time each lane tells whether one of them reaches the warp's sub-tile (the CPU's exact
// test), and the warp walks only those. Gaussians are sorted by depth once; a stable sort by tile keeps
// that order. Every pair of a Gaussian and a tile has a slot, numbered Gaussian by Gaussian: backward
// leaves a row of sums in it and one thread per Gaussian adds its rows in order, hence the same bits in
// every run without a float atomic.
#pragma once

#include "headsplat_cuda.h"
#include "launch.cuh"

#define HEADSPLAT_ISA isa_cuda
#if defined(__CUDACC__)
#define HS_BOTH __host__ __device__ __forceinline__
#else
#define HS_BOTH inline __attribute__((always_inline))
#endif

// The functions that splat_math.h expects of its scalar; float has no namespace in which they could be
// found later, hence before the header.
namespace headsplat {
namespace isa_cuda {
HS_BOTH float min(float a, float b) { return fminf(a, b); }
HS_BOTH float max(float a, float b) { return fmaxf(a, b); }
HS_BOTH float sqrt(float x) { return sqrtf(x); }
HS_BOTH float fma(float a, float b, float c) { return fmaf(a, b, c); }
HS_BOTH float select(bool condition, float a, float b) { return condition ? a : b; }
}  // namespace isa_cuda
}  // namespace headsplat

#include "splat_math.h"

namespace headsplat {
namespace isa_cuda {

constexpr int kThreads = kTile * kTile;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr int kSubWidth = 8, kSubHeight = 4;  // pixels of a warp's sub-tile
constexpr uint16_t kNoTile = 0xffff;
constexpr uint32_t kInvisible = 0xffffffffu;
constexpr int64_t kMostTiles = 65534;
constexpr int kBucket = 32;  // pairs between two checkpoints

constexpr float kThreshold = (float)kLog2AlphaThreshold;
// The slack covers the rounding of exponents that are small differences of large terms.
constexpr float kThresholdToReach = (float)(kLog2AlphaThreshold - 0.01);
constexpr float kStop = (float)kStopTransmittance;
constexpr float kMost = (float)kMaxAlpha;

// A projected Gaussian, as on the CPU. Blending reads the first three quarters.
struct alignas(16) Record {
  float x, y, a, b;
  float c, l, colour0, colour1;
  float colour2, z, slope_x, slope_y;
  float reach_x, reach_y, unused0, unused1;
};

struct alignas(8) Box {
  uint16_t x0, x1, y0, y1;
};

// Up to three channels at a time; alpha's gradient is linear in them.
struct Pass {
  int first, count;
};

__host__ __device__ inline int tiles_x(const HsScene& s) { return (int)((s.width + kTile - 1) / kTile); }
inline int64_t tiles(const HsScene& s) { return (s.width + kTile - 1) / kTile * ((s.height + kTile - 1) / kTile); }
inline int passes(const HsScene& s) { return s.channels <= 3 ? 1 : (int)((s.channels + 2) / 3); }

// Cuts arrays off a piece of memory, or only adds up their sizes.
class Carver {
 public:
  explicit Carver(void* memory) : at_(reinterpret_cast<uintptr_t>(memory)), begin_(at_) {}
  template <class T>
  T* take(int64_t count) {
    T* const found = reinterpret_cast<T*>(at_);
    at_ += ((uintptr_t)count * sizeof(T) + 255) / 256 * 256;
    return found;
  }
  int64_t bytes() const { return (int64_t)(at_ - begin_); }

 private:
  uintptr_t at_, begin_;
};

struct State {
  uint2* tile_ranges;   // [tiles] begin and end in pairs; the end moves to where all pixels were full
  uint2* slots;         // [N] first slot, number of slots
  uint2* pairs;         // [capacity] Gaussian and slot; by tile, front to back
  uint8_t* coloured;    // [capacity] by slot: bit w where sub-tile w has a pixel that it touched
  float* transmittance;  // [H, W] at the end
  // For HS_CUDA_BACKWARD_GAUSSIAN only. A tile's buckets begin at its begin / 32 + its number: room
  // enough for each tile's last, incomplete one, without a scan.
  uint32_t* bucket_tiles;  // [buckets], all bits set where a bucket is unused
  float* checkpoints;      // [buckets, planes, 256]: transmittance, depth, then the colours blended so far
  int64_t buckets, bytes;
  int planes;

  State(const HsScene& s, int64_t capacity, int32_t backward, void* memory) {
    Carver carver(memory);
    tile_ranges = carver.take<uint2>(tiles(s));
    slots = carver.take<uint2>(s.count);
    pairs = carver.take<uint2>(capacity);
    coloured = carver.take<uint8_t>(capacity);
    transmittance = carver.take<float>(s.width * s.height);
    buckets = backward == HS_CUDA_BACKWARD_GAUSSIAN ? capacity / kBucket + tiles(s) + 1 : 0;
    planes = 2 + 3 * passes(s);
    bucket_tiles = carver.take<uint32_t>(buckets);
    checkpoints = carver.take<float>(buckets * planes * kThreads);
    bytes = carver.bytes();
  }
};

struct ForwardScratch {
  uint32_t *depth_keys, *ids, *sorted_keys, *order, *tile_counts;  // [N]
  unsigned long long *ordered_counts, *offsets;                    // [N] by depth
  uint16_t *tile_keys, *sorted_tile_keys;                          // [capacity]
  uint32_t *gaussians, *emissions, *sorted_emissions;              // [capacity]
  void* storage;                                                   // of CUB
  int64_t bytes;

  ForwardScratch(const HsScene& s, int64_t capacity, size_t storage_bytes, void* memory) {
    Carver carver(memory);
    depth_keys = carver.take<uint32_t>(s.count);
    ids = carver.take<uint32_t>(s.count);
    sorted_keys = carver.take<uint32_t>(s.count);
    order = carver.take<uint32_t>(s.count);
    tile_counts = carver.take<uint32_t>(s.count);
    ordered_counts = carver.take<unsigned long long>(s.count);
    offsets = carver.take<unsigned long long>(s.count);
    tile_keys = carver.take<uint16_t>(capacity);
    sorted_tile_keys = carver.take<uint16_t>(capacity);
    gaussians = carver.take<uint32_t>(capacity);
    emissions = carver.take<uint32_t>(capacity);
    sorted_emissions = carver.take<uint32_t>(capacity);
    storage = carver.take<char>((int64_t)storage_bytes);
    bytes = carver.bytes();
  }
};

// A pair's row of sums: six moments, depth, then the colours.
constexpr int kDepthInRow = 6, kColourInRow = 7;
inline int row_length(int64_t channels) { return (int)((kColourInRow + channels + 3) / 4 * 4); }

struct BackwardScratch {
  float* rows;   // [capacity, row_length]
  float* poses;  // [blocks of Gaussians, 12]
  int64_t bytes;

  BackwardScratch(const HsScene& s, int64_t capacity, void* memory) {
    Carver carver(memory);
    rows = carver.take<float>(capacity * row_length(s.channels));
    poses = carver.take<float>(12 * (int64_t)blocks_for(s.count, kThreads));
    bytes = carver.bytes();
  }
};

// Whether a Gaussian reaches a rectangle of pixels whose first centre is at (left, top), seen from the
// Gaussian, and whose last is (width, height) further.
__device__ __forceinline__ bool reaches(const float4& q0, const float4& q1, const float4& q2, float left, float top,
                                        float width, float height) {
  return largest_exponent(q0.z, q0.w, q1.x, q1.y, q2.z, q2.w, left, left + width, top, top + height) >=
         kThresholdToReach;
}

// The tiles that the Gaussians of a warp's lanes reach, row by row. Those of a large box are found by the
// whole warp: a Gaussian that fills the picture would keep one thread busy for longer than all the others
// together.
constexpr int kOwnTiles = 16;

struct TileWalk {
  float4 q0, q1, q2;  // as in the record
  Box box;
  int across;  // tiles in a row of the picture

  __device__ __forceinline__ int width() const { return box.x1 - box.x0; }
  __device__ __forceinline__ int count() const { return width() * (box.y1 - box.y0); }
  // The number-th tile of the box, and whether the Gaussian reaches it.
  __device__ __forceinline__ int tile(int number, bool& reached) const {
    const int x = box.x0 + number % width(), y = box.y0 + number / width();
    reached = reaches(q0, q1, q2, (float)(x * kTile) + 0.5f - q0.x, (float)(y * kTile) + 0.5f - q0.y, kTile - 1,
                      kTile - 1);
    return y * across + x;
  }
  // The walk of another lane.
  __device__ __forceinline__ TileWalk of(int lane) const {
    TileWalk w;
    w.q0 = make_float4(__shfl_sync(kAllLanes, q0.x, lane), __shfl_sync(kAllLanes, q0.y, lane),
                       __shfl_sync(kAllLanes, q0.z, lane), __shfl_sync(kAllLanes, q0.w, lane));
    w.q1 = make_float4(__shfl_sync(kAllLanes, q1.x, lane), __shfl_sync(kAllLanes, q1.y, lane), 0.0f, 0.0f);
    w.q2 = make_float4(0.0f, 0.0f, __shfl_sync(kAllLanes, q2.z, lane), __shfl_sync(kAllLanes, q2.w, lane));
    const uint32_t x = __shfl_sync(kAllLanes, (uint32_t)box.x0 | (uint32_t)box.x1 << 16, lane);
    const uint32_t y = __shfl_sync(kAllLanes, (uint32_t)box.y0 | (uint32_t)box.y1 << 16, lane);
    w.box = {(uint16_t)x, (uint16_t)(x >> 16), (uint16_t)y, (uint16_t)(y >> 16)};
    w.across = across;
    return w;
  }
  // Calls own(tile) for each tile that this lane's Gaussian reaches. Tiles of a large box are found by
  // the whole warp: all lanes call together(owner, lanes whose tile is reached, tile of this lane).
  template <class Own, class Together>
  __device__ __forceinline__ void each(const Own& own, const Together& together) const {
    const bool large = count() > kOwnTiles;
    for (int number = 0; !large && number < count(); ++number) {
      bool reached;
      const int found = tile(number, reached);
      if (reached) own(found);
    }
    const int lane = (int)threadIdx.x % 32;
    for (uint32_t left = __ballot_sync(kAllLanes, large); left != 0; left &= left - 1) {
      const int owner = __ffs((int)left) - 1;
      const TileWalk w = of(owner);
      for (int first = 0; first < w.count(); first += 32) {
        bool reached = false;
        const int found = w.tile(first + lane, reached);
        reached = reached && first + lane < w.count();
        together(owner, __ballot_sync(kAllLanes, reached), found);
      }
    }
  }
};

// A thread's pixel.
struct Pixel {
  int column, row;
  bool inside;
  __device__ __forceinline__ Pixel(const HsScene& s, unsigned tile, unsigned sub_tile, unsigned lane) {
    const unsigned across = (unsigned)tiles_x(s);
    column = (int)(tile % across * kTile + sub_tile % 2 * kSubWidth + lane % kSubWidth);
    row = (int)(tile / across * kTile + sub_tile / 2 * kSubHeight + lane / kSubWidth);
    inside = column < s.width && row < s.height;
  }
  __device__ __forceinline__ int64_t index(const HsScene& s) const { return row * s.width + column; }
  __device__ __forceinline__ float x() const { return (float)column + 0.5f; }
  __device__ __forceinline__ float y() const { return (float)row + 0.5f; }
};

// A pair and the first three quarters of its record, with the colours of the pass.
struct Loaded {
  uint2 pair = {0, 0};
  float4 q0 = {0, 0, 0, 0}, q1 = {0, 0, 0, 0}, q2 = {0, 0, 0, 0};

  template <bool kInitial>
  __device__ __forceinline__ void load(const HsScene& s, const Record* records, const State& state, const Pass& pass,
                                       uint32_t at) {
    pair = state.pairs[at];
    const float4* quarters = reinterpret_cast<const float4*>(records + pair.x);
    q0 = quarters[0];
    q1 = quarters[1];
    q2 = quarters[2];
    if (!kInitial) {
      const float* row = static_cast<const float*>(s.colours) + (int64_t)pair.x * s.channels + pass.first;
      q1.z = row[0];
      q1.w = pass.count > 1 ? row[1] : 0.0f;
      q2.x = pass.count > 2 ? row[2] : 0.0f;
    }
  }
};

// One Gaussian's alpha on one pixel; 0 where it is below the threshold, which depends on nothing but
// these operations: forward and backward must agree on it.
__device__ __forceinline__ float alpha_at(const float4& q0, const float4& q1, float dx, float dy, float& raw,
                                          bool& reached) {
  const float p = exponent(q0.z, q0.w, q1.x, q1.y, dx, dy);
  reached = p >= kThreshold;
  raw = reached ? fast_exp2(p) : 0.0f;
  return fminf(raw, kMost);
}

// ------------------------------------------------------------------------ the stages, on a stream

cudaError_t project_all(const HsScene& s, Record* records, Box* boxes, const ForwardScratch& scratch,
                        unsigned long long* counts, cudaStream_t stream);
// Bytes of temporary storage that CUB wants in sort_and_bin.
cudaError_t storage_bytes(const HsScene& s, int64_t capacity, size_t* bytes);
cudaError_t sort_and_bin(const HsScene& s, int64_t capacity, const Record* records, const Box* boxes,
                         const ForwardScratch& scratch, size_t storage, const State& state,
                         unsigned long long* counts, cudaStream_t stream);
cudaError_t blend(const HsScene& s, const Record* records, const State& state, const HsPicture& picture,
                  cudaStream_t stream);
cudaError_t blend_backward(const HsScene& s, int32_t backward, const Record* records, const State& state,
                           const HsPicture& picture, const HsGradients& gradients, float* rows,
                           cudaStream_t stream);
cudaError_t project_backward(const HsScene& s, const State& state, const HsGradients& gradients,
                             const BackwardScratch& scratch, cudaStream_t stream);

}  // namespace isa_cuda
}  // namespace headsplat
