// Vectors of 16 lanes: one 4x4 block of pixels, or 16 Gaussians. Lanes<Real> is plain code for any
// machine, float or double; Wide is the float vector of the instruction set being compiled for.
//
// gcc 12 lowers a 64-byte vector on AVX2 to code that is 4-7 times slower than two native halves,
// therefore every width is written out for its own registers. Multiply-adds are explicit (the build
// sets -ffp-contract=off): forward and backward must round alike, or they would disagree on which
// Gaussians touch a pixel.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "constants.h"

#if HEADSPLAT_LEVEL > 1
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define HS_FN static inline __attribute__((always_inline))

namespace headsplat {
namespace HEADSPLAT_ISA {

// 2^f on [-1/2, 1/2] with a relative error of 7.7e-8 (minimax), and its evaluation by Estrin's scheme.
constexpr float kExp2[6] = {1.000000073f,     6.931469682e-1f, 2.402211434e-1f,
                            5.550709598e-2f, 9.675757641e-3f, 1.327793890e-3f};
// 2^f on [-1/32, 1/32] with a relative error of 4.3e-7 (minimax).
constexpr float kExp2Short[3] = {1.0f, 6.931878e-1f, 2.402195e-1f};
// log2(m) = s (k0 + k1 s^2 + ...), s = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)].
constexpr float kLog2[5] = {2.885390082f, 0.961796694f, 0.577078016f, 0.412198583f, 0.320598898f};

// Flushes denormals to zero while it lives: transmittance decays into them, and they are slow.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

template <class Real>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using Type = int32_t;
};
template <>
struct IntegerOf<double> {
  using Type = int64_t;
};

template <class R>
struct Lanes {
  using Real = R;
  using Int = typename IntegerOf<R>::Type;
  static constexpr int kWidth = 16 / sizeof(R);
  static constexpr int kParts = 16 / kWidth;
  typedef R Part __attribute__((vector_size(16)));
  typedef Int IntPart __attribute__((vector_size(16)));
  struct Mask {
    IntPart part[kParts];
  };
  Part part[kParts];

