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

#include <type_traits>

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
constexpr int kTaskRows = 16;
static_assert(kTaskRows % kRows == 0, "tasks must not share rows");
constexpr int kAhead = 24;  // vectors that the vertical pass runs ahead, so that they stay in cache

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

// Rows an odd number of cache lines apart never compete for the same place in the cache.
static size_t row_stride(int64_t vectors) { return static_cast<size_t>(((vectors + 2) | 1) * kLanes); }

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

// Convolves F fields with the window over kRows rows of a picture, of which the first `rows` exist.
// `load(v, f, column)` fills column[kSpan] with vector v of field f in the input rows (column[kRadius]
// belongs to the first output row); it is called for f = 0, 1, ... in turn and finds its last result in
// column. `emit(v, r, fields, full)` takes the result for output row r; `full` is a constant, false for
// a last vector of less than 16 floats. `lines` holds kRows * F rows of row_stride floats whose first
// vector, and whose vector after the last, are zero.
template <int F, class Load, class Emit>
HS_FN void convolve(const Window& window, int64_t length, int64_t rows, float* lines, const Load& load,
                    const Emit& emit) {
  const int64_t vectors = (length + kLanes - 1) / kLanes, whole = length / kLanes;
  const size_t stride = row_stride(vectors);
  int64_t done = 0;
  for (int64_t begin = 0; begin < vectors; begin += kAhead) {
    const int64_t end = least(begin + kAhead, vectors);
    for (int64_t v = begin; v < end; ++v) {
      Wide column[kSpan];
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) {
        load(v, f, column);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Wide* centre = column + r + kRadius;
          Wide sum = window.tap[0] * centre[0];
#pragma GCC unroll 5
          for (int t = 1; t <= kRadius; ++t) sum = fma(window.tap[t], centre[-t] + centre[t], sum);
          sum.store(lines + static_cast<size_t>(r * F + f) * stride + (v + 1) * kLanes);
        }
      }
    }
    // The newest vector still lacks its right neighbour.
    const int64_t ready = end == vectors ? end : end - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const float* line = lines + static_cast<size_t>(r * F) * stride + kLanes;
      const auto fields = [&](int64_t v, Wide* field) HS_INLINE_LAMBDA {
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) {
          field[f] = across(window, line + static_cast<size_t>(f) * stride + v * kLanes);
        }
      };
      Wide field[F];
      for (int64_t v = done; v < least(ready, whole); ++v) {
        fields(v, field);
        emit(v, r, field, std::true_type());
      }
      if (ready > whole) {
        fields(whole, field);
        emit(whole, r, field, std::false_type());
      }
    }
    done = ready;
  }
}

static void clear_margins(float* lines, int count, int64_t vectors) {
  const size_t stride = row_stride(vectors);
  for (int line = 0; line < count; ++line) {
    memset(lines + line * stride, 0, kLanes * sizeof(float));
    memset(lines + line * stride + (vectors + 1) * kLanes, 0, kLanes * sizeof(float));
  }
}

// Rows of a picture, kSpan of them around the first output row; those outside are zero.
struct Rows {
  const float* row[kSpan];
  const float* row_end[kSpan];  // a copy of the last, partly filled vector: a load would run past the array
  float end[kSpan][kLanes];

  Rows(const float* picture, int64_t top, int64_t height, int64_t length, const float* zeros) {
    const int64_t rest = length % kLanes;
    for (int i = 0; i < kSpan; ++i) {
      const int64_t y = top - kRadius + i;
      row[i] = y >= 0 && y < height ? picture + y * length : zeros;
      row_end[i] = end[i];
      if (rest != 0) load_some(row[i] + length - rest, rest).store(end[i]);
    }
  }
};

