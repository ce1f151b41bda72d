// The rasterizer, templated on the vector: projection, depth sort, binning, blending and the way back.
//
// Method: a tile is 16x16 pixels, a vector is one of its 4x4 blocks. Gaussians are sorted by depth once;
// a stable counting sort by tile keeps that order. For each Gaussian and tile, one vector computation
// tells which of the 16 blocks the Gaussian reaches (exact culling). Forward runs block by block with the
// pixel state in registers and leaves a mask of the blocks that each pair (Gaussian, tile) really
// coloured. Backward runs over those, pair by pair, also from front to back: with the final
// colour C known, what lies behind a Gaussian is R = g.C - sum of w g.c so far, one number per pixel.
// Backward's task is a group of neighbouring tiles: all pairs of a Gaussian in it sum into one row, in
// the order of the tiles, and every Gaussian adds its rows in order, hence the same bits for any number
// of threads.
//
// Any number of channels is done in passes of three; alpha's gradient is linear in them.
#pragma once

#include "headsplat.h"
#include "rows.h"
#include "splat_math.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// A projected Gaussian, one cache line in float: what blending reads.
template <class Real>
struct alignas(16) Record {
  Real x, y, a, b, c, l;  // centre; exponent (see ExponentOf)
  Real colour[3];
  Real z;
  Real slope_x, slope_y;    // -b / (2 a), -b / (2 c)
  Real reach_x, reach_y;    // half size of the pixels' bounding box
  Real unused[2];
};

struct Box {
  uint16_t x0, x1, y0, y1;
};

struct Pair {
  uint32_t gaussian, slot;
};

// A Gaussian's slots: one for each group of tiles that its box reaches.
struct Slots {
  uint32_t begin, count;
};

// Groups of kSide x kSide tiles. A row of sums is written and read once for each (Gaussian, group), so
// large groups save memory traffic; but there must be enough of them for many threads.
struct Groups {
  int64_t side, across, count;

  explicit Groups(const HsScene& s) {
    const int64_t x = (s.width + kTile - 1) / kTile, y = (s.height + kTile - 1) / kTile;
    side = 1;
    while (side < 8 && x * y > 256 * side * side) side *= 2;
    across = (x + side - 1) / side;
    count = across * ((y + side - 1) / side);
  }
  // A Gaussian's groups: columns x0 .. x0 + width, rows y0 .. y0 + height.
  struct Range {
    uint32_t x0, y0, width, height;
  };
  HS_INLINE Range range(const Box& box) const {
    if (box.x1 == box.x0) return {0, 0, 0, 0};
    const uint32_t k = (uint32_t)__builtin_ctz((uint32_t)side);
    const uint32_t x0 = (uint32_t)box.x0 >> k, y0 = (uint32_t)box.y0 >> k;
    return {x0, y0, (((uint32_t)box.x1 - 1) >> k) - x0 + 1, (((uint32_t)box.y1 - 1) >> k) - y0 + 1};
  }
};

// Depth order visits Gaussians at random places of memory: how far ahead of their use they are fetched.
constexpr int kAhead = 16;

// Where the arrays of the saved state begin.
struct State {
  uint32_t* tile_begin;  // [tiles + 1] into pairs
  Slots* slots;          // [N]
  Pair* pairs;           // by tile, front to back
  uint16_t* pair_masks;  // by pair: blocks that it reaches; after blending: that it coloured or stopped

  static int64_t tiles_x(const HsScene& s) { return (s.width + kTile - 1) / kTile; }
  static int64_t tiles(const HsScene& s) { return tiles_x(s) * ((s.height + kTile - 1) / kTile); }
  static int64_t bytes(const HsScene& s, int64_t pairs) {
    return (int64_t)(Scratch::padded(4 * (tiles(s) + 1)) + Scratch::padded(8 * s.count) +
                     Scratch::padded(8 * pairs) + Scratch::padded(2 * pairs));
  }
  State(const HsScene& s, int64_t pair_bound, void* memory) {
    char* at = static_cast<char*>(memory);
    tile_begin = reinterpret_cast<uint32_t*>(at);
    at += Scratch::padded(4 * (tiles(s) + 1));
    slots = reinterpret_cast<Slots*>(at);
    at += Scratch::padded(8 * s.count);
    pairs = reinterpret_cast<Pair*>(at);
    at += Scratch::padded(8 * pair_bound);
    pair_masks = reinterpret_cast<uint16_t*>(at);
  }
};

// ---------------------------------------------------------------------------------- projection

template <class V, class Real = typename V::Real>
static CameraOf<V> broadcast_camera(const HsScene& s) {
  const CameraOf<Real> one = make_camera(static_cast<const Real*>(s.K), static_cast<const Real*>(s.T_cam_world),
                                         Real(s.width), Real(s.height));
  CameraOf<V> all;
  all.fx = V(one.fx);
  all.fy = V(one.fy);
  all.cx = V(one.cx);
  all.cy = V(one.cy);
  for (int i = 0; i < 9; ++i) all.R[i] = V(one.R[i]);
  for (int i = 0; i < 3; ++i) all.t[i] = V(one.t[i]);
  all.min_x = V(one.min_x);
  all.max_x = V(one.max_x);
  all.min_y = V(one.min_y);
  all.max_y = V(one.max_y);
  return all;
}

template <class V>
HS_FN void gather_gaussian(const HsScene& s, int64_t first, int count, GaussianOf<V>& g) {
  gather_rows<V, 3>(s.means, first, count, g.mean);
  gather_rows<V, 4>(s.quats, first, count, g.quat);
  gather_rows<V, 3>(s.scales, first, count, g.scale);
}

