// L1 and SSIM of two pictures with the gradient to the first, for one instruction set.
//
// SSIM is written in the difference d = x - y and the sum s = x + y of the pictures. With m the local
// means and V the local variances under the window,
//   1 - SSIM = a + b - a b,   a = m_d^2 / B1,   b = V_d / B2,
//   B1 = (m_s^2 + m_d^2) / 2 + C1,   B2 = (V_s + V_d) / 2 + C2,
// which is the textbook formula: 2 m_x m_y = m_x^2 + m_y^2 - m_d^2, and the same for the covariance.
// It takes four convolutions instead of five, and where the pictures are equal, as on a white
// background, a, b and the gradient are exactly zero; the textbook form leaves rounding noise there,
// which the division by C2 makes large.
#pragma once

#include <math.h>

#include "train_parallel.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

constexpr int kChannels = 3;  // a neighbouring pixel lies 3 floats away in a row of a picture
constexpr int kRadius = 5;
constexpr double kSigma = 1.5;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
static_assert(kChannels * kRadius < kLanes, "the window must not reach past the neighbouring vector");

// Rows that are convolved together; with AVX-512 a column of their inputs stays in registers.
constexpr int kRows = 8;
constexpr int kSpan = kRows + 2 * kRadius;
static_assert(kRadius <= kRows, "the window must not reach past the neighbouring rows");

// A picture is walked in strips, from top to bottom, kRows rows at a time. What neighbouring rows share
// lies in rings of three such groups, small enough for the second level of cache whatever the size of
// the picture, and the derivatives of SSIM need not be computed for the whole picture before any of
// them is used. A strip sees two vectors beyond its own on both sides: the window is applied twice.
constexpr int kStrip = 48;
constexpr int kMargin = 2;
constexpr int kGroups = 3;
constexpr int kColumns = kStrip + 2 * kMargin;
// Rows an odd number of cache lines apart never compete for the same place in the cache; those of a
// picture 1024 wide all do.
constexpr size_t kStride = (kColumns | 1) * kLanes;

struct Window {
  Wide tap[kRadius + 1];  // from the centre outwards

  Window() {
    double weight[kRadius + 1], sum = 0;
    for (int i = 0; i <= kRadius; ++i) {
      weight[i] = ::exp(-0.5 * i * i / (kSigma * kSigma));
      sum += i == 0 ? weight[i] : 2 * weight[i];
    }
    for (int i = 0; i <= kRadius; ++i) tap[i] = Wide(static_cast<float>(weight[i] / sum));
  }
};

// The sum of the vectors T pixels to the left and to the right.
template <int T>
HS_FN Wide both_sides(const float* centre) {
#if HEADSPLAT_LEVEL == 3
  // Cut out of aligned loads: a load that straddles two cache lines takes twice the time.
  const __m512i left = _mm512_loadu_si512(centre - kLanes), middle = _mm512_loadu_si512(centre);
  const __m512i right = _mm512_loadu_si512(centre + kLanes);
  return Wide::make(_mm512_castsi512_ps(_mm512_alignr_epi32(middle, left, kLanes - kChannels * T))) +
         Wide::make(_mm512_castsi512_ps(_mm512_alignr_epi32(right, middle, kChannels * T)));
#else
  return Wide::load(centre - kChannels * T) + Wide::load(centre + kChannels * T);
#endif
}

// The window along a row.
HS_FN Wide across(const Window& window, const float* centre) {
  Wide sum = window.tap[0] * Wide::load(centre);
  sum = fma(window.tap[1], both_sides<1>(centre), sum);
  sum = fma(window.tap[2], both_sides<2>(centre), sum);
  sum = fma(window.tap[3], both_sides<3>(centre), sum);
  sum = fma(window.tap[4], both_sides<4>(centre), sum);
  return fma(window.tap[5], both_sides<5>(centre), sum);
}

enum Field { kDifference, kSum, kToVd, kToVs, kToMean, kFields };