  Lanes() = default;
  HS_FN Lanes make(Part p) {
    Lanes r;
    for (int i = 0; i < kParts; ++i) r.part[i] = p;
    return r;
  }
  template <class Number, class = typename std::enable_if<std::is_arithmetic<Number>::value>::type>
  explicit inline __attribute__((always_inline)) Lanes(Number x) { *this = make(Part{} + R(x)); }
  HS_FN Lanes load(const R* p) {
    Lanes r;
    memcpy(r.part, p, sizeof(r.part));
    return r;
  }
  inline __attribute__((always_inline)) void store(R* p) const { memcpy(p, part, sizeof(part)); }
};

#define HS_LANES_OP(op)                                                       \
  template <class R>                                                          \
  HS_FN Lanes<R> operator op(const Lanes<R>& a, const Lanes<R>& b) {          \
    Lanes<R> r;                                                               \
    for (int i = 0; i < Lanes<R>::kParts; ++i) r.part[i] = a.part[i] op b.part[i]; \
    return r;                                                                 \
  }
HS_LANES_OP(+) HS_LANES_OP(-) HS_LANES_OP(*) HS_LANES_OP(/)
#undef HS_LANES_OP
#define HS_LANES_COMPARE(op)                                                  \
  template <class R>                                                          \
  HS_FN typename Lanes<R>::Mask operator op(const Lanes<R>& a, const Lanes<R>& b) { \
    typename Lanes<R>::Mask r;                                                \
    for (int i = 0; i < Lanes<R>::kParts; ++i)                                \
      r.part[i] = (typename Lanes<R>::IntPart)(a.part[i] op b.part[i]);       \
    return r;                                                                 \
  }
HS_LANES_COMPARE(>=) HS_LANES_COMPARE(>) HS_LANES_COMPARE(<=) HS_LANES_COMPARE(==)
#undef HS_LANES_COMPARE

template <class R>
HS_FN Lanes<R> operator-(const Lanes<R>& a) {
  return Lanes<R>(0) - a;
}
template <class R>
HS_FN Lanes<R> fma(const Lanes<R>& a, const Lanes<R>& b, const Lanes<R>& c) {
  return a * b + c;
}
template <class R>
HS_FN Lanes<R> fnma(const Lanes<R>& a, const Lanes<R>& b, const Lanes<R>& c) {
  return c - a * b;
}
// `M` is deduced only from the last argument: a nested Mask type cannot be.
template <class M, class R>
HS_FN Lanes<R> select(const M& m, const Lanes<R>& a, const Lanes<R>& b) {
  Lanes<R> r;
  using IntPart = typename Lanes<R>::IntPart;
  for (int i = 0; i < Lanes<R>::kParts; ++i)
    r.part[i] = (typename Lanes<R>::Part)((m.part[i] & (IntPart)a.part[i]) |
                                          (~m.part[i] & (IntPart)b.part[i]));
  return r;
}
template <class M, class R>
HS_FN Lanes<R> keep(const M& m, const Lanes<R>& a) {
  Lanes<R> r;
  for (int i = 0; i < Lanes<R>::kParts; ++i)
    r.part[i] = (typename Lanes<R>::Part)(m.part[i] & (typename Lanes<R>::IntPart)a.part[i]);
  return r;
}
template <class R>
HS_FN Lanes<R> min(const Lanes<R>& a, const Lanes<R>& b) {
  return select(b >= a, a, b);
}
template <class R>
HS_FN Lanes<R> max(const Lanes<R>& a, const Lanes<R>& b) {
  return select(a >= b, a, b);
}
template <class M>
HS_FN auto operator&(const M& a, const M& b) -> decltype(M{a.part[0]}) {
  M r;
  for (unsigned i = 0; i < sizeof(a.part) / sizeof(a.part[0]); ++i) r.part[i] = a.part[i] & b.part[i];
  return r;
}
template <class M>
HS_FN auto bits(const M& m) -> decltype((void)m.part[0], uint32_t()) {
  uint32_t r = 0;
  constexpr int width = sizeof(m.part) / sizeof(m.part[0]);
  for (int i = 0; i < 16; ++i) r |= (uint32_t)(m.part[i / (16 / width)][i % (16 / width)] & 1) << i;
  return r;
}
template <class M>
HS_FN auto any(const M& m) -> decltype((void)m.part[0], bool()) {
  auto r = m.part[0];
  for (unsigned i = 1; i < sizeof(m.part) / sizeof(m.part[0]); ++i) r |= m.part[i];
  int64_t words[2];
  memcpy(words, &r, sizeof(words));
  return (words[0] | words[1]) != 0;
}
template <class R>
HS_FN Lanes<R> sqrt(const Lanes<R>& a) {
  R x[16];
  a.store(x);
  for (int i = 0; i < 16; ++i) x[i] = sizeof(R) == 4 ? R(__builtin_sqrtf(float(x[i]))) : R(__builtin_sqrt(x[i]));
  return Lanes<R>::load(x);
}
template <class R>
HS_FN Lanes<R> reciprocal(const Lanes<R>& a) {
  return Lanes<R>(1) / a;
}
HS_FN Lanes<float> exp2(const Lanes<float>& a) {
  using V = Lanes<float>;
  const V x = max(a, V(-126));
  V r;
  for (int i = 0; i < V::kParts; ++i) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
    const V::Part shifted = x.part[i] + 12582912.0f;
    const V::Part f = x.part[i] - (shifted - 12582912.0f);
    const V::Part f2 = f * f;
    const V::Part low = kExp2[0] + kExp2[1] * f;
    const V::Part middle = kExp2[2] + kExp2[3] * f, high = kExp2[4] + kExp2[5] * f;
    const V::Part value = low + f2 * (middle + f2 * high);
    r.part[i] = (V::Part)((V::IntPart)value + ((V::IntPart)shifted << 23));
  }
  return r;
}
// 2^x where x is known to be far from overflow: blending's.
template <class V>
HS_FN V exp2_short(const V& x) {
  return exp2(x);
}
HS_FN Lanes<double> exp2(const Lanes<double>& a) {
  double x[16];
  a.store(x);
  for (double& value : x) value = ::exp2(value);
  return Lanes<double>::load(x);
}
HS_FN Lanes<float> log2(const Lanes<float>& a) {
  float x[16];
  a.store(x);
  for (float& value : x) value = ::log2f(value);
  return Lanes<float>::load(x);
}
HS_FN Lanes<double> log2(const Lanes<double>& a) {
  double x[16];
  a.store(x);
  for (double& value : x) value = ::log2(value);
  return Lanes<double>::load(x);
}
// out[j] = sum of the lanes of v[j], j < 12; up to out[15] is written.
template <class R>
HS_FN void sum_lanes(const Lanes<R> v[12], R* out) {
  for (int j = 0; j < 12; ++j) {
    typename Lanes<R>::Part sum = v[j].part[0];
    for (int i = 1; i < Lanes<R>::kParts; ++i) sum += v[j].part[i];
    R total = sum[0];
    for (int i = 1; i < Lanes<R>::kWidth; ++i) total += sum[i];
    out[j] = total;
  }
}