template <class V>
static void project_all(const HsRun& run, const HsScene& s, void* records_out, uint16_t* boxes_out,
                        int64_t* counts) {
  using Real = typename V::Real;
  Record<Real>* records = static_cast<Record<Real>*>(records_out);
  Box* boxes = reinterpret_cast<Box*>(boxes_out);
  const Real* colours = static_cast<const Real*>(s.colours);
  const int64_t chunks = (s.count + kGaussianChunk - 1) / kGaussianChunk;
  Scratch scratch(2 * sizeof(int64_t) * (size_t)chunks);
  int64_t* chunk_counts = scratch.take<int64_t>((size_t)(2 * chunks));
  const int first_colours = (int)smaller<int64_t>(3, s.channels);
  const CameraOf<V> camera = broadcast_camera<V>(s);

  parallel(chunks, run.threads, [&](int64_t chunk, int) {
    FlushDenormals guard;
    int64_t visible = 0, pairs = 0;
    const int64_t end = smaller(s.count, (chunk + 1) * kGaussianChunk);
    for (int64_t first = chunk * kGaussianChunk; first < end; first += kLanes) {
      const int count = (int)smaller<int64_t>(kLanes, end - first);
      GaussianOf<V> g;
      ProjectionOf<V> p;
      gather_gaussian(s, first, count, g);
      project(camera, g, p);
      V opacity;
      gather_rows<V, 1>(s.opacities, first, count, &opacity);
      if (s.means2d_offset != nullptr) {
        V offset[2];
        gather_rows<V, 2>(s.means2d_offset, first, count, offset);
        p.x = p.x + offset[0];
        p.y = p.y + offset[1];
      }
      const V log2_opacity = log2(opacity);
      const ExponentOf<V> e = make_exponent(p, log2_opacity);
      // alpha >= 1/255 inside conic distance 2 ln(255 o); 3.33 sigma lies beyond it for every o <= 1.
      const V level = V(Real(2 * kLn2)) * (log2_opacity - V(Real(kLog2AlphaThreshold)));
      const V reach_x = sqrt(level * p.cov00), reach_y = sqrt(level * p.cov11);
      alignas(64) Real colour_sums[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const Real* row = colours + (first + (lane < count ? lane : 0)) * s.channels;
        colour_sums[lane] = 0;
        for (int64_t k = 0; k < s.channels; ++k) colour_sums[lane] += row[k];
      }
      // A NaN or an infinity anywhere makes this sum's product with zero a NaN.
      const V poison = (p.x + p.y + p.z + e.a + e.b + e.c + log2_opacity + reach_x + reach_y +
                        V::load(colour_sums)) * V(0);
      const uint32_t ok = bits((poison == V(0)) & (p.z >= V(Real(kNearPlane))) &
                               (opacity >= V(Real(kAlphaThreshold))));
      const V slope_x = V(Real(-0.5)) * e.b / e.a, slope_y = V(Real(-0.5)) * e.b / e.c;

      alignas(64) Real columns[12][kLanes];
      const V fields[12] = {p.x, p.y, e.a, e.b, e.c, e.l, p.z, slope_x, slope_y, reach_x, reach_y, opacity};
      for (int k = 0; k < 12; ++k) fields[k].store(columns[k]);
      for (int lane = 0; lane < count; ++lane) {
        Record<Real>& record = records[first + lane];
        Box& box = boxes[first + lane];
        box = {0, 0, 0, 0};
        record.z = columns[6][lane];
        if ((ok >> lane & 1) == 0) continue;
        record.x = columns[0][lane];
        record.y = columns[1][lane];
        record.a = columns[2][lane];
        record.b = columns[3][lane];
        record.c = columns[4][lane];
        record.l = columns[5][lane];
        const Real* colour = colours + (first + lane) * s.channels;
        for (int k = 0; k < 3; ++k) record.colour[k] = k < first_colours ? colour[k] : Real(0);
        record.slope_x = columns[7][lane];
        record.slope_y = columns[8][lane];
        // A hair wider than the ellipse: rounding here must not cut a pixel that blending would take.
        const Real reach_x_px = columns[9][lane] * Real(1.0005) + Real(1e-3);
        const Real reach_y_px = columns[10][lane] * Real(1.0005) + Real(1e-3);
        record.reach_x = reach_x_px;
        record.reach_y = reach_y_px;
        // Pixels whose centres i + 1/2 lie within reach, then the tiles they are in.
        const Real left = larger(Real(0), record.x - reach_x_px - Real(0.5));
        const Real top = larger(Real(0), record.y - reach_y_px - Real(0.5));
        const Real right = smaller(Real(s.width - 1), record.x + reach_x_px - Real(0.5));
        const Real bottom = smaller(Real(s.height - 1), record.y + reach_y_px - Real(0.5));
        if (!(left <= right && top <= bottom)) continue;
        const int64_t i0 = (int64_t)left + ((Real)(int64_t)left < left), i1 = (int64_t)right;
        const int64_t j0 = (int64_t)top + ((Real)(int64_t)top < top), j1 = (int64_t)bottom;
        if (i0 > i1 || j0 > j1) continue;
        box = {(uint16_t)(i0 / kTile), (uint16_t)(i1 / kTile + 1), (uint16_t)(j0 / kTile),
               (uint16_t)(j1 / kTile + 1)};
        ++visible;
        pairs += (int64_t)(box.x1 - box.x0) * (box.y1 - box.y0);
      }
    }
    chunk_counts[2 * chunk] = visible;
    chunk_counts[2 * chunk + 1] = pairs;
  });
  counts[0] = counts[1] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    counts[0] += chunk_counts[2 * chunk];
    counts[1] += chunk_counts[2 * chunk + 1];
  }
}

// ------------------------------------------------------------------------------ sort and binning

template <class Real>
struct KeyOf;
template <>
struct KeyOf<float> {
  using Type = uint32_t;
};
template <>
struct KeyOf<double> {
  using Type = uint64_t;
};

