// Threads and scratch memory of the CPU kernels.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace headsplat {

// Calls task(context, index, worker) for every index in [0, count), at most `threads` at a time;
// `worker` is below `threads` and no two concurrent calls have the same one. Which thread gets which
// index is not determined, so nothing that a task computes may depend on it.
void parallel_for(int64_t count, int threads, void (*task)(void*, int64_t, int), void* context);

// Uninitialised memory, 64-byte aligned, kept for the next caller: fresh memory of this size costs
// more in page faults than the kernels take to fill it. Throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Hands out the next part; the parts together must fit.
  template <class T>
  T* take(size_t count) {
    T* part = reinterpret_cast<T*>(static_cast<char*>(memory_) + used_);
    used_ += padded(count * sizeof(T));
    return part;
  }
  static size_t padded(size_t bytes) { return (bytes + 63) & ~size_t(63); }

 private:
  void* memory_;
  size_t bytes_, used_ = 0;
};

}  // namespace headsplat
