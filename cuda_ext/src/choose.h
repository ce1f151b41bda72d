// Picking the instruction set and keeping exceptions inside the library: what all entry points share.
#pragma once

#include <new>

#include "headsplat.h"

namespace headsplat {

// The tables of one kind of kernels; null where the library or the kind lacks the path.
template <class Table>
struct Paths {
  const Table* (*plain)();
  const Table* (*plain_double)();
  const Table* (*avx2)();
  const Table* (*avx512)();
};

template <class Table>
const Table* choose(const HsRun* run, const Paths<Table>& paths) {
  const Table* (*path)() = nullptr;
  if (run->precision != 0) {
    path = paths.plain_double;
  } else {
    const int32_t simd = run->simd == HS_SIMD_AUTO ? hs_best_simd() : run->simd;
    if (!hs_has_simd(simd)) return nullptr;
    path = simd == HS_SIMD_AVX512 ? paths.avx512 : simd == HS_SIMD_AVX2 ? paths.avx2 : paths.plain;
  }
  return path == nullptr ? nullptr : path();
}

template <class Table, class F>
int32_t guarded(const HsRun* run, const Paths<Table>& paths, const F& f) {
  const Table* kernels = choose(run, paths);
  if (kernels == nullptr) return HS_UNSUPPORTED;
  try {
    f(*kernels);
  } catch (const std::bad_alloc&) {
    return HS_OUT_OF_MEMORY;
  }
  return HS_OK;
}

}  // namespace headsplat