// Writes the visible Gaussians front to back; equal depths stay in index order.
template <class Real>
static int64_t sort_by_depth(const HsScene& s, const Record<Real>* records, const Box* boxes, int threads,
                             uint32_t* order) {
  using Key = typename KeyOf<Real>::Type;
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  constexpr int64_t kChunk = 8192;
  const int64_t n = s.count, chunks = (n + kChunk - 1) / kChunk;
  Scratch scratch(2 * Scratch::padded(sizeof(Key) * (size_t)n) + Scratch::padded(4 * (size_t)n) +
                  Scratch::padded(4 * (size_t)(chunks * kBuckets)) +
                  3 * Scratch::padded(8 * (size_t)(chunks + 1)) + 512);
  Key* keys = scratch.take<Key>((size_t)n);
  Key* other_keys = scratch.take<Key>((size_t)n);
  uint32_t* other = scratch.take<uint32_t>((size_t)n);
  uint32_t* histogram = scratch.take<uint32_t>((size_t)(chunks * kBuckets));
  int64_t* begin = scratch.take<int64_t>((size_t)(chunks + 1));
  Key* smallest = scratch.take<Key>((size_t)(chunks + 1));
  Key* largest = scratch.take<Key>((size_t)(chunks + 1));

  // Depths are positive, so their bit patterns order like the numbers.
  parallel(chunks, threads, [&](int64_t chunk, int) {
    int64_t count = 0;
    Key low = ~Key(0), high = 0;
    for (int64_t i = chunk * kChunk; i < smaller(n, (chunk + 1) * kChunk); ++i) {
      if (boxes[i].x1 == boxes[i].x0) continue;
      Key key;
      memcpy(&key, &records[i].z, sizeof(key));
      low = smaller(low, key);
      high = larger(high, key);
      other_keys[chunk * kChunk + count] = key;
      other[chunk * kChunk + count] = (uint32_t)i;
      ++count;
    }
    begin[chunk] = count;
    smallest[chunk] = low;
    largest[chunk] = high;
  });
  int64_t visible = 0;
  Key low = ~Key(0), high = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t count = begin[chunk];
    begin[chunk] = visible;
    visible += count;
    low = smaller(low, smallest[chunk]);
    high = larger(high, largest[chunk]);
  }
  begin[chunks] = visible;
  parallel(chunks, threads, [&](int64_t chunk, int) {
    const int64_t count = begin[chunk + 1] - begin[chunk];
    for (int64_t i = 0; i < count; ++i) {
      keys[begin[chunk] + i] = other_keys[chunk * kChunk + i] - low;
      order[begin[chunk] + i] = other[chunk * kChunk + i];
    }
  });
  if (visible == 0) return 0;

  // Radix sort, least significant digit first; only as many digits as the range of depths has.
  uint32_t* from = order;
  uint32_t* to = other;
  const int64_t parts = (visible + kChunk - 1) / kChunk;
  for (int shift = 0; shift == 0 || ((high - low) >> shift) != 0; shift += kBits) {
    parallel(parts, threads, [&](int64_t part, int) {
      uint32_t* counts = histogram + part * kBuckets;
      memset(counts, 0, sizeof(uint32_t) * kBuckets);
      for (int64_t i = part * kChunk; i < smaller(visible, (part + 1) * kChunk); ++i) {
        ++counts[(keys[i] >> shift) & (kBuckets - 1)];
      }
    });
    uint32_t sum = 0;
    for (int bucket = 0; bucket < kBuckets; ++bucket) {
      for (int64_t part = 0; part < parts; ++part) {
        uint32_t& entry = histogram[part * kBuckets + bucket];
        const uint32_t count = entry;
        entry = sum;
        sum += count;
      }
    }
    parallel(parts, threads, [&](int64_t part, int) {
      uint32_t* position = histogram + part * kBuckets;
      for (int64_t i = part * kChunk; i < smaller(visible, (part + 1) * kChunk); ++i) {
        const uint32_t at = position[(keys[i] >> shift) & (kBuckets - 1)]++;
        other_keys[at] = keys[i];
        to[at] = from[i];
      }
    });
    Key* k = keys;
    keys = other_keys;
    other_keys = k;
    uint32_t* o = from;
    from = to;
    to = o;
    if (shift + kBits >= (int)(8 * sizeof(Key))) break;
  }
  if (from != order) memcpy(order, from, 4 * (size_t)visible);
  return visible;
}

// Lists the Gaussians of each tile, front to back: a stable counting sort of all (Gaussian, tile) pairs of
// the boxes. Whether the Gaussian really reaches the tile is left to blending, which has its record at
// hand and asks only as long as the tile is not yet opaque.
template <class Real>
static int64_t bin(const HsRun& run, const HsScene& s, const Box* boxes, const uint32_t* order, int64_t visible,
                   State& state) {
  const int64_t tiles_x = State::tiles_x(s), tiles = State::tiles(s);
  const Groups groups(s);
  const int group_shift = __builtin_ctz((unsigned)groups.side);
  // More chunks balance better, but every one has a counter per tile to clear and to add up.
  const int64_t chunks = larger<int64_t>(1, smaller<int64_t>(run.threads == 1 ? 1 : 2 * run.threads, visible / 512));
  const int64_t id_chunks = (s.count + kGaussianChunk - 1) / kGaussianChunk;
  Scratch scratch(Scratch::padded(4 * (size_t)(chunks * tiles)) + Scratch::padded(8 * (size_t)id_chunks) + 256);
  uint32_t* counts = scratch.take<uint32_t>((size_t)(chunks * tiles));
  int64_t* first_slot = scratch.take<int64_t>((size_t)id_chunks);
  const auto chunk_begin = [&](int64_t chunk) { return visible * chunk / chunks; };

  // Slots are numbered by Gaussian, not by depth: the way back then reads its rows in memory order.
  parallel(id_chunks, run.threads, [&](int64_t chunk, int) {
    int64_t slots = 0;
    for (int64_t id = chunk * kGaussianChunk; id < smaller(s.count, (chunk + 1) * kGaussianChunk); ++id) {
      const Groups::Range range = groups.range(boxes[id]);
      state.slots[id] = {(uint32_t)slots, range.width * range.height};
      slots += range.width * range.height;
    }
    first_slot[chunk] = slots;
  });
  int64_t sum = 0;
  for (int64_t chunk = 0; chunk < id_chunks; ++chunk) {
    const int64_t slots = first_slot[chunk];
    first_slot[chunk] = sum;
    sum += slots;
  }
  parallel(id_chunks, run.threads, [&](int64_t chunk, int) {
    for (int64_t id = chunk * kGaussianChunk; id < smaller(s.count, (chunk + 1) * kGaussianChunk); ++id) {
      state.slots[id].begin += (uint32_t)first_slot[chunk];
    }
  });
  parallel(chunks, run.threads, [&](int64_t chunk, int) {
    uint32_t* count = counts + chunk * tiles;
    memset(count, 0, 4 * (size_t)tiles);
    for (int64_t rank = chunk_begin(chunk); rank < chunk_begin(chunk + 1); ++rank) {
      if (rank + kAhead < visible) __builtin_prefetch(&boxes[order[rank + kAhead]]);
      const Box box = boxes[order[rank]];
      for (int y = box.y0; y < box.y1; ++y) {
        for (int x = box.x0; x < box.x1; ++x) ++count[y * tiles_x + x];
      }
    }
  });
  uint32_t total = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    state.tile_begin[tile] = total;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      uint32_t& entry = counts[chunk * tiles + tile];
      const uint32_t count = entry;
      entry = total;
      total += count;
    }
  }
  state.tile_begin[tiles] = total;
  parallel(chunks, run.threads, [&](int64_t chunk, int) {
    uint32_t* position = counts + chunk * tiles;
    for (int64_t rank = chunk_begin(chunk); rank < chunk_begin(chunk + 1); ++rank) {
      const uint32_t id = order[rank];
      if (rank + kAhead < visible) {
        const uint32_t ahead = order[rank + kAhead];
        __builtin_prefetch(&boxes[ahead]);
        __builtin_prefetch(&state.slots[ahead]);
      }
      const Box box = boxes[id];
      const Groups::Range range = groups.range(box);
      for (int y = box.y0; y < box.y1; ++y) {
        const uint32_t row = state.slots[id].begin + (((uint32_t)y >> group_shift) - range.y0) * range.width - range.x0;
        for (int x = box.x0; x < box.x1; ++x) {
          state.pairs[position[y * tiles_x + x]++] = {id, row + ((uint32_t)x >> group_shift)};
        }
      }
    }
  });
  return total;
}

