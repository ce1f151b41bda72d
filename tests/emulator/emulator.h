// CUDA's language and the part of its library that our kernels use, for g++: included before every .cu.
//
// Each CUDA thread is a fiber. It runs alone until it waits at a barrier or a warp's collective; who
// runs next is drawn from a seed, so that code which needs a barrier that is not there gives another
// result under another seed. Barriers that the threads of a block do not share, collectives whose lanes
// disagree, and deadlocks end the launch with cudaErrorUnknown and a sentence (hs_emulator_message).
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// ------------------------------------------------------------------------------------- language

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __constant__ static const
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define EMULATED_VECTORS(name, type)                                                         \
  struct alignas(2 * sizeof(type)) name##2 {                                                 \
    type x, y;                                                                               \
  };                                                                                         \
  struct name##3 {                                                                           \
    type x, y, z;                                                                            \
  };                                                                                         \
  struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 {                         \
    type x, y, z, w;                                                                         \
  };                                                                                         \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                           \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(uint, unsigned)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(ushort, unsigned short)
EMULATED_VECTORS(uchar, unsigned char)
#undef EMULATED_VECTORS

// ------------------------------------------------------------------------------------- runtime

typedef int cudaError_t;
typedef void* cudaStream_t;
enum : int { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorUnknown = 999 };
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};

const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (bytes != 0) memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes != 0) memcpy(to, from, bytes);
  return cudaSuccess;
}

namespace emulator {

// The values of one collective of a warp, until every lane has read them.
struct Collective {
  uint32_t participants;
  uint64_t values[32];
};

// Runs `job` once for each thread of each block.
cudaError_t run_grid(dim3 grid, dim3 block, const std::function<void()>& job);
const Collective& collective(uint32_t mask, uint64_t value, const char* name, const char* file, int line);
int barrier(int predicate, int operation, const char* file, int line);  // 0 count, 1 and, 2 or
unsigned lane();

struct Place {
  uint3 thread, block;
  dim3 threads, blocks;
};
extern Place place;

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "a warp exchanges values of at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// What a lane gets from a lane that does not take part: undefined on a GPU, loud here.
template <class T>
T from_lane(const Collective& c, unsigned source) {
  return from_bits<T>((c.participants >> source & 1) != 0 ? c.values[source] : 0x7fc0dead7fc0deadull);
}

template <class T>
T shuffle(uint32_t mask, T value, int operand, int width, char kind, const char* file, int line) {
  const Collective& c = collective(mask, to_bits(value), "a shuffle", file, line);
  const int own = (int)lane(), first = own / width * width, inside = own - first;
  int source = own;
  if (kind == 'i') source = first + (operand & (width - 1));
  if (kind == 'u' && inside - operand >= 0) source = own - operand;
  if (kind == 'd' && inside + operand < width) source = own + operand;
  if (kind == 'x' && (own ^ operand) < first + width) source = own ^ operand;
  return from_lane<T>(c, (unsigned)source);
}

template <class T, class F>
T reduce(uint32_t mask, T value, const F& f, const char* file, int line) {
  const Collective& c = collective(mask, to_bits(value), "a reduction", file, line);
  bool any = false;
  T result{};
  for (int i = 0; i < 32; ++i) {
    if ((c.participants >> i & 1) == 0) continue;
    const T next = from_bits<T>(c.values[i]);
    result = any ? f(result, next) : next;
    any = true;
  }
  return result;
}

inline uint32_t ballot(uint32_t mask, int predicate, const char* file, int line) {
  const Collective& c = collective(mask, predicate != 0, "a vote", file, line);
  uint32_t votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (uint32_t)((c.participants >> i & 1) != 0 && c.values[i] != 0) << i;
  return votes;
}
inline bool all(uint32_t mask, int predicate, const char* file, int line) {
  const Collective& c = collective(mask, predicate != 0, "a vote", file, line);
  bool every = true;
  for (int i = 0; i < 32; ++i) every = every && ((c.participants >> i & 1) == 0 || c.values[i] != 0);
  return every;
}

}  // namespace emulator

#define threadIdx (::emulator::place.thread)
#define blockIdx (::emulator::place.block)
#define blockDim (::emulator::place.threads)
#define gridDim (::emulator::place.blocks)
constexpr int warpSize = 32;

// ------------------------------------------------------------------------- barriers and collectives

#define EMULATED_PICK(_1, _2, _3, _4, chosen, ...) chosen
#define __syncthreads() ((void)::emulator::barrier(0, 0, __FILE__, __LINE__))
#define __syncthreads_count(p) ::emulator::barrier((p) != 0, 0, __FILE__, __LINE__)
#define __syncthreads_and(p) ::emulator::barrier((p) != 0, 1, __FILE__, __LINE__)
#define __syncthreads_or(p) ::emulator::barrier((p) != 0, 2, __FILE__, __LINE__)
#define __syncwarp(...) \
  ((void)::emulator::collective(::emulator::mask_or_all(__VA_ARGS__), 0, "__syncwarp", __FILE__, __LINE__))
#define __ballot_sync(mask, p) ::emulator::ballot((mask), (p), __FILE__, __LINE__)
#define __any_sync(mask, p) ((int)(::emulator::ballot((mask), (p), __FILE__, __LINE__) != 0))
#define __all_sync(mask, p) ((int)::emulator::all((mask), (p), __FILE__, __LINE__))
#define EMULATED_SHUFFLE(kind, mask, value, operand, width) \
  ::emulator::shuffle((mask), (value), (int)(operand), (width), kind, __FILE__, __LINE__)