// Three channels of 16 lanes to 48 interleaved numbers, and back.
template <class V, class Real = typename V::Real>
HS_FN void interleave(const V channel[3], Real* out) {
  alignas(64) Real columns[3][16];
  for (int k = 0; k < 3; ++k) channel[k].store(columns[k]);
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 3; ++k) out[3 * i + k] = columns[k][i];
  }
}
template <class V, class Real = typename V::Real>
HS_FN void deinterleave(const Real* in, V channel[3]) {
  alignas(64) Real columns[3][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 3; ++k) columns[k][i] = in[3 * i + k];
  }
  for (int k = 0; k < 3; ++k) channel[k] = V::load(columns[k]);
}
// Appends to list[block] every i in [0, count) whose mask has the block's bit. Rows hold `kRow`
// entries, at least count + 16. No branch depends on a mask: they are not predictable.
template <class V, int kRow>
struct SplitByBlock {
  HS_FN void run(const uint16_t* masks, int count, uint32_t alive, uint16_t (*list)[kRow], int* lengths) {
    for (int i = 0; i < count; ++i) {
      const uint32_t mask = masks[i] & alive;
      for (int block = 0; block < 16; ++block) {
        list[block][lengths[block]] = (uint16_t)i;
        lengths[block] += mask >> block & 1;
      }
    }
  }
};

#if HEADSPLAT_LEVEL == 3