// ------------------------------------------------------------------------------------- blending

// One pass over up to three channels.
struct Pass {
  int64_t first;  // channel
  int count;
  bool initial;   // the pass that also does alpha, depth and masks
};

// A tile's place in the picture and the coordinates of its pixel centres.
template <class V>
struct TileView {
  using Real = typename V::Real;
  int64_t x0, y0;
  V columns[kBlock], rows[kBlock];  // by column and row of blocks

  explicit TileView(const HsScene& s, int64_t tile)
      : x0(tile % State::tiles_x(s) * kTile), y0(tile / State::tiles_x(s) * kTile) {
    alignas(64) Real x[kLanes], y[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      x[lane] = Real(x0) + Real(lane % kBlock) + Real(0.5);
      y[lane] = Real(y0) + Real(lane / kBlock) + Real(0.5);
    }
    for (int i = 0; i < kBlock; ++i) {
      columns[i] = V::load(x) + V(Real(i * kBlock));
      rows[i] = V::load(y) + V(Real(i * kBlock));
    }
  }
  HS_INLINE const V& x(int block) const { return columns[block % kBlock]; }
  HS_INLINE const V& y(int block) const { return rows[block / kBlock]; }
  HS_INLINE int64_t left(int block) const { return x0 + block % kBlock * kBlock; }
  HS_INLINE int64_t top(int block) const { return y0 + block / kBlock * kBlock; }
  // Whether all 16 pixels of the block are in the picture.
  HS_INLINE bool whole(const HsScene& s, int block) const {
    return left(block) + kBlock <= s.width && top(block) + kBlock <= s.height;
  }
  // Calls f(lane, column, row) for each lane of the block that is inside of the picture.
  template <class F>
  HS_INLINE void each_pixel(const HsScene& s, int block, const F& f) const {
    const int columns_inside = (int)smaller<int64_t>(kBlock, s.width - left(block));
    const int rows_inside = (int)smaller<int64_t>(kBlock, s.height - top(block));
    for (int j = 0; j < rows_inside; ++j) {
      for (int i = 0; i < columns_inside; ++i) f(j * kBlock + i, left(block) + i, top(block) + j);
    }
  }
  // Reads a whole block of an array [H, W, kChannels] and writes one.
  template <int kChannels>
  HS_INLINE void read(const HsScene& s, int block, const Real* array, Real* out) const {
    for (int j = 0; j < kBlock; ++j) {
      memcpy(out + j * kBlock * kChannels, array + ((top(block) + j) * s.width + left(block)) * kChannels,
             sizeof(Real) * kBlock * kChannels);
    }
  }
  template <int kChannels>
  HS_INLINE void write(const HsScene& s, int block, Real* array, const Real* in) const {
    for (int j = 0; j < kBlock; ++j) {
      memcpy(array + ((top(block) + j) * s.width + left(block)) * kChannels, in + j * kBlock * kChannels,
             sizeof(Real) * kBlock * kChannels);
    }
  }
};

// Which of a tile's 16 blocks a Gaussian reaches; `left` and `top` are the blocks' first pixel centres.
template <class V, class Real = typename V::Real>
HS_FN uint32_t reached_blocks(const Record<Real>& r, V left, V top) {
  const V x0 = left - V(r.x), y0 = top - V(r.y), span(Real(kBlock - 1));
  const V best = largest_exponent(V(r.a), V(r.b), V(r.c), V(r.l), V(r.slope_x), V(r.slope_y), x0,
                                  x0 + span, y0, y0 + span);
  // The slack covers the rounding of exponents that are small differences of large terms.
  return bits(best >= V(Real(kLog2AlphaThreshold - 0.01)));
}

// One Gaussian's alpha on one block: 0 where it is below the threshold. `raw` is unclamped, `reached`
// the mask of lanes at or above the threshold.
template <class V, class Real = typename V::Real>
HS_FN V block_alpha(const Record<Real>& r, V dx, V dy, V& raw, typename V::Mask& reached) {
  const V p = exponent(V(r.a), V(r.b), V(r.c), V(r.l), dx, dy);
  reached = p >= V(Real(kLog2AlphaThreshold));
  raw = keep(reached, exp2_short(p));
  return min(raw, V(Real(kMaxAlpha)));
}

constexpr int kPairChunk = 256;

template <class V>
struct BlockState {
  V transmittance;  // decays on below the stop, where nothing is blended any more
  V final;          // transmittance at the stop
  V colour[3], depth;
};

