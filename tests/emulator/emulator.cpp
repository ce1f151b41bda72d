// The scheduler behind emulator.h: fibers, barriers, and what is wrong in words.
#include "emulator.h"

#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <random>
#include <string>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define EMULATED_SANITIZER 1
#else
#define EMULATED_SANITIZER 0
#endif

namespace emulator {

Place place;

namespace {

constexpr size_t kStack = 256 * 1024;
constexpr unsigned kMostThreads = 1024;

struct Site {
  const char* name;
  const char* file;
  int line;
};

struct Context {
  ucontext_t first;
  jmp_buf jump;
  bool started = false;
  char* stack = nullptr;
  void* fake_stack = nullptr;
};

struct Fiber : Context {
  uint3 thread;
  unsigned number;  // in its block
  bool waiting, done;
  Site site;  // where it waits
};

// One set of lanes that meets at collectives; results of two rounds, since a lane may be a round ahead.
struct Meeting {
  uint32_t mask, arrived = 0;
  unsigned round = 0;
  Site site;
  Collective results[2];
};

Context scheduler;
Fiber fibers[kMostThreads];
Fiber* current;
const std::function<void()>* job;
std::mt19937_64 random_bits(0);
std::string message;
bool failed;
#if EMULATED_SANITIZER
const void* main_bottom;  // the scheduler's stack
size_t main_size;
#endif

// The block that runs.
unsigned threads, live;
std::vector<Fiber*> runnable;
std::vector<Meeting> meetings[kMostThreads / 32];
uint32_t live_lanes[kMostThreads / 32];
unsigned arrived, barrier_round;
Site barrier_site;
int barrier_count[2], barrier_and[2], barrier_or[2];

// Leaves `from` and goes on in `to`; returns when somebody goes back to `from`.
__attribute__((noinline)) void go(Context& from, Context& to) {
#if EMULATED_SANITIZER
  const bool to_fiber = to.stack != nullptr;
  __sanitizer_start_switch_fiber(&from.fake_stack, to_fiber ? to.stack : main_bottom, to_fiber ? kStack : main_size);
  to.started = true;
  swapcontext(&from.first, &to.first);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  // swapcontext asks the kernel for the signal mask at every switch; only a fiber's first entry needs it.
  if (_setjmp(from.jump) != 0) return;
  if (to.started) _longjmp(to.jump, 1);
  to.started = true;
  setcontext(&to.first);
#endif
}

std::string at(const Site& site) {
  return std::string(site.name) + " (" + site.file + ":" + std::to_string(site.line) + ")";
}

std::string of_thread(const Fiber& fiber) {
  return "thread " + std::to_string(fiber.number) + " of block (" + std::to_string(place.block.x) + ", " +
         std::to_string(place.block.y) + ", " + std::to_string(place.block.z) + ")";
}

// Ends the launch: no fiber of this block runs again.
[[noreturn]] void fail(const std::string& what) {
  message = what;
  failed = true;
  Context lost;
  lost.stack = current->stack;
  go(lost, scheduler);
  __builtin_unreachable();
}

void next_fiber(Context& from) {
  if (runnable.empty()) {
    if (live == 0) {
      go(from, scheduler);
      return;
    }
    std::string what = "a block is stuck:";
    int shown = 0;
    for (unsigned i = 0; i < threads && shown < 3; ++i) {
      if (fibers[i].done || !fibers[i].waiting) continue;
      if (shown > 0 && fibers[i].site.line == fibers[i - 1].site.line) continue;
      what += " " + of_thread(fibers[i]) + " waits at " + at(fibers[i].site) + ";";
      ++shown;
    }
    fail(what + " not all the threads that they wait for get there");
  }
  const size_t pick = random_bits() % runnable.size();
  Fiber* next = runnable[pick];
  runnable[pick] = runnable.back();
  runnable.pop_back();
  Context& here = from;
  current = next;
  place.thread = next->thread;
  if (static_cast<Context*>(next) != &here) go(here, *next);
}

void wake(Fiber& fiber) {
  if (!fiber.waiting) return;
  fiber.waiting = false;
  runnable.push_back(&fiber);
}

void wait(const Site& site) {
  Fiber* self = current;
  self->waiting = true;
  self->site = site;
  next_fiber(*self);
}

void release_barrier() {
  arrived = 0;
  ++barrier_round;
  const int next = barrier_round & 1;
  barrier_count[next] = barrier_or[next] = 0;
  barrier_and[next] = 1;
  for (unsigned i = 0; i < threads; ++i) {
    if (!fibers[i].done && strcmp(fibers[i].site.name, "__syncthreads") == 0) wake(fibers[i]);
  }
}

void release(Meeting& meeting, unsigned warp) {
  meeting.results[meeting.round & 1].participants = meeting.arrived;
  const uint32_t lanes = meeting.arrived;
  meeting.arrived = 0;
  ++meeting.round;
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) != 0) wake(fibers[32 * warp + i]);
  }
}

void finish_thread() {
  Fiber* self = current;
  const unsigned warp = self->number / 32;
  self->done = true;
  --live;
  live_lanes[warp] &= ~(1u << self->number % 32);
  // Those who wait do so for threads that are still there (CUDA: "all non-exited threads").
  if (live > 0 && arrived == live) release_barrier();
  for (Meeting& meeting : meetings[warp]) {
    if (meeting.arrived != 0 && meeting.arrived == (meeting.mask & live_lanes[warp])) release(meeting, warp);
  }
  next_fiber(*self);
}

