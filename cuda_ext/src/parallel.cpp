#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace headsplat {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

int process_id() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<int>(getpid());
#else
  return 0;
#endif
}

// A kernel call is a chain of short parallel phases, so a worker looks for the next one for some ten
// microseconds before it goes to sleep. A worker that wakes too late finds the job closed: nobody
// waits for it.
class Pool {
 public:
  explicit Pool(int workers) : process(process_id()) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this, i] { work(i + 1); });
    for (auto& thread : threads_) thread.detach();
  }

  int workers() const { return static_cast<int>(threads_.size()); }

  void run(int64_t count, int threads, void (*task)(void*, int64_t, int), void* context) {
    task_ = task;
    context_ = context;
    count_ = count;
    limit_ = threads;
    next_.store(0, std::memory_order_relaxed);
    const uint64_t generation = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      state_.store(generation << 32, std::memory_order_seq_cst);
    }
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    drain(0);
    state_.fetch_or(kClosed, std::memory_order_acq_rel);
    // A worker that is still at it usually needs microseconds. On a busy machine it may have lost its
    // core, and then waiting on this one would keep it from coming back.
    for (int spin = 0; (state_.load(std::memory_order_acquire) & kActive) != 0; ++spin) {
      if (spin < 1500) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  const int process;

 private:
  static constexpr uint64_t kClosed = uint64_t(1) << 31, kActive = kClosed - 1;

  void drain(int worker) {
    for (;;) {
      const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      task_(context_, index, worker);
    }
  }

  // Enters the job of this generation unless it is closed.
  bool join(uint64_t generation) {
    uint64_t state = state_.load(std::memory_order_acquire);
    while ((state >> 32) == generation && (state & kClosed) == 0) {
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < 1500 && (state_.load(std::memory_order_acquire) >> 32) == seen; ++spin) {
        relax();
      }
      if ((state_.load(std::memory_order_acquire) >> 32) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return (state_.load(std::memory_order_seq_cst) >> 32) != seen; });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = state_.load(std::memory_order_acquire) >> 32;
      if (join(seen)) {
        if (worker < limit_) drain(worker);
        state_.fetch_sub(1, std::memory_order_acq_rel);
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> state_{kClosed};  // generation, closed flag, workers inside
  std::atomic<int64_t> next_{0};
  std::atomic<int> sleepers_{0};
  void (*task_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  int limit_ = 0;
};

std::mutex pool_mutex;
// Never destroyed: its threads may still sleep in it when the process ends, or live on in the parent
// of a forked child, which gets a pool of its own.
Pool* pool = nullptr;

struct FreeBlock {
  void* memory;
  size_t bytes;
};
std::mutex scratch_mutex;
std::vector<FreeBlock>& free_blocks() {
  static auto* blocks = new std::vector<FreeBlock>;
  return *blocks;
}
constexpr size_t kKeptBlocks = 4;

}  // namespace

void parallel_for(int64_t count, int threads, void (*task)(void*, int64_t, int), void* context) {
  std::unique_lock<std::mutex> lock(pool_mutex, std::defer_lock);
  if (threads > count) threads = static_cast<int>(count);
  // While another thread of the program has the pool, this one does its work alone.
  if (threads < 2 || !lock.try_lock()) {
    for (int64_t index = 0; index < count; ++index) task(context, index, 0);
    return;
  }
  if (pool == nullptr || pool->process != process_id() || pool->workers() < threads - 1) {
    // A pool that grew leaves its smaller predecessor asleep; that happens once or twice in a run.
    pool = new Pool(threads - 1);
  }
  pool->run(count, threads, task, context);
}

Scratch::Scratch(size_t bytes) : memory_(nullptr), bytes_(padded(bytes + 64)) {
  {
    std::lock_guard<std::mutex> lock(scratch_mutex);
    auto& blocks = free_blocks();
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].bytes >= bytes_ && blocks[i].bytes <= 4 * bytes_ + (size_t(1) << 20)) {
        memory_ = blocks[i].memory;
        bytes_ = blocks[i].bytes;
        blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(i));
        return;
      }
    }
  }
  bytes_ += bytes_ / 4;  // room to grow, so that a slowly growing scene reuses the block
  bytes_ = padded(bytes_);
  memory_ = std::aligned_alloc(64, bytes_);
  if (memory_ == nullptr) throw std::bad_alloc();
}

Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(scratch_mutex);
  auto& blocks = free_blocks();
  if (blocks.size() >= kKeptBlocks) {
    std::free(blocks.front().memory);
    blocks.erase(blocks.begin());
  }
  blocks.push_back({memory_, bytes_});
}

}  // namespace headsplat