struct Wide {
  using Real = float;
  using Mask = __mmask16;
  __m512 v;
  Wide() = default;
  HS_FN Wide make(__m512 x) {
    Wide r;
    r.v = x;
    return r;
  }
  template <class Number, class = typename std::enable_if<std::is_arithmetic<Number>::value>::type>
  explicit inline __attribute__((always_inline)) Wide(Number x) : v(_mm512_set1_ps((float)x)) {}
  HS_FN Wide load(const float* p) { return make(_mm512_loadu_ps(p)); }
  inline __attribute__((always_inline)) void store(float* p) const { _mm512_storeu_ps(p, v); }
};
HS_FN Wide operator+(Wide a, Wide b) { return Wide::make(_mm512_add_ps(a.v, b.v)); }
HS_FN Wide operator-(Wide a, Wide b) { return Wide::make(_mm512_sub_ps(a.v, b.v)); }
HS_FN Wide operator*(Wide a, Wide b) { return Wide::make(_mm512_mul_ps(a.v, b.v)); }
HS_FN Wide operator/(Wide a, Wide b) { return Wide::make(_mm512_div_ps(a.v, b.v)); }
HS_FN Wide operator-(Wide a) { return Wide(0.0f) - a; }
HS_FN Wide::Mask operator>=(Wide a, Wide b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
HS_FN Wide::Mask operator>(Wide a, Wide b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
HS_FN Wide::Mask operator<=(Wide a, Wide b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
HS_FN Wide::Mask operator==(Wide a, Wide b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
HS_FN Wide fma(Wide a, Wide b, Wide c) { return Wide::make(_mm512_fmadd_ps(a.v, b.v, c.v)); }
HS_FN Wide fnma(Wide a, Wide b, Wide c) { return Wide::make(_mm512_fnmadd_ps(a.v, b.v, c.v)); }
HS_FN Wide select(Wide::Mask m, Wide a, Wide b) { return Wide::make(_mm512_mask_blend_ps(m, b.v, a.v)); }
HS_FN Wide keep(Wide::Mask m, Wide a) { return Wide::make(_mm512_maskz_mov_ps(m, a.v)); }
HS_FN Wide min(Wide a, Wide b) { return Wide::make(_mm512_min_ps(a.v, b.v)); }
HS_FN Wide max(Wide a, Wide b) { return Wide::make(_mm512_max_ps(a.v, b.v)); }
HS_FN uint32_t bits(Wide::Mask m) { return m; }
HS_FN bool any(Wide::Mask m) { return m != 0; }
HS_FN Wide sqrt(Wide a) { return Wide::make(_mm512_sqrt_ps(a.v)); }
HS_FN Wide reciprocal(Wide a) {
  const Wide r = Wide::make(_mm512_rcp14_ps(a.v));
  return r * fnma(a, r, Wide(2.0f));
}
HS_FN Wide exp2(Wide x) {
  const __m512 n = _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Wide f = Wide::make(_mm512_sub_ps(x.v, n));
  const Wide f2 = f * f;
  const Wide low = fma(Wide(kExp2[1]), f, Wide(kExp2[0]));
  const Wide middle = fma(Wide(kExp2[3]), f, Wide(kExp2[2]));
  const Wide high = fma(Wide(kExp2[5]), f, Wide(kExp2[4]));
  return Wide::make(_mm512_scalef_ps(fma(f2, fma(f2, high, middle), low).v, n));
}
// 2^x for x in [-120, 120]. The 16 fractions n/16 lie in one register, so that the polynomial need not
// reach far; adding 1.5 * 2^19 leaves the nearest multiple of 1/16 in the low bits of the mantissa.
// Four multiplications where exp2() has nine operations of the same units: they limit blending.
HS_FN Wide exp2_short(Wide x) {
  const __m512 sixteenths = _mm512_setr_ps(1.0f, 1.0442737824f, 1.0905077327f, 1.1387886348f, 1.1892071150f,
                                           1.2418578121f, 1.2968395547f, 1.3542555469f, 1.4142135624f,
                                           1.4768261459f, 1.5422108254f, 1.6104903320f, 1.6817928305f,
                                           1.7562521604f, 1.8340080864f, 1.9152065614f);
  const Wide shift(786432.0f);
  const Wide shifted = x + shift, f = Wide::make(_mm512_reduce_ps(x.v, 4 << 4));
  const __m512i n = _mm512_castps_si512(shifted.v);
  const Wide table = Wide::make(_mm512_permutexvar_ps(n, sixteenths));
  const Wide value = table * fma(fma(Wide(kExp2Short[2]), f, Wide(kExp2Short[1])), f, Wide(kExp2Short[0]));
  const __m512i exponent = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(15), n), 19);
  return Wide::make(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value.v), exponent)));
}
HS_FN Wide log2(Wide a) {
  const __m512 m = _mm512_getmant_ps(a.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const __m512 e = _mm512_getexp_ps(_mm512_div_ps(a.v, m));
  const Wide x = Wide::make(m);
  const Wide s = (x - Wide(1.0f)) / (x + Wide(1.0f));
  const Wide q = s * s;
  Wide p = fma(Wide(kLog2[4]), q, Wide(kLog2[3]));
  p = fma(p, q, Wide(kLog2[2]));
  p = fma(p, q, Wide(kLog2[1]));
  p = fma(p, q, Wide(kLog2[0]));
  return fma(p, s, Wide::make(e));
}
// A butterfly: each stage halves the number of vectors and doubles what each of them holds.
HS_FN void sum_lanes(const Wide v[12], float* out) {
  __m512 a[6], b[3];
  for (int i = 0; i < 6; ++i) {
    const __m512 x = v[2 * i].v, y = v[2 * i + 1].v;
    a[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  }
  for (int i = 0; i < 3; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  // b[i] holds, in each 128-bit quarter, partial sums of v[4i .. 4i+3]; by quarters:
  // c = (b0, b0, b1, b1), d = halves of b2, twice
  const __m512 c = _mm512_add_ps(_mm512_shuffle_f32x4(b[0], b[1], 0x88),
                                 _mm512_shuffle_f32x4(b[0], b[1], 0xdd));
  const __m512 d = _mm512_add_ps(b[2], _mm512_shuffle_f32x4(b[2], b[2], 0x4e));
  _mm512_storeu_ps(out, _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd)));
}
// Orders for the two-source permutation: entries of 16 and more take from the second source.
struct InterleaveOrder {
  alignas(64) int32_t first[3][16], second[3][16];  // (red, green), then (those, blue)
  alignas(64) int32_t low[3][16], high[3][16];      // and back: (first 32), then (those, last 16)
  constexpr InterleaveOrder() : first(), second(), low(), high() {
    for (int i = 0; i < 48; ++i) {
      const int lane = i / 3, k = i % 3;
      first[i / 16][i % 16] = k == 1 ? 16 + lane : lane;
      second[i / 16][i % 16] = k == 2 ? 16 + lane : i % 16;
      low[k][lane] = i < 32 ? i : 0;
      high[k][lane] = i < 32 ? lane : i - 16;
    }
  }
};
constexpr InterleaveOrder kInterleave;

HS_FN void interleave(const Wide channel[3], float* out) {
  for (int i = 0; i < 3; ++i) {
    const __m512 rg = _mm512_permutex2var_ps(channel[0].v, _mm512_load_si512(kInterleave.first[i]), channel[1].v);
    _mm512_storeu_ps(out + 16 * i,
                     _mm512_permutex2var_ps(rg, _mm512_load_si512(kInterleave.second[i]), channel[2].v));
  }
}
HS_FN void deinterleave(const float* in, Wide channel[3]) {
  const __m512 a = _mm512_loadu_ps(in), b = _mm512_loadu_ps(in + 16), c = _mm512_loadu_ps(in + 32);
  for (int k = 0; k < 3; ++k) {
    const __m512 low = _mm512_permutex2var_ps(a, _mm512_load_si512(kInterleave.low[k]), b);
    channel[k] = Wide::make(_mm512_permutex2var_ps(low, _mm512_load_si512(kInterleave.high[k]), c));
  }
}
template <int kRow>
struct SplitByBlock<Wide, kRow> {
  HS_FN void run(const uint16_t* masks, int count, uint32_t alive, uint16_t (*list)[kRow], int* lengths) {
    const __m256i live = _mm256_set1_epi16((short)alive);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int first = 0; first < count; first += 16) {
      const __mmask16 there = count - first >= 16 ? 0xffff : (__mmask16)((1u << (count - first)) - 1);
      const __m256i m = _mm256_and_si256(_mm256_maskz_loadu_epi16(there, masks + first), live);
      for (int block = 0; block < 16; ++block) {
        const __mmask16 k = _mm256_test_epi16_mask(m, _mm256_set1_epi16((short)(1 << block)));
        _mm256_storeu_si256((__m256i*)(list[block] + lengths[block]),
                            _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(k, index)));
        lengths[block] += __builtin_popcount(k);
      }
      index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
    }
  }
};