void enter() {
#if EMULATED_SANITIZER
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (main_bottom == nullptr) {  // the first fiber of all comes from the scheduler
    main_bottom = bottom;
    main_size = size;
  }
#endif
  for (;;) {
    (*job)();
    finish_thread();
  }
}

void prepare_fibers(unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    if (fibers[i].stack != nullptr) continue;
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fibers[i].stack = static_cast<char*>(memory);
  }
}

// A fiber that a failed launch left in the middle of its work starts anew.
void reset_fiber(Fiber& fiber) {
  if (fiber.started) return;
  getcontext(&fiber.first);
  fiber.first.uc_stack.ss_sp = fiber.stack;
  fiber.first.uc_stack.ss_size = kStack;
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, enter, 0);
}

void run_block(dim3 block) {
  threads = live = block.x * block.y * block.z;
  runnable.clear();
  arrived = barrier_round = 0;
  barrier_count[0] = barrier_or[0] = 0;
  barrier_and[0] = 1;
  for (unsigned warp = 0; warp < (threads + 31) / 32; ++warp) {
    meetings[warp].clear();
    const unsigned lanes = std::min(32u, threads - 32 * warp);
    live_lanes[warp] = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
  }
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    reset_fiber(fiber);
    fiber.number = i;
    fiber.thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    fiber.waiting = fiber.done = false;
    fiber.site = {"", "", 0};
    runnable.push_back(&fiber);
  }
  next_fiber(scheduler);
}

}  // namespace

unsigned lane() { return current->number % 32; }

cudaError_t run_grid(dim3 grid, dim3 block, const std::function<void()>& work) {
  const unsigned count = block.x * block.y * block.z;
  if (count == 0 || count > kMostThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
      grid.z > 65535) {
    message = "a launch of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
              std::to_string(grid.z) + " blocks of " + std::to_string(count) + " threads is beyond what CUDA takes";
    return cudaErrorInvalidConfiguration;
  }
#if defined(__SSE2__)
  // As nvcc's -ftz=true: denormals count as zero.
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040u);
#endif
  prepare_fibers(count);
  scheduler.started = true;
  job = &work;
  failed = false;
  place.threads = block;
  place.blocks = grid;
  std::vector<uint64_t> order((uint64_t)grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), uint64_t(0));
  std::shuffle(order.begin(), order.end(), random_bits);
  for (const uint64_t index : order) {
    place.block = {(unsigned)(index % grid.x), (unsigned)(index / grid.x % grid.y),
                   (unsigned)(index / ((uint64_t)grid.x * grid.y))};
    run_block(block);
    if (failed) break;
  }
  if (failed) {
    for (unsigned i = 0; i < count; ++i) fibers[i].started = false;
  }
#if defined(__SSE2__)
  _mm_setcsr(before);
#endif
  return failed ? cudaErrorUnknown : cudaSuccess;
}

const Collective& collective(uint32_t mask, uint64_t value, const char* name, const char* file, int line) {
  const Site site = {name, file, line};
  const unsigned warp = current->number / 32, own = current->number % 32;
  if ((mask >> own & 1) == 0) {
    fail(of_thread(*current) + " is not in the mask that it gives to " + at(site));
  }
  Meeting* meeting = nullptr;
  for (Meeting& m : meetings[warp]) {
    if (m.mask == mask) meeting = &m;
    if (m.mask != mask && m.arrived != 0 && (m.mask & mask) != 0) {
      fail("lanes of a warp name different masks at " + at(m.site) + " and at " + at(site) + " (" +
           of_thread(*current) + ")");
    }
  }
  if (meeting == nullptr) {
    // References into the vector are held by waiting lanes: room for all sets that a kernel may name.
    if (meetings[warp].capacity() < 64) meetings[warp].reserve(64);
    if (meetings[warp].size() == 64) fail("more than 64 different masks in one warp at " + at(site));
    meetings[warp].emplace_back();
    meeting = &meetings[warp].back();
    meeting->mask = mask;
  }
  if (meeting->arrived != 0 && (meeting->site.line != line || strcmp(meeting->site.file, file) != 0)) {
    fail("lanes of a warp meet at different places: " + at(meeting->site) + " and " + at(site) + " (" +
         of_thread(*current) + ")");
  }
  meeting->site = site;
  Collective& result = meeting->results[meeting->round & 1];
  result.values[own] = value;
  meeting->arrived |= 1u << own;
  if (meeting->arrived == (mask & live_lanes[warp])) {
    release(*meeting, warp);
  } else {
    wait(site);
  }
  return result;
}

int barrier(int predicate, int operation, const char* file, int line) {
  const Site site = {"__syncthreads", file, line};
  if (arrived != 0 && (barrier_site.line != line || strcmp(barrier_site.file, file) != 0)) {
    fail("threads of a block wait at different barriers: " + at(barrier_site) + " and " + at(site) + " (" +
         of_thread(*current) + ")");
  }
  barrier_site = site;
  const int round = barrier_round & 1;
  barrier_count[round] += predicate;
  barrier_and[round] &= predicate;
  barrier_or[round] |= predicate;
  if (++arrived == live) {
    release_barrier();
  } else {
    wait(site);
  }
  return operation == 0 ? barrier_count[round] : operation == 1 ? barrier_and[round] : barrier_or[round];
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return emulator::message.empty() ? "unknown error" : emulator::message.c_str();
}

#define EMULATOR_API extern "C" __attribute__((visibility("default")))

EMULATOR_API void hs_emulator_seed(uint64_t seed) { emulator::random_bits.seed(seed); }
EMULATOR_API const char* hs_emulator_message() { return emulator::message.c_str(); }