static void l1_ssim(const HsRun& run, int64_t height, int64_t width, const float* image,
                    const float* target, double ssim_weight, float* loss, float* v_image) {
  const int64_t length = width * kChannels, vectors = (length + kLanes - 1) / kLanes;
  const int64_t whole = length / kLanes, rest = length % kLanes;
  const int64_t tasks = (height + kTaskRows - 1) / kTaskRows;
  const size_t stride = row_stride(vectors);
  const size_t line_floats = stride * kRows * 4;
  // Derivatives of the sum of 1 - SSIM to the windowed V_d, V_s and to the means.
  const size_t plane = v_image == nullptr ? 0 : stride * static_cast<size_t>(height);

  Scratch scratch((3 * plane + stride + line_floats * static_cast<size_t>(run.threads)) * sizeof(float) +
                  2 * static_cast<size_t>(tasks) * sizeof(double) + 7 * 64);
  float* to_vd = scratch.take<float>(plane);
  float* to_vs = scratch.take<float>(plane);
  float* to_mean = scratch.take<float>(plane);
  float* zeros = scratch.take<float>(stride);
  float* all_lines = scratch.take<float>(line_floats * static_cast<size_t>(run.threads));
  double* l1_part = scratch.take<double>(static_cast<size_t>(tasks));
  double* ssim_part = scratch.take<double>(static_cast<size_t>(tasks));
  memset(zeros, 0, stride * sizeof(float));
  const Window window;

  each(tasks, run.threads, [&](int64_t task, int worker) {
    float* lines = all_lines + line_floats * static_cast<size_t>(worker);
    clear_margins(lines, kRows * 4, vectors);
    double l1 = 0, ssim = 0;
    const int64_t bottom = least((task + 1) * kTaskRows, height);
    for (int64_t top = task * kTaskRows; top < bottom; top += kRows) {
      const Rows x(image, top, height, length, zeros), y(target, top, height, length, zeros);
      const auto load = [&](int64_t v, int f, Wide* column) HS_INLINE_LAMBDA {
        const float* const* xs = v < whole ? x.row : x.row_end;
        const float* const* ys = v < whole ? y.row : y.row_end;
        const int64_t at = v < whole ? v * kLanes : 0;
#pragma GCC unroll 18
        for (int i = 0; i < kSpan; ++i) {
          if (f == 0) column[i] = Wide::load(xs[i] + at) - Wide::load(ys[i] + at);
          if (f == 2) column[i] = Wide::load(xs[i] + at) + Wide::load(ys[i] + at);
          if (f == 1 || f == 3) column[i] = column[i] * column[i];
        }
      };
      Wide l1_sum(0.0f), ssim_sum(0.0f);
      const auto emit = [&](int64_t v, int64_t r, const Wide* field, auto full) HS_INLINE_LAMBDA {
        // What lies beyond the border counts nothing, and no derivative comes from there.
        const auto inside = [&](Wide value) HS_INLINE_LAMBDA {
          float lanes[kLanes];
          if (!full) value.store(lanes);
          return full ? value : load_some(lanes, rest);
        };
        const Wide half(0.5f), one(1.0f), two(2.0f);
        const Wide md = field[0], ms = field[2], md2 = md * md;
        const Wide vd = field[1] - md2, vs = fnma(ms, ms, field[3]);
        const Wide inverse1 = reciprocal(fma(half, fma(ms, ms, md2), Wide(kC1)));
        const Wide inverse2 = reciprocal(fma(half, vs + vd, Wide(kC2)));
        const Wide a = md2 * inverse1, b = vd * inverse2;
        const Wide not_a = one - a, not_b = one - b;
        const int64_t at = (top + r) * length + v * kLanes;
        const Wide d = full ? Wide::load(image + at) - Wide::load(target + at)
                            : load_some(image + at, rest) - load_some(target + at, rest);
        l1_sum = l1_sum + max(d, -d);
        ssim_sum = ssim_sum + inside(fma(a, not_b, b));
        if (v_image == nullptr) return;
        // da = (2 - a) m_d / B1 dm_d - a m_s / B1 dm_s,  db = (1 - b/2) / B2 dV_d - b/2 / B2 dV_s,
        // and a variance is a windowed square less the square of a mean.
        const Wide scaled = not_a * inverse2, half_b = half * b;
        const Wide p = fnma(scaled, half_b, scaled), q = -(scaled * half_b);
        const Wide slope = not_b * inverse1 * fma(two - a, md, -(a * ms));
        const size_t out = static_cast<size_t>(top + r) * stride + static_cast<size_t>(v * kLanes);
        inside(p).store(to_vd + out);
        inside(q).store(to_vs + out);
        inside(fnma(two, fma(md, p, ms * q), slope)).store(to_mean + out);
      };
      convolve<4>(window, length, least(kRows, height - top), lines, load, emit);
      l1 += total(l1_sum);
      ssim += total(ssim_sum);
    }
    l1_part[task] = l1;
    ssim_part[task] = ssim;
  });

  double l1 = 0, ssim = 0;
  for (int64_t task = 0; task < tasks; ++task) {
    l1 += l1_part[task];
    ssim += ssim_part[task];
  }
  const double count = static_cast<double>(height) * static_cast<double>(length);
  *loss = static_cast<float>(((1 - ssim_weight) * l1 + ssim_weight * ssim) / count);
  if (v_image == nullptr) return;

  const Wide l1_scale(static_cast<float>((1 - ssim_weight) / count));
  const Wide ssim_scale(static_cast<float>(ssim_weight / count));
  each(tasks, run.threads, [&](int64_t task, int worker) {
    float* lines = all_lines + line_floats * static_cast<size_t>(worker);
    clear_margins(lines, kRows * 3, vectors);
    const int64_t bottom = least((task + 1) * kTaskRows, height);
    for (int64_t top = task * kTaskRows; top < bottom; top += kRows) {
      const float* row[3][kSpan];
      for (int i = 0; i < kSpan; ++i) {
        const int64_t y = top - kRadius + i;
        const bool inside = y >= 0 && y < height;
        const size_t at = inside ? static_cast<size_t>(y) * stride : 0;
        row[0][i] = inside ? to_vd + at : zeros;
        row[1][i] = inside ? to_vs + at : zeros;
        row[2][i] = inside ? to_mean + at : zeros;
      }
      const auto load = [&](int64_t v, int f, Wide* column) HS_INLINE_LAMBDA {
#pragma GCC unroll 18
        for (int i = 0; i < kSpan; ++i) column[i] = Wide::load(row[f][i] + v * kLanes);
      };
      const auto emit = [&](int64_t v, int64_t r, const Wide* field, auto full) HS_INLINE_LAMBDA {
        const int64_t at = (top + r) * length + v * kLanes;
        const Wide x = full ? Wide::load(image + at) : load_some(image + at, rest);
        const Wide y = full ? Wide::load(target + at) : load_some(target + at, rest);
        const Wide d = x - y, s = x + y, zero(0.0f);
        const Wide pull = fma(Wide(2.0f), fma(d, field[0], s * field[1]), field[2]);
        const Wide sign = keep(d > zero, l1_scale) - keep(zero > d, l1_scale);
        const Wide value = fma(ssim_scale, pull, sign);
        if (full) {
          value.store(v_image + at);
        } else {
          store_some(v_image + at, value, rest);
        }
      };
      convolve<3>(window, length, least(kRows, height - top), lines, load, emit);
    }
  });
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