// What one thread works in.
struct alignas(64) StripRings {
  float row[kFields][kGroups][kRows][kStride];
  float lines[kRows][4][kStride];
  // Which columns of a group have any difference, and any derivative. A window without a difference
  // adds nothing to the loss and no derivative to a pixel with one: what it would, is left zero. That
  // saves the better part of a picture's background.
  bool differs[kGroups][kColumns];
  bool derived[kGroups][kColumns];

  static int slot(int64_t group) { return static_cast<int>((group + kGroups) % kGroups); }
  // Row kRadius of `rows` is the first of the group.
  void span(Field field, int64_t group, const float* rows[kSpan]) const {
    for (int i = 0; i < kSpan; ++i) {
      const int at = i - kRadius + kRows;
      rows[i] = row[field][slot(group + at / kRows - 1)][at % kRows];
    }
  }
};

// Calls f(begin, end, set) for runs of columns that have, or have not, a flag set within one column
// and one group.
template <class F>
static void each_run(const bool (*flags)[kColumns], int begin, int end, const F& f) {
  const auto around = [&](int column) {
    bool any = false;
    for (int group = 0; group < kGroups; ++group) {
      for (int i = column - 1; i <= column + 1; ++i) any = any || flags[group][i];
    }
    return any;
  };
  for (int at = begin; at < end;) {
    const int from = at;
    const bool set = around(from);
    while (at < end && around(at) == set) ++at;
    f(from, at, set);
  }
}

// Convolves F fields with the window over kRows rows, of which the first `rows` are wanted.
// `load(c, f, column)` fills column[kSpan] with field f of column c (column[kRadius] belongs to the
// first output row); it is called for f = 0, 1, ... in turn and finds its last result in column.
// `emit(c, r, fields)` takes the result.
template <int F, class Load, class Emit>
HS_FN void convolve(const Window& window, int begin, int end, int rows, StripRings& rings, const Load& load,
                    const Emit& emit) {
  for (int c = begin - 1; c <= end; ++c) {
    Wide column[kSpan];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      load(c, f, column);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Wide* centre = column + r + kRadius;
        Wide sum = window.tap[0] * centre[0];
#pragma GCC unroll 5
        for (int t = 1; t <= kRadius; ++t) sum = fma(window.tap[t], centre[-t] + centre[t], sum);
        sum.store(rings.lines[r][f] + c * kLanes);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = begin; c < end; ++c) {
      Wide field[F];
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) field[f] = across(window, rings.lines[r][f] + c * kLanes);
      emit(c, r, field);
    }
  }
}