#elif HEADSPLAT_LEVEL == 2

struct Wide {
  using Real = float;
  struct Mask {
    __m256 lo, hi;
  };
  __m256 lo, hi;
  Wide() = default;
  HS_FN Wide make(__m256 a, __m256 b) {
    Wide r;
    r.lo = a;
    r.hi = b;
    return r;
  }
  template <class Number, class = typename std::enable_if<std::is_arithmetic<Number>::value>::type>
  explicit inline __attribute__((always_inline)) Wide(Number x)
      : lo(_mm256_set1_ps((float)x)), hi(_mm256_set1_ps((float)x)) {}
  HS_FN Wide load(const float* p) { return make(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
  inline __attribute__((always_inline)) void store(float* p) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
};
#define HS_WIDE(name, intrinsic) \
  HS_FN Wide name(Wide a, Wide b) { return Wide::make(intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi)); }
HS_WIDE(operator+, _mm256_add_ps)
HS_WIDE(operator-, _mm256_sub_ps)
HS_WIDE(operator*, _mm256_mul_ps)
HS_WIDE(operator/, _mm256_div_ps)
HS_WIDE(min, _mm256_min_ps)
HS_WIDE(max, _mm256_max_ps)
#undef HS_WIDE
#define HS_WIDE_COMPARE(op, code)                                                        \
  HS_FN Wide::Mask operator op(Wide a, Wide b) {                                         \
    return {_mm256_cmp_ps(a.lo, b.lo, code), _mm256_cmp_ps(a.hi, b.hi, code)};           \
  }
HS_WIDE_COMPARE(>=, _CMP_GE_OQ)
HS_WIDE_COMPARE(>, _CMP_GT_OQ)
HS_WIDE_COMPARE(<=, _CMP_LE_OQ)
HS_WIDE_COMPARE(==, _CMP_EQ_OQ)
#undef HS_WIDE_COMPARE
HS_FN Wide operator-(Wide a) { return Wide(0.0f) - a; }
HS_FN Wide::Mask operator&(Wide::Mask a, Wide::Mask b) {
  return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}
HS_FN Wide fma(Wide a, Wide b, Wide c) {
  return Wide::make(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
HS_FN Wide fnma(Wide a, Wide b, Wide c) {
  return Wide::make(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
HS_FN Wide select(Wide::Mask m, Wide a, Wide b) {
  return Wide::make(_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi));
}
HS_FN Wide keep(Wide::Mask m, Wide a) {
  return Wide::make(_mm256_and_ps(m.lo, a.lo), _mm256_and_ps(m.hi, a.hi));
}
HS_FN uint32_t bits(Wide::Mask m) {
  return (uint32_t)_mm256_movemask_ps(m.lo) | ((uint32_t)_mm256_movemask_ps(m.hi) << 8);
}
HS_FN bool any(Wide::Mask m) {
  const __m256 both = _mm256_or_ps(m.lo, m.hi);
  return !_mm256_testz_ps(both, both);
}
HS_FN Wide sqrt(Wide a) { return Wide::make(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
HS_FN Wide reciprocal(Wide a) {
  const Wide r = Wide::make(_mm256_rcp_ps(a.lo), _mm256_rcp_ps(a.hi));
  return r * fnma(a, r, Wide(2.0f));
}
HS_FN Wide exp2(Wide a) {
  const Wide x = max(a, Wide(-126.0f));
  const Wide shift(12582912.0f);  // 1.5 * 2^23: the nearest integer moves into the low bits
  const Wide shifted = x + shift;
  const Wide f = x - (shifted - shift);
  const Wide f2 = f * f;
  const Wide low = fma(Wide(kExp2[1]), f, Wide(kExp2[0]));
  const Wide middle = fma(Wide(kExp2[3]), f, Wide(kExp2[2]));
  const Wide high = fma(Wide(kExp2[5]), f, Wide(kExp2[4]));
  const Wide value = fma(f2, fma(f2, high, middle), low);
  const auto scale = [](__m256 v, __m256 n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
  };
  return Wide::make(scale(value.lo, shifted.lo), scale(value.hi, shifted.hi));
}
HS_FN Wide log2(Wide a) {
  float x[16];
  a.store(x);
  for (float& value : x) value = ::log2f(value);
  return Wide::load(x);
}
HS_FN void sum_lanes(const Wide v[12], float* out) {
  __m256 a[12], b[6], c[3];
  for (int i = 0; i < 12; ++i) a[i] = _mm256_add_ps(v[i].lo, v[i].hi);
  for (int i = 0; i < 6; ++i) b[i] = _mm256_hadd_ps(a[2 * i], a[2 * i + 1]);
  for (int i = 0; i < 3; ++i) c[i] = _mm256_hadd_ps(b[2 * i], b[2 * i + 1]);
  // c[i] holds in each half the partial sums of v[4i .. 4i + 3].
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_permute2f128_ps(c[0], c[1], 0x20),
                                      _mm256_permute2f128_ps(c[0], c[1], 0x31)));
  _mm256_storeu_ps(out + 8, _mm256_add_ps(c[2], _mm256_permute2f128_ps(c[2], c[2], 0x01)));
}

#else

using Wide = Lanes<float>;

#endif

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