// With kCount, `work` counts lanes (see hs_count_work).
template <class V, bool kCount>
static void blend_tile(const HsScene& s, const Record<typename V::Real>* records, State& state,
                       const HsPicture& picture, const Pass& pass, int64_t tile, int64_t* work) {
  using Real = typename V::Real;
  const TileView<V> view(s, tile);
  const uint32_t begin = state.tile_begin[tile], end = state.tile_begin[tile + 1];
  const Real* colours = static_cast<const Real*>(s.colours);
  const Real* background = static_cast<const Real*>(s.background);
  Real* image = static_cast<Real*>(picture.image);
  Real* alpha_out = static_cast<Real*>(picture.alpha);
  Real* depth_out = static_cast<Real*>(picture.depth);

  if (begin == end) {
    const int64_t rows = smaller<int64_t>(kTile, s.height - view.y0);
    const int64_t columns = smaller<int64_t>(kTile, s.width - view.x0);
    // A row of the usual dense picture is one copy; plain stores per channel took a seventh of the
    // whole forward pass.
    const bool dense = pass.count == s.channels && columns == kTile;
    const bool own = background != nullptr && s.background_stride != 0;
    Real pattern[3 * kTile] = {};
    if (background != nullptr && !own) {
      for (int i = 0; i < kTile; ++i) {
        for (int k = 0; k < pass.count; ++k) pattern[i * pass.count + k] = background[pass.first + k];
      }
    }
    for (int64_t j = 0; j < rows; ++j) {
      const int64_t pixel = (view.y0 + j) * s.width + view.x0;
      Real* to = image + pixel * s.channels + pass.first;
      const Real* from = own ? background + pixel * s.channels + pass.first : pattern;
      const int64_t step = own ? s.channels : pass.count;
      if (dense) {
        memcpy(to, from, sizeof(Real) * (size_t)(kTile * pass.count));
      } else {
        for (int64_t i = 0; i < columns; ++i) {
          for (int k = 0; k < pass.count; ++k) to[i * s.channels + k] = from[i * step + k];
        }
      }
      if (pass.initial) {
        memset(alpha_out + pixel, 0, sizeof(Real) * (size_t)columns);
        memset(depth_out + pixel, 0, sizeof(Real) * (size_t)columns);
      }
    }
    return;
  }

  for (uint32_t i = begin; i < smaller(end, begin + kAhead); ++i) {
    __builtin_prefetch(&records[state.pairs[i].gaussian]);
  }
  BlockState<V> blocks[kLanes];
  uint32_t alive = 0;
  for (int block = 0; block < kLanes; ++block) {
    BlockState<V>& b = blocks[block];
    b.transmittance = V(1);
    if (!view.whole(s, block)) {
      alignas(64) Real inside[kLanes] = {};
      view.each_pixel(s, block, [&](int lane, int64_t, int64_t) { inside[lane] = Real(1); });
      b.transmittance = V::load(inside);
    }
    b.final = b.transmittance;
    b.colour[0] = b.colour[1] = b.colour[2] = b.depth = V(0);
    alive |= (uint32_t)(view.left(block) < s.width && view.top(block) < s.height) << block;
  }

  alignas(64) Real block_left[kLanes], block_top[kLanes];
  for (int block = 0; block < kLanes; ++block) {
    block_left[block] = Real(view.left(block)) + Real(0.5);
    block_top[block] = Real(view.top(block)) + Real(0.5);
  }
  const V left = V::load(block_left), top = V::load(block_top);
  alignas(64) Record<Real> near[kPairChunk];
  uint16_t coloured[kPairChunk], reached_masks[kPairChunk];
  uint16_t list[kLanes][kPairChunk + 16];
  const V stop{Real(kStopTransmittance)};
  uint32_t at = begin;
  for (; at < end && alive != 0; at += kPairChunk) {
    const int count = (int)smaller<uint32_t>(kPairChunk, end - at);
    int lengths[kLanes] = {};
    for (int i = 0; i < count; ++i) {
      const uint32_t gaussian = state.pairs[at + i].gaussian;
      if (at + i + kAhead < end) __builtin_prefetch(&records[state.pairs[at + i + kAhead].gaussian]);
      near[i] = records[gaussian];
      if (pass.initial) {
        reached_masks[i] = (uint16_t)reached_blocks(near[i], left, top);
      } else {
        reached_masks[i] = state.pair_masks[at + i];

        const Real* row = colours + gaussian * s.channels + pass.first;
        for (int k = 0; k < 3; ++k) near[i].colour[k] = k < pass.count ? row[k] : Real(0);
      }
    }
    memset(coloured, 0, sizeof(uint16_t) * (size_t)count);
    SplitByBlock<V, kPairChunk + 16>::run(reached_masks, count, alive, list, lengths);
    for (int block = 0; block < kLanes; ++block) {
      const int length = lengths[block];
      if (length == 0) continue;
      const V px = view.x(block), py = view.y(block);
      BlockState<V> b = blocks[block];
      auto before = b.transmittance > stop;  // lanes that nothing has stopped yet
      const uint16_t bit = (uint16_t)(1u << block);
      for (int j = 0; j < length; ++j) {
        const int i = list[block][j];
        const Record<Real>& r = near[i];
        V raw;
        typename V::Mask reached;
        const V alpha = block_alpha(r, px - V(r.x), py - V(r.y), raw, reached);
        const V next = fnma(alpha, b.transmittance, b.transmittance);
        const auto going = next > stop;
        const V w = keep(going, alpha * b.transmittance);
        b.colour[0] = fma(w, V(r.colour[0]), b.colour[0]);
        b.colour[1] = fma(w, V(r.colour[1]), b.colour[1]);
        b.colour[2] = fma(w, V(r.colour[2]), b.colour[2]);
        b.depth = fma(w, V(r.z), b.depth);
        b.final = select(going, next, b.final);
        b.transmittance = next;
        // Also one that does nothing but stop a pixel must be met again on the way back.
        coloured[i] = (uint16_t)(coloured[i] | (any(before & reached) ? bit : 0));
        if (kCount) {
          work[0] += kLanes;
          work[1] += __builtin_popcount(bits(before & reached));
        }
        before = going;
        if (!any(going)) {
          alive &= ~(uint32_t)bit;
          break;
        }
      }
      blocks[block] = b;
    }
    if (pass.initial) {
      memcpy(state.pair_masks + at, coloured, sizeof(uint16_t) * (size_t)count);
    }
  }
  if (pass.initial && at < end) memset(state.pair_masks + at, 0, sizeof(uint16_t) * (size_t)(end - at));

  const bool simple = s.channels == 3 && s.background_stride == 0;
  for (int block = 0; block < kLanes; ++block) {
    alignas(64) Real colour[3][kLanes], final[kLanes], depth[kLanes];
    const BlockState<V>& b = blocks[block];
    if (simple && view.whole(s, block)) {
      V blended[3];
      for (int k = 0; k < 3; ++k) {
        blended[k] = background == nullptr ? b.colour[k] : fma(b.final, V(background[k]), b.colour[k]);
      }
      alignas(64) Real pixels[3 * kLanes];
      interleave(blended, pixels);
      view.template write<3>(s, block, image, pixels);
      const V alpha = V(1) - b.final;
      alpha.store(final);
      keep(alpha > V(0), b.depth / alpha).store(depth);
      view.template write<1>(s, block, alpha_out, final);
      view.template write<1>(s, block, depth_out, depth);
      continue;
    }
    for (int k = 0; k < 3; ++k) b.colour[k].store(colour[k]);
    b.final.store(final);
    b.depth.store(depth);
    view.each_pixel(s, block, [&](int lane, int64_t column, int64_t row) {
      const int64_t pixel = row * s.width + column;
      Real* to = image + pixel * s.channels + pass.first;
      const Real* behind =
          background == nullptr ? nullptr : background + pixel * s.background_stride + pass.first;
      for (int k = 0; k < pass.count; ++k) {
        to[k] = colour[k][lane] + (behind == nullptr ? Real(0) : final[lane] * behind[k]);
      }
      if (pass.initial) {
        const Real alpha = Real(1) - final[lane];
        alpha_out[pixel] = alpha;
        depth_out[pixel] = alpha > Real(0) ? depth[lane] / alpha : Real(0);
      }
    });
  }
}

