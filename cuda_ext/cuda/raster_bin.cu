// From projected Gaussians to lists of pairs by tile, front to back.
#include "raster.cuh"

#if !defined(HEADSPLAT_EMULATED)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace headsplat {
namespace isa_cuda {
namespace {

// Sums of 64 bits: a few huge Gaussians in a large picture have more than 2^32 pairs, and `counts`
// must say so.
__global__ void __launch_bounds__(kThreads)
    gather_counts_kernel(int count, const uint32_t* order, const uint32_t* tile_counts, unsigned long long* ordered) {
  const int rank = (int)(blockIdx.x * kThreads + threadIdx.x);
  if (rank < count) ordered[rank] = tile_counts[order[rank]];
}

// Writes the pairs in order of depth. Their place in that order is their slot.
__global__ void __launch_bounds__(kThreads)
    emit_kernel(HsScene s, uint32_t capacity, const Record* records, const Box* boxes, ForwardScratch scratch,
                uint2* slots, unsigned long long* counts) {
  const int64_t rank = (int64_t)blockIdx.x * kThreads + threadIdx.x;
  if (rank == 0) counts[2] = counts[1] < capacity ? counts[1] : capacity;
  uint32_t id = 0, begin = 0, end = 0;
  TileWalk walk = {};
  walk.across = tiles_x(s);  // also of lanes without a Gaussian: they help the others
  if (rank < s.count) {
    id = scratch.order[rank];
    const unsigned long long offset = scratch.offsets[rank], after = offset + scratch.ordered_counts[rank];
    begin = offset < capacity ? (uint32_t)offset : capacity;
    end = after < capacity ? (uint32_t)after : capacity;
    if (begin < end) {
      const float4* quarters = reinterpret_cast<const float4*>(records + id);
      walk = {quarters[0], quarters[1], quarters[2], boxes[id], walk.across};
    }
  }
  const auto write = [&](uint32_t at, int tile, uint32_t gaussian) {
    scratch.tile_keys[at] = (uint16_t)tile;
    scratch.gaussians[at] = gaussian;
    scratch.emissions[at] = at;
  };
  const uint32_t lane = threadIdx.x % 32;
  uint32_t at = begin;
  walk.each(
      [&](int tile) {
        if (at < end) write(at++, tile, id);
      },
      [&](int owner, uint32_t lanes, int tile) {
        const uint32_t first = __shfl_sync(kAllLanes, at, owner), last = __shfl_sync(kAllLanes, end, owner);
        const uint32_t gaussian = __shfl_sync(kAllLanes, id, owner);
        const uint32_t mine = first + (uint32_t)__popc(lanes & ((1u << lane) - 1));
        if ((lanes >> lane & 1) != 0 && mine < last) write(mine, tile, gaussian);
        const uint32_t next = first + (uint32_t)__popc(lanes);
        if ((int)lane == owner) at = next < last ? next : last;
      });
  if (rank < s.count) slots[id] = make_uint2(begin, at - begin);
}

__global__ void __launch_bounds__(kThreads)
    find_tiles_kernel(const unsigned long long* counts, const uint16_t* keys, const uint32_t* emissions,
                      const uint32_t* gaussians, uint2* pairs, uint2* tile_ranges) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x, drawn = (uint32_t)counts[2];
  if (i >= drawn) return;
  const uint16_t key = keys[i];
  if (key == kNoTile) return;
  const uint32_t slot = emissions[i];
  pairs[i] = make_uint2(gaussians[slot], slot);
  if (i == 0 || keys[i - 1] != key) tile_ranges[key].x = i;
  if (i + 1 == drawn || keys[i + 1] != key) tile_ranges[key].y = i + 1;
}

// Bits that tell the tiles and kNoTile apart.
int key_bits(const HsScene& s) {
  int bits = 1;
  while ((int64_t(1) << bits) <= tiles(s)) ++bits;
  return bits;
}

cudaError_t sort_depths(void* storage, size_t& bytes, const ForwardScratch& scratch, int count, cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(storage, bytes, scratch.depth_keys, scratch.sorted_keys, scratch.ids,
                                         scratch.order, count, 0, 32, stream);
}

cudaError_t scan_counts(void* storage, size_t& bytes, const ForwardScratch& scratch, int count, cudaStream_t stream) {
  return cub::DeviceScan::ExclusiveSum(storage, bytes, scratch.ordered_counts, scratch.offsets, count, stream);
}

cudaError_t sort_tiles(void* storage, size_t& bytes, const ForwardScratch& scratch, int count, int bits,
                       cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(storage, bytes, scratch.tile_keys, scratch.sorted_tile_keys,
                                         scratch.emissions, scratch.sorted_emissions, count, 0, bits, stream);
}

}  // namespace

cudaError_t storage_bytes(const HsScene& s, int64_t capacity, size_t* bytes) {
  const ForwardScratch nothing(s, capacity, 0, nullptr);
  size_t largest = 16;
  for (int stage = 0; stage < 3; ++stage) {
    size_t found = 0;
    if (stage == 0 && s.count > 0) HS_TRY(sort_depths(nullptr, found, nothing, (int)s.count, nullptr));
    if (stage == 1 && s.count > 0) HS_TRY(scan_counts(nullptr, found, nothing, (int)s.count, nullptr));
    if (stage == 2 && capacity > 0) HS_TRY(sort_tiles(nullptr, found, nothing, (int)capacity, key_bits(s), nullptr));
    if (found > largest) largest = found;
  }
  *bytes = largest;
  return cudaSuccess;
}

cudaError_t sort_and_bin(const HsScene& s, int64_t capacity, const Record* records, const Box* boxes,
                         const ForwardScratch& scratch, size_t storage, const State& state,
                         unsigned long long* counts, cudaStream_t stream) {
  const int count = (int)s.count;
  const dim3 gaussian_blocks(blocks_for(count, kThreads)), threads(kThreads);
  HS_TRY(cudaMemsetAsync(state.tile_ranges, 0, sizeof(uint2) * (size_t)tiles(s), stream));
  HS_TRY(cudaMemsetAsync(state.coloured, 0, (size_t)capacity, stream));
  if (state.buckets > 0) {
    HS_TRY(cudaMemsetAsync(state.bucket_tiles, 0xff, sizeof(uint32_t) * (size_t)state.buckets, stream));
  }
  if (count == 0) return cudaSuccess;
  HS_TRY(sort_depths(scratch.storage, storage, scratch, count, stream));
  HS_TRY(launch(gather_counts_kernel, gaussian_blocks, threads, stream, count, scratch.order, scratch.tile_counts,
                scratch.ordered_counts));
  HS_TRY(scan_counts(scratch.storage, storage, scratch, count, stream));
  // How many pairs there are is known on the device only: all the room is sorted, the unused end by a
  // key that comes last.
  HS_TRY(cudaMemsetAsync(scratch.tile_keys, 0xff, sizeof(uint16_t) * (size_t)capacity, stream));
  HS_TRY(launch(emit_kernel, gaussian_blocks, threads, stream, s, (uint32_t)capacity, records, boxes, scratch,
                state.slots, counts));
  if (capacity == 0) return cudaSuccess;
  HS_TRY(sort_tiles(scratch.storage, storage, scratch, (int)capacity, key_bits(s), stream));
  return launch(find_tiles_kernel, dim3(blocks_for(capacity, kThreads)), threads, stream, counts,
                scratch.sorted_tile_keys, scratch.sorted_emissions, scratch.gaussians, state.pairs,
                state.tile_ranges);
}

}  // namespace isa_cuda
}  // namespace headsplat