#define EMULATED_SHUFFLE_3(kind, mask, value, operand) EMULATED_SHUFFLE(kind, mask, value, operand, 32)
#define __shfl_sync(...) EMULATED_PICK(__VA_ARGS__, EMULATED_SHUFFLE, EMULATED_SHUFFLE_3)('i', __VA_ARGS__)
#define __shfl_up_sync(...) EMULATED_PICK(__VA_ARGS__, EMULATED_SHUFFLE, EMULATED_SHUFFLE_3)('u', __VA_ARGS__)
#define __shfl_down_sync(...) EMULATED_PICK(__VA_ARGS__, EMULATED_SHUFFLE, EMULATED_SHUFFLE_3)('d', __VA_ARGS__)
#define __shfl_xor_sync(...) EMULATED_PICK(__VA_ARGS__, EMULATED_SHUFFLE, EMULATED_SHUFFLE_3)('x', __VA_ARGS__)
#define EMULATED_REDUCE(mask, value, body) \
  ::emulator::reduce((mask), (value), [](auto a, auto b) { return body; }, __FILE__, __LINE__)
#define __reduce_add_sync(mask, value) EMULATED_REDUCE(mask, value, a + b)
#define __reduce_min_sync(mask, value) EMULATED_REDUCE(mask, value, (a < b ? a : b))
#define __reduce_max_sync(mask, value) EMULATED_REDUCE(mask, value, (a > b ? a : b))
#define __reduce_and_sync(mask, value) EMULATED_REDUCE(mask, value, (a & b))
#define __reduce_or_sync(mask, value) EMULATED_REDUCE(mask, value, (a | b))

namespace emulator {
inline uint32_t mask_or_all(uint32_t mask = 0xffffffffu) { return mask; }
}  // namespace emulator

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---------------------------------------------------------------------------------------- atomics

template <class T, class U>
T atomicAdd(T* at, U value) {
  const T old = *at;
  *at = (T)(old + (T)value);
  return old;
}
template <class T, class U>
T atomicMax(T* at, U value) {
  const T old = *at;
  *at = old < (T)value ? (T)value : old;
  return old;
}
template <class T, class U>
T atomicMin(T* at, U value) {
  const T old = *at;
  *at = (T)value < old ? (T)value : old;
  return old;
}
template <class T, class U>
T atomicOr(T* at, U value) {
  const T old = *at;
  *at = old | (T)value;
  return old;
}
template <class T, class U>
T atomicAnd(T* at, U value) {
  const T old = *at;
  *at = old & (T)value;
  return old;
}
template <class T, class U>
T atomicExch(T* at, U value) {
  const T old = *at;
  *at = (T)value;
  return old;
}
template <class T, class U, class W>
T atomicCAS(T* at, U expected, W value) {
  const T old = *at;
  if (old == (T)expected) *at = (T)value;
  return old;
}

// ------------------------------------------------------------------------------------ arithmetic

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline uint32_t __brev(uint32_t x) {
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) out |= (x >> i & 1) << (31 - i);
  return out;
}
inline float __uint_as_float(uint32_t x) { return emulator::from_bits<float>(x); }
inline float __int_as_float(int x) { return emulator::from_bits<float>((uint32_t)x); }
inline uint32_t __float_as_uint(float x) { return (uint32_t)emulator::to_bits(x); }
inline int __float_as_int(float x) { return (int)(uint32_t)emulator::to_bits(x); }
template <class T>
T __ldg(const T* at) {
  return *at;
}
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __saturatef(float x) { return x < 0 ? 0.0f : x > 1 ? 1.0f : x; }
using std::max;
using std::min;

// -------------------------------------------------------------------------------------------- CUB

// The device-wide calls that we make, with CUB's signatures and CUB's two-step use of temporary storage.
namespace cub {

struct DeviceRadixSort {
  template <class Key, class Value, class Count>
  static cudaError_t SortPairs(void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in,
                               Value* values_out, Count count, int begin_bit = 0, int end_bit = 8 * sizeof(Key),
                               cudaStream_t = nullptr) {
    if (storage == nullptr) {
      bytes = 16;
      return cudaSuccess;
    }
    const int bits = end_bit - begin_bit;
    const auto digits = [&](Key key) {
      const uint64_t all = (uint64_t)key >> begin_bit;
      return bits >= 64 ? all : all & ((1ull << bits) - 1);
    };
    std::vector<size_t> order((size_t)count);
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return digits(keys_in[a]) < digits(keys_in[b]); });
    for (size_t i = 0; i < order.size(); ++i) {
      keys_out[i] = keys_in[order[i]];
      values_out[i] = values_in[order[i]];
    }
    return cudaSuccess;
  }
};

struct DeviceScan {
  template <class Value, class Count>
  static cudaError_t ExclusiveSum(void* storage, size_t& bytes, const Value* in, Value* out, Count count,
                                  cudaStream_t = nullptr) {
    if (storage == nullptr) {
      bytes = 16;
      return cudaSuccess;
    }
    Value sum = 0;
    for (Count i = 0; i < count; ++i) {
      const Value next = in[i];
      out[i] = sum;
      sum += next;
    }
    return cudaSuccess;
  }
};

}  // namespace cub