// A slot's row of sums: six moments, depth, one unused, then the colours.
constexpr int kMomentRow = 8;
HS_FN int64_t row_length(int64_t channels) {
  return (kMomentRow + 3 * ((channels + 2) / 3) + 15) / 16 * 16;
}

template <class V>
struct BlockGradient {
  V transmittance, behind;  // behind = R of the method above
  V colour[3], depth;       // incoming gradients
};

template <class V, bool kDepth>
static void blend_tile_backward(const HsScene& s, const Record<typename V::Real>* records, const State& state,
                                const HsPicture& picture, const HsGradients& gradients, const Pass& pass,
                                int64_t tile, typename V::Real* rows, uint8_t* seen) {
  using Real = typename V::Real;
  const uint32_t begin = state.tile_begin[tile], end = state.tile_begin[tile + 1];
  uint32_t touched = 0;
  for (uint32_t at = begin; at < end; ++at) touched |= state.pair_masks[at];
  if (touched == 0) return;

  const TileView<V> view(s, tile);
  const Real* colours = static_cast<const Real*>(s.colours);
  const Real* image = static_cast<const Real*>(picture.image);
  const Real* alpha = static_cast<const Real*>(picture.alpha);
  const Real* depth = static_cast<const Real*>(picture.depth);
  const Real* v_image = static_cast<const Real*>(gradients.v_image);
  const Real* v_alpha = static_cast<const Real*>(gradients.v_alpha);
  const Real* v_depth = static_cast<const Real*>(gradients.v_depth);
  const int64_t stride = row_length(s.channels);

  BlockGradient<V> blocks[kLanes];
  for (uint32_t m = touched; m != 0; m &= m - 1) {
    const int block = __builtin_ctz(m);
    BlockGradient<V>& b = blocks[block];
    if (s.channels == 3 && v_image != nullptr && view.whole(s, block)) {
      alignas(64) Real pixels[3 * kLanes], plane[kLanes];
      V out[3];
      view.template read<3>(s, block, v_image, pixels);
      deinterleave(pixels, b.colour);
      view.template read<3>(s, block, image, pixels);
      deinterleave(pixels, out);
      V sum = b.colour[0] * out[0];
      sum = fma(b.colour[1], out[1], sum);
      sum = fma(b.colour[2], out[2], sum);
      view.template read<1>(s, block, alpha, plane);
      const V covered = V::load(plane);
      V v_coverage(0);
      if (v_alpha != nullptr) {
        view.template read<1>(s, block, v_alpha, plane);
        v_coverage = V::load(plane);
      }
      b.depth = V(0);
      if (kDepth) {
        // depth = Z / alpha with Z = sum w z: Z is one more channel without background.
        view.template read<1>(s, block, v_depth, plane);
        const V v = V::load(plane);
        view.template read<1>(s, block, depth, plane);
        const V z = V::load(plane);
        b.depth = keep(covered > V(0), v / covered);
        v_coverage = fnma(b.depth, z, v_coverage);
        sum = fma(v, z, sum);
      }
      b.transmittance = V(1);
      b.behind = fnma(V(1) - covered, v_coverage, sum);
      continue;
    }
    alignas(64) Real g[3][kLanes] = {}, g_depth[kLanes] = {}, behind[kLanes] = {}, inside[kLanes] = {};
    view.each_pixel(s, block, [&](int lane, int64_t column, int64_t row) {
      const int64_t pixel = row * s.width + column;
      inside[lane] = Real(1);
      Real sum = 0;
      if (v_image != nullptr) {
        const Real* v = v_image + pixel * s.channels + pass.first;
        const Real* out = image + pixel * s.channels + pass.first;
        for (int k = 0; k < pass.count; ++k) {
          g[k][lane] = v[k];
          sum += v[k] * out[k];
        }
      }
      if (pass.initial) {
        const Real final = Real(1) - alpha[pixel];
        Real v_coverage = v_alpha == nullptr ? Real(0) : v_alpha[pixel];
        if (kDepth && alpha[pixel] > Real(0)) {
          g_depth[lane] = v_depth[pixel] / alpha[pixel];
          v_coverage -= g_depth[lane] * depth[pixel];
          sum += v_depth[pixel] * depth[pixel];
        }
        sum -= final * v_coverage;
      }
      behind[lane] = sum;
    });
    b.transmittance = V::load(inside);
    b.behind = V::load(behind);
    for (int k = 0; k < 3; ++k) b.colour[k] = V::load(g[k]);
    b.depth = V::load(g_depth);
  }

  const V stop{kStopTransmittance}, one(1), most{kMaxAlpha};
  for (uint32_t at = begin; at < end; ++at) {
    const Pair pair = state.pairs[at];
    uint32_t mask = state.pair_masks[at];
    if (at + kAhead < end) {
      const Pair ahead = state.pairs[at + kAhead];
      __builtin_prefetch(&records[ahead.gaussian]);
      __builtin_prefetch(&rows[(int64_t)ahead.slot * stride], 1);
    }
    if (mask == 0) continue;
    const Record<Real>& r = records[pair.gaussian];
    Real colour[3] = {r.colour[0], r.colour[1], r.colour[2]};
    if (!pass.initial) {
      const Real* row = colours + pair.gaussian * s.channels + pass.first;
      for (int k = 0; k < 3; ++k) colour[k] = k < pass.count ? row[k] : Real(0);
    }
    V sums[12];  // as the row; the last one stays 0
    for (int k = 0; k < 12; ++k) sums[k] = V(0);
    for (; mask != 0; mask &= mask - 1) {
      const int block = __builtin_ctz(mask);
      BlockGradient<V>& b = blocks[block];
      const V dx = view.x(block) - V(r.x), dy = view.y(block) - V(r.y);
      V raw;
      typename V::Mask reached;
      const V alpha_here = block_alpha(r, dx, dy, raw, reached);
      const V T = b.transmittance;
      const V next = fnma(alpha_here, T, T);
      const auto going = next > stop;
      b.transmittance = next;
      const V w = keep(going, alpha_here * T);
      sums[8] = fma(w, b.colour[0], sums[8]);
      sums[9] = fma(w, b.colour[1], sums[9]);
      sums[10] = fma(w, b.colour[2], sums[10]);
      V cg = V(colour[0]) * b.colour[0];
      cg = fma(V(colour[1]), b.colour[1], cg);
      cg = fma(V(colour[2]), b.colour[2], cg);
      if (kDepth) {
        sums[6] = fma(w, b.depth, sums[6]);
        cg = fma(V(r.z), b.depth, cg);
      }
      b.behind = fnma(w, cg, b.behind);
      const V v_alpha_here = fnma(b.behind, reciprocal(one - alpha_here), T * cg);
      const V v = keep(going & (raw <= most), raw * v_alpha_here);
      const V vx = v * dx, vy = v * dy;
      sums[0] = sums[0] + v;
      sums[1] = sums[1] + vx;
      sums[2] = sums[2] + vy;
      sums[3] = fma(vx, dx, sums[3]);
      sums[4] = fma(vx, dy, sums[4]);
      sums[5] = fma(vy, dy, sums[5]);
    }
    alignas(64) Real total[16];
    sum_lanes(sums, total);
    Real* row = rows + (int64_t)pair.slot * stride;
    if (pass.initial) {
      for (int k = 12; k < kLanes; ++k) total[k] = Real(0);  // room of later passes
      if (seen[pair.slot] != 0) {
        (V::load(row) + V::load(total)).store(row);
      } else {
        seen[pair.slot] = 1;
        V::load(total).store(row);
        for (int64_t part = kLanes; part < stride; part += kLanes) V(0).store(row + part);
      }
    } else {
      for (int k = 0; k < 6; ++k) row[k] += total[k];
      for (int k = 0; k < 3; ++k) row[kMomentRow + pass.first + k] += total[8 + k];
    }
  }
}