static void l1_ssim(const HsRun& run, int64_t height, int64_t width, const float* image,
                    const float* target, double ssim_weight, float* loss, float* v_image) {
  const int64_t length = width * kChannels, vectors = (length + kLanes - 1) / kLanes;
  const int64_t rest = length % kLanes;
  const int64_t groups = (height + kRows - 1) / kRows, strips = (vectors + kStrip - 1) / kStrip;
  // Bands of rows give every thread something to do; there are few of them, since two neighbours compute
  // the groups where they meet twice.
  const int64_t wanted_bands = run.threads == 1 ? 1 : (3 * run.threads + strips - 1) / strips;
  const int64_t band_groups = greatest((groups + wanted_bands - 1) / wanted_bands, 4);
  const int64_t bands = (groups + band_groups - 1) / band_groups;
  const size_t parts = static_cast<size_t>(groups * strips);

  Scratch scratch(sizeof(StripRings) * static_cast<size_t>(run.threads) + 2 * (parts * sizeof(double) + 64));
  StripRings* all_rings = scratch.take<StripRings>(static_cast<size_t>(run.threads));
  double* l1_part = scratch.take<double>(parts);
  double* ssim_part = scratch.take<double>(parts);
  const Window window;
  const double count = static_cast<double>(height) * static_cast<double>(length);
  const Wide l1_scale(static_cast<float>((1 - ssim_weight) / count));
  const Wide ssim_scale(static_cast<float>(ssim_weight / count));
  const Wide zero(0.0f);

  each(bands * strips, run.threads, [&](int64_t task, int worker) {
    StripRings& rings = all_rings[worker];
    const int64_t strip = task % strips;
    const int64_t first_group = task / strips * band_groups, end_group = least(first_group + band_groups, groups);
    const int64_t first_vector = vectors * strip / strips, end_vector = vectors * (strip + 1) / strips;
    // Columns count from the first vector's left margin.
    const int64_t shift = first_vector - kMargin;
    const int begin = kMargin, end = static_cast<int>(end_vector - shift);
    const int ragged = rest != 0 ? static_cast<int>(vectors - 1 - shift) : -1;
    // Beside the picture is zero, and nothing below writes there.
    for (float* line = rings.row[0][0][0]; line != rings.lines[0][0]; line += kStride) {
      memset(line, 0, kMargin * kLanes * sizeof(float));
      memset(line + end * kLanes, 0, kMargin * kLanes * sizeof(float));
    }
    memset(rings.derived, 0, sizeof(rings.derived));
    const auto rows_of = [&](int64_t group) {
      return group < 0 ? 0 : static_cast<int>(greatest(least(height - group * kRows, kRows), 0));
    };
    const auto clear = [&](int field, int64_t group, int row, int from, int to) {
      memset(rings.row[field][rings.slot(group)][row] + from * kLanes, 0,
             static_cast<size_t>(to - from) * kLanes * sizeof(float));
    };

    const auto fill = [&](int64_t group) {
      const int rows = rows_of(group), slot = rings.slot(group);
      const bool own_group = group >= first_group && group < end_group;
      const int from = static_cast<int>(greatest(0, -shift));
      const int to = static_cast<int>(least(kMargin + end, vectors - shift));
      memset(rings.differs[slot], 0, sizeof(rings.differs[slot]));
      Wide sum(0.0f);
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) {
          clear(kDifference, group, r, from, to);
          clear(kSum, group, r, from, to);
          continue;
        }
        const int64_t at = (group * kRows + r) * length + shift * kLanes;
        for (int c = from; c < to; ++c) {
          const float *const px = image + at + c * kLanes, *const py = target + at + c * kLanes;
          // The processor itself looks ahead along a row, not down the picture.
          __builtin_prefetch(px + kRows * length);
          __builtin_prefetch(py + kRows * length);
          const Wide x = c == ragged ? load_some(px, rest) : Wide::load(px);
          const Wide y = c == ragged ? load_some(py, rest) : Wide::load(py);
          const Wide d = x - y;
          d.store(rings.row[kDifference][slot][r] + c * kLanes);
          (x + y).store(rings.row[kSum][slot][r] + c * kLanes);
          // A NaN differs.
          rings.differs[slot][c] |= bits(d == zero) != 0xffff;
          if (c >= begin && c < end) sum = sum + max(d, -d);
        }
      }
      if (own_group) l1_part[group * strips + strip] = total(sum);
    };

    const auto derive = [&](int64_t group) {
      const int rows = rows_of(group), slot = rings.slot(group);
      const int margin = v_image == nullptr ? 0 : 1;
      const int from = static_cast<int>(greatest(begin - margin, -shift));
      const int to = static_cast<int>(least(end + margin, vectors - shift));
      const float* row[2][kSpan];
      rings.span(kDifference, group, row[0]);
      rings.span(kSum, group, row[1]);
      const auto load = [&](int c, int f, Wide* column) HS_INLINE_LAMBDA {
#pragma GCC unroll 18
        for (int i = 0; i < kSpan; ++i) {
          column[i] = f % 2 == 0 ? Wide::load(row[f / 2][i] + c * kLanes) : column[i] * column[i];
        }
      };
      Wide sum(0.0f);
      const auto emit = [&](int c, int r, const Wide* field) HS_INLINE_LAMBDA {
        const Wide half(0.5f), one(1.0f), two(2.0f);
        const Wide md = field[0], ms = field[2], md2 = md * md;
        const Wide vd = field[1] - md2, vs = fnma(ms, ms, field[3]);
        const Wide inverse1 = reciprocal(fma(half, fma(ms, ms, md2), Wide(kC1)));
        const Wide inverse2 = reciprocal(fma(half, vs + vd, Wide(kC2)));
        const Wide a = md2 * inverse1, b = vd * inverse2;
        const Wide not_a = one - a, not_b = one - b;
        Wide value = fma(a, not_b, b);
        // da = (2 - a) m_d / B1 dm_d - a m_s / B1 dm_s,  db = (1 - b/2) / B2 dV_d - b/2 / B2 dV_s,
        // and a variance is a windowed square less the square of a mean.
        const Wide scaled = not_a * inverse2, half_b = half * b;
        Wide p = fnma(scaled, half_b, scaled), q = -(scaled * half_b);
        const Wide slope = not_b * inverse1 * fma(two - a, md, -(a * ms));
        Wide m = fnma(two, fma(md, p, ms * q), slope);
        if (c == ragged) {
          // What lies beyond the border counts nothing, and no derivative comes from there.
          const auto inside = [&](Wide all) {
            float lanes[kLanes];
            all.store(lanes);
            return load_some(lanes, rest);
          };
          value = inside(value);
          p = inside(p);
          q = inside(q);
          m = inside(m);
        }
        if (c >= begin && c < end) sum = sum + value;
        if (v_image == nullptr) return;
        p.store(rings.row[kToVd][slot][r] + c * kLanes);
        q.store(rings.row[kToVs][slot][r] + c * kLanes);
        m.store(rings.row[kToMean][slot][r] + c * kLanes);
      };
      each_run(rings.differs, from, to, [&](int b, int e, bool differs) {
        const bool some = differs && rows > 0;
        memset(rings.derived[slot] + b, some, static_cast<size_t>(e - b));
        if (some) convolve<4>(window, b, e, rows, rings, load, emit);
        for (int r = some ? rows : 0; r < kRows; ++r) {
          for (int field = kToVd; field <= kToMean; ++field) clear(field, group, r, b, e);
        }
      });
      if (group >= first_group && group < end_group) ssim_part[group * strips + strip] = total(sum);
    };

    const auto finish = [&](int64_t group) {
      const int rows = rows_of(group), slot = rings.slot(group);
      const float* row[3][kSpan];
      rings.span(kToVd, group, row[0]);
      rings.span(kToVs, group, row[1]);
      rings.span(kToMean, group, row[2]);
      const auto load = [&](int c, int f, Wide* column) HS_INLINE_LAMBDA {
#pragma GCC unroll 18
        for (int i = 0; i < kSpan; ++i) column[i] = Wide::load(row[f][i] + c * kLanes);
      };
      const auto put = [&](int c, int r, Wide value) HS_INLINE_LAMBDA {
        float* const out = v_image + (group * kRows + r) * length + (shift + c) * kLanes;
        if (c == ragged) {
          store_some(out, value, rest);
        } else {
          value.store(out);
        }
      };
      const auto emit = [&](int c, int r, const Wide* field) HS_INLINE_LAMBDA {
        const Wide d = Wide::load(rings.row[kDifference][slot][r] + c * kLanes);
        const Wide s = Wide::load(rings.row[kSum][slot][r] + c * kLanes);
        const Wide pull = fma(Wide(2.0f), fma(d, field[0], s * field[1]), field[2]);
        const Wide sign = keep(d > zero, l1_scale) - keep(zero > d, l1_scale);
        put(c, r, fma(ssim_scale, pull, sign));
      };
      each_run(rings.derived, begin, end, [&](int b, int e, bool derived) {
        if (derived) return convolve<3>(window, b, e, rows, rings, load, emit);
        for (int r = 0; r < rows; ++r) {
          for (int c = b; c < e; ++c) put(c, r, zero);
        }
      });
    };

    const int64_t more = v_image == nullptr ? 0 : 1;
    for (int64_t group = first_group - 1 - more; group <= end_group + more; ++group) {
      fill(group);
      if (group > first_group - more) derive(group - 1);
      if (v_image != nullptr && group - 2 >= first_group) finish(group - 2);
    }
  });

  double l1 = 0, ssim = 0;
  for (size_t part = 0; part < parts; ++part) {
    l1 += l1_part[part];
    ssim += ssim_part[part];
  }
  *loss = static_cast<float>(((1 - ssim_weight) * l1 + ssim_weight * ssim) / count);
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