// --------------------------------------------------------------------- projection, the way back

template <class V>
static void project_backward(const HsRun& run, const HsScene& s, const State& state,
                             const HsGradients& gradients, const typename V::Real* rows, const uint8_t* seen_slots) {
  using Real = typename V::Real;
  const int64_t stride = row_length(s.channels);
  const int64_t chunks = (s.count + kGaussianChunk - 1) / kGaussianChunk;
  Scratch scratch(Scratch::padded(12 * sizeof(Real) * (size_t)chunks));
  Real* poses = scratch.take<Real>((size_t)(12 * chunks));
  const CameraOf<V> camera = broadcast_camera<V>(s);

  parallel(chunks, run.threads, [&](int64_t chunk, int) {
    FlushDenormals guard;
    V pose[12];
    for (int i = 0; i < 12; ++i) pose[i] = V(0);
    const int64_t end = smaller(s.count, (chunk + 1) * kGaussianChunk);
    for (int64_t first = chunk * kGaussianChunk; first < end; first += kLanes) {
      const int count = (int)smaller<int64_t>(kLanes, end - first);
      alignas(64) Real columns[kMomentRow][kLanes] = {};
      uint32_t seen = 0;
      Real* v_colours = static_cast<Real*>(gradients.v_colours);
      for (int lane = 0; lane < count; ++lane) {
        const int64_t id = first + lane;
        const Slots slots = state.slots[id];
        // A row is one vector, or several where there are more than eight channels.
        for (int64_t part = 0; part < stride; part += kLanes) {
          V sum(0);
          for (uint32_t slot = slots.begin; slot < slots.begin + slots.count; ++slot) {
            if (seen_slots[slot] == 0) continue;
            seen |= 1u << lane;
            sum = sum + V::load(rows + (int64_t)slot * stride + part);
          }
          alignas(64) Real total[kLanes];
          sum.store(total);
          const int64_t first_channel = part == 0 ? 0 : part - kMomentRow;
          const Real* channel = part == 0 ? total + kMomentRow : total;
          if (part == 0) {
            for (int k = 0; k < kMomentRow; ++k) columns[k][lane] = total[k];
          }
          if (v_colours == nullptr) continue;
          const int64_t last_channel = smaller<int64_t>(s.channels, part + kLanes - kMomentRow);
          for (int64_t k = first_channel; k < last_channel; ++k) {
            v_colours[id * s.channels + k] = channel[k - first_channel];
          }
        }
      }
      V zeros[4] = {V(0), V(0), V(0), V(0)};
      if (seen == 0) {
        scatter_rows<V, 3>(gradients.v_means, first, count, zeros);
        scatter_rows<V, 4>(gradients.v_quats, first, count, zeros);
        scatter_rows<V, 3>(gradients.v_scales, first, count, zeros);
        scatter_rows<V, 1>(gradients.v_opacities, first, count, zeros);
        scatter_rows<V, 2>(gradients.v_means2d, first, count, zeros);
        continue;
      }
      GaussianOf<V> g;
      ProjectionOf<V> p;
      gather_gaussian(s, first, count, g);
      project(camera, g, p);
      V opacity;
      gather_rows<V, 1>(s.opacities, first, count, &opacity);
      const MomentsOf<V> moments = {V::load(columns[0]), V::load(columns[1]), V::load(columns[2]),
                                    V::load(columns[3]), V::load(columns[4]), V::load(columns[5])};
      ProjectionGradientOf<V> in;
      GaussianGradientOf<V> out;
      moments_to_gradient(p, moments, in);
      in.z = V::load(columns[6]);
      project_vjp(camera, g, p, in, out);

      // Gaussians that nobody saw may hold NaN: their lanes are cut out, not multiplied by zero.
      alignas(64) Real flag[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) flag[lane] = Real(seen >> lane & 1);
      const auto mask = V::load(flag) > V(0);
      V v_opacity = keep(mask, moments.s / opacity);
      V v_means2d[2] = {keep(mask, in.x), keep(mask, in.y)};
      for (int i = 0; i < 3; ++i) {
        out.mean[i] = keep(mask, out.mean[i]);
        out.scale[i] = keep(mask, out.scale[i]);
      }
      for (int i = 0; i < 4; ++i) out.quat[i] = keep(mask, out.quat[i]);
      scatter_rows<V, 3>(gradients.v_means, first, count, out.mean);
      scatter_rows<V, 4>(gradients.v_quats, first, count, out.quat);
      scatter_rows<V, 3>(gradients.v_scales, first, count, out.scale);
      scatter_rows<V, 1>(gradients.v_opacities, first, count, &v_opacity);
      scatter_rows<V, 2>(gradients.v_means2d, first, count, v_means2d);
      if (gradients.v_T_cam_world != nullptr) {
        for (int i = 0; i < 9; ++i) pose[i] = pose[i] + keep(mask, out.R[i]);
        for (int i = 0; i < 3; ++i) pose[9 + i] = pose[9 + i] + keep(mask, out.t[i]);
      }
    }
    alignas(64) Real total[16];
    sum_lanes(pose, total);
    memcpy(poses + 12 * chunk, total, 12 * sizeof(Real));
  });
  if (gradients.v_T_cam_world != nullptr) {
    Real* v_T = static_cast<Real*>(gradients.v_T_cam_world);
    for (int i = 0; i < 16; ++i) v_T[i] = Real(0);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) v_T[4 * i + j] += poses[12 * chunk + 3 * i + j];
        v_T[4 * i + 3] += poses[12 * chunk + 9 + i];
      }
    }
  }
}

// ----------------------------------------------------------------------------------- entry points

template <class F>
static void each_pass(int64_t channels, const F& f) {
  for (int64_t first = 0; first < channels; first += 3) {
    f(Pass{first, (int)smaller<int64_t>(3, channels - first), first == 0});
  }
}

template <class V>
static int64_t rasterize(const HsRun& run, const HsScene& s, const void* records_in, const uint16_t* boxes_in,
                         int64_t pair_bound, void* state_memory, const HsPicture& picture, int64_t* work) {
  using Real = typename V::Real;
  const Record<Real>* records = static_cast<const Record<Real>*>(records_in);
  const Box* boxes = reinterpret_cast<const Box*>(boxes_in);
  State state(s, pair_bound, state_memory);
  Scratch scratch(Scratch::padded(4 * (size_t)s.count));
  uint32_t* order = scratch.take<uint32_t>((size_t)s.count);
  const int64_t visible = sort_by_depth(s, records, boxes, run.threads, order);
  const int64_t pairs = bin<Real>(run, s, boxes, order, visible, state);
  each_pass(s.channels, [&](const Pass& pass) {
    parallel(State::tiles(s), run.threads, [&](int64_t tile, int) {
      FlushDenormals guard;
      if (work != nullptr) {
        blend_tile<V, true>(s, records, state, picture, pass, tile, work);
      } else {
        blend_tile<V, false>(s, records, state, picture, pass, tile, nullptr);
      }
    });
  });
  return pairs;
}

template <class V>
static void rasterize_backward(const HsRun& run, const HsScene& s, const void* records_in, int64_t pair_bound,
                               const void* state_memory, const HsPicture& picture, const HsGradients& g) {
  using Real = typename V::Real;
  const Record<Real>* records = static_cast<const Record<Real>*>(records_in);
  const State state(s, pair_bound, const_cast<void*>(state_memory));
  const Groups groups(s);
  const Slots last = s.count == 0 ? Slots{0, 0} : state.slots[s.count - 1];
  const size_t slots = (size_t)last.begin + last.count, row_bytes = sizeof(Real) * (size_t)row_length(s.channels);
  Scratch scratch(Scratch::padded(slots * row_bytes) + Scratch::padded(slots) + 128);
  Real* rows = scratch.take<Real>(slots * (size_t)row_length(s.channels));
  uint8_t* seen = scratch.take<uint8_t>(slots);
  memset(seen, 0, slots);
  const int64_t tiles_x = State::tiles_x(s), tiles_y = State::tiles(s) / tiles_x;
  each_pass(s.channels, [&](const Pass& pass) {
    parallel(groups.count, run.threads, [&](int64_t group, int) {
      FlushDenormals guard;
      const int64_t x0 = group % groups.across * groups.side, y0 = group / groups.across * groups.side;
      for (int64_t y = y0; y < smaller(tiles_y, y0 + groups.side); ++y) {
        for (int64_t x = x0; x < smaller(tiles_x, x0 + groups.side); ++x) {
          const int64_t tile = y * tiles_x + x;
          if (pass.initial && g.v_depth != nullptr) {
            blend_tile_backward<V, true>(s, records, state, picture, g, pass, tile, rows, seen);
          } else {
            blend_tile_backward<V, false>(s, records, state, picture, g, pass, tile, rows, seen);
          }
        }
      }
    });
  });
  project_backward<V>(run, s, state, g, rows, seen);
  if (g.v_background != nullptr) {
    const Real* v_image = static_cast<const Real*>(g.v_image);
    const Real* alpha = static_cast<const Real*>(picture.alpha);
    Real* v_background = static_cast<Real*>(g.v_background);
    parallel(s.height, run.threads, [&](int64_t row, int) {
      for (int64_t pixel = row * s.width; pixel < (row + 1) * s.width; ++pixel) {
        for (int64_t k = 0; k < s.channels; ++k) {
          v_background[pixel * s.channels + k] =
              v_image == nullptr ? Real(0) : v_image[pixel * s.channels + k] * (Real(1) - alpha[pixel]);
        }
      }
    });
  }
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
