// L1 and SSIM of two pictures with the gradient to the first.
//
// SSIM in differences d = x - y and sums s = x + y, as cuda_ext/src/train_loss_impl.h derives it: four
// windows instead of five, and exact zeros where the pictures are equal.
//
// A block takes a tile of kPixels x kRows pixels with a halo of the window's radius. The window is a
// product, so it runs along the rows and then down the columns; in both, a thread makes kRun results that
// lie next to each other from registers, which takes a third of the reads from shared memory.
#include <math.h>

#include "train_common.cuh"

namespace headsplat {
namespace isa_cuda {
namespace {

constexpr int kChannels = 3;
constexpr int kRadius = 5;
constexpr double kSigma = 1.5;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

constexpr int kPixels = 16, kRows = 16;  // of a tile
constexpr int kRun = 4;
constexpr int kSpan = kRun + 2 * kRadius;              // inputs of kRun results
constexpr int kWidth = kPixels * kChannels;            // floats in a row of a tile
constexpr int kWideRow = kWidth + 2 * kRadius * kChannels;
constexpr int kTallColumn = kRows + 2 * kRadius;
constexpr int kPitch = kWideRow + 1;                   // odd: rows begin in different banks
constexpr int kThreads = kWidth * (kRows / kRun);      // one each kRun results of the second pass
static_assert(kPixels % kRun == 0 && kRows % kRun == 0, "runs must not cross the tile's border");
static_assert(kThreads % kWarp == 0, "block_sum needs whole warps");

struct Window {
  float tap[kRadius + 1];  // from the centre outwards
};

Window make_window() {
  double weight[kRadius + 1], sum = 0;
  for (int i = 0; i <= kRadius; ++i) {
    weight[i] = exp(-0.5 * i * i / (kSigma * kSigma));
    sum += i == 0 ? weight[i] : 2 * weight[i];
  }
  Window window;
  for (int i = 0; i <= kRadius; ++i) window.tap[i] = static_cast<float>(weight[i] / sum);
  return window;
}

// The window over kSpan inputs gives kRun results.
__device__ __forceinline__ void run_window(const Window& window, const float* input, float* result) {
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float* centre = input + i + kRadius;
    float sum = window.tap[0] * centre[0];
#pragma unroll
    for (int t = 1; t <= kRadius; ++t) sum = fmaf(window.tap[t], centre[-t] + centre[t], sum);
    result[i] = sum;
  }
}

struct Pictures {
  const float *image, *target;  // [height, width, 3]
  int64_t height, length;       // length: floats in a row
};

// Where a tile begins: its first row, and its first float in a row.
struct Corner {
  int64_t y, x;
};

__device__ __forceinline__ Corner tile_corner() {
  return {static_cast<int64_t>(blockIdx.y) * kRows, static_cast<int64_t>(blockIdx.x) * kWidth};
}

struct Lines {
  float of[4][kTallColumn][kWidth];  // fields after the pass along rows
};

// The pass along rows: `load(row, at, input)` fills input[F][kSpan] with values kChannels floats apart.
template <int F, class Load>
__device__ __forceinline__ void pass_along_rows(const Window& window, Lines& lines, const Load& load) {
  constexpr int kRowRuns = kWidth / kRun;
  for (int work = threadIdx.x; work < kTallColumn * kRowRuns; work += kThreads) {
    const int row = work / kRowRuns, run = work % kRowRuns;
    const int at = run / kChannels * (kRun * kChannels) + run % kChannels;
    float input[F][kSpan], result[kRun];
    load(row, at, input);
#pragma unroll
    for (int f = 0; f < F; ++f) {
      run_window(window, input[f], result);
#pragma unroll
      for (int i = 0; i < kRun; ++i) lines.of[f][row][at + i * kChannels] = result[i];
    }
  }
  __syncthreads();
}

// The pass down columns: this thread's kRun results, one below the other, of each field.
template <int F>
__device__ __forceinline__ void pass_down_columns(const Window& window, const Lines& lines,
                                                  float field[F][kRun]) {
  const int column = static_cast<int>(threadIdx.x) % kWidth;
  const int top = static_cast<int>(threadIdx.x) / kWidth * kRun;
#pragma unroll
  for (int f = 0; f < F; ++f) {
    float input[kSpan];
#pragma unroll
    for (int i = 0; i < kSpan; ++i) input[i] = lines.of[f][top + i][column];
    run_window(window, input, field[f]);
  }
}

// Derivatives of the sum of 1 - SSIM to the windowed V_d, V_s and to the means, [height, width, 3] each.
struct Slopes {
  float *to_vd, *to_vs, *to_mean;
};

// The tiles' sums: parts[0, tile] of |d|, parts[1, tile] of 1 - SSIM. Slopes are null where not wanted.
__global__ void __launch_bounds__(kThreads)
    loss_kernel(Pictures pictures, Window window, double* parts, Slopes slopes) {
  __shared__ float d_tile[kTallColumn][kPitch], s_tile[kTallColumn][kPitch];
  __shared__ Lines lines;
  __shared__ double warp_sums[kThreads / kWarp];
  const Corner corner = tile_corner();
  for (int i = threadIdx.x; i < kTallColumn * kWideRow; i += kThreads) {
    const int row = i / kWideRow, column = i % kWideRow;
    const int64_t y = corner.y + row - kRadius, x = corner.x + column - kRadius * kChannels;
    const bool inside = y >= 0 && y < pictures.height && x >= 0 && x < pictures.length;
    const int64_t at = y * pictures.length + x;
    const float a = inside ? pictures.image[at] : 0.0f, b = inside ? pictures.target[at] : 0.0f;
    d_tile[row][column] = a - b;
    s_tile[row][column] = a + b;
  }
  __syncthreads();
  pass_along_rows<4>(window, lines, [&](int row, int at, float input[4][kSpan]) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const float d = d_tile[row][at + i * kChannels], s = s_tile[row][at + i * kChannels];
      input[0][i] = d;
      input[1][i] = d * d;
      input[2][i] = s;
      input[3][i] = s * s;
    }
  });
  float field[4][kRun];
  pass_down_columns<4>(window, lines, field);

  const int column = static_cast<int>(threadIdx.x) % kWidth;
  const int top = static_cast<int>(threadIdx.x) / kWidth * kRun;
  const int64_t x = corner.x + column;
  float l1 = 0, ssim = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const int64_t y = corner.y + top + i;
    if (y >= pictures.height || x >= pictures.length) continue;
    const float md = field[0][i], ms = field[2][i], md2 = md * md;
    const float vd = field[1][i] - md2, vs = field[3][i] - ms * ms;
    const float inverse1 = 1 / (0.5f * (ms * ms + md2) + kC1);
    const float inverse2 = 1 / (0.5f * (vs + vd) + kC2);
    const float a = md2 * inverse1, b = vd * inverse2;
    const float not_a = 1 - a, not_b = 1 - b;
    l1 += fabsf(d_tile[top + i + kRadius][column + kRadius * kChannels]);
    ssim += a * not_b + b;
    if (slopes.to_vd == nullptr) continue;
    // da = (2 - a) m_d / B1 dm_d - a m_s / B1 dm_s,  db = (1 - b/2) / B2 dV_d - b/2 / B2 dV_s,
    // and a variance is a windowed square less the square of a mean.
    const float scaled = not_a * inverse2, half_b = 0.5f * b;
    const float p = scaled - scaled * half_b, q = -(scaled * half_b);
    const float slope = not_b * inverse1 * ((2 - a) * md - a * ms);
    const int64_t at = y * pictures.length + x;
    slopes.to_vd[at] = p;
    slopes.to_vs[at] = q;
    slopes.to_mean[at] = slope - 2 * (md * p + ms * q);
  }
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  const int64_t tiles = static_cast<int64_t>(gridDim.x) * gridDim.y;
  const double l1_sum = block_sum<kThreads>(l1, warp_sums);
  const double ssim_sum = block_sum<kThreads>(ssim, warp_sums);
  if (threadIdx.x == 0) {
    parts[tile] = l1_sum;
    parts[tiles + tile] = ssim_sum;
  }
}

// What to make of the tiles' sums.
struct Finish {
  const double* parts;  // [2, tiles]
  int64_t tiles;
  double l1_scale, ssim_scale;
  float* loss;
};

__device__ void finish_loss(const Finish& finish, double* warp_sums) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < finish.tiles; i += kThreads) {
    sum += finish.l1_scale * finish.parts[i] + finish.ssim_scale * finish.parts[finish.tiles + i];
  }
  sum = block_sum<kThreads>(sum, warp_sums);
  if (threadIdx.x == 0) *finish.loss = static_cast<float>(sum);
}

__global__ void __launch_bounds__(kThreads) finish_kernel(Finish finish) {
  __shared__ double warp_sums[kThreads / kWarp];
  finish_loss(finish, warp_sums);
}

// The gradient; one of the blocks finishes the loss, which saves a launch.
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Pictures pictures, Window window, Slopes slopes, Finish finish, float* v_image) {
  __shared__ Lines lines;
  __shared__ double warp_sums[kThreads / kWarp];
  const Corner corner = tile_corner();
  // Unlike the pictures, slopes are read here for the first time, each by 26 / 16 threads: no tile.
  pass_along_rows<3>(window, lines, [&](int row, int at, float input[3][kSpan]) {
    const int64_t y = corner.y + row - kRadius;
    const bool row_inside = y >= 0 && y < pictures.height;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const int64_t x = corner.x + at + (i - kRadius) * kChannels;
      const bool inside = row_inside && x >= 0 && x < pictures.length;
      const int64_t from = y * pictures.length + x;
      input[0][i] = inside ? slopes.to_vd[from] : 0.0f;
      input[1][i] = inside ? slopes.to_vs[from] : 0.0f;
      input[2][i] = inside ? slopes.to_mean[from] : 0.0f;
    }
  });
  float field[3][kRun];
  pass_down_columns<3>(window, lines, field);
  const int column = static_cast<int>(threadIdx.x) % kWidth;
  const int top = static_cast<int>(threadIdx.x) / kWidth * kRun;
  const int64_t x = corner.x + column;
  const float l1_scale = static_cast<float>(finish.l1_scale);
  const float ssim_scale = static_cast<float>(finish.ssim_scale);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const int64_t y = corner.y + top + i;
    if (y >= pictures.height || x >= pictures.length) continue;
    const int64_t at = y * pictures.length + x;
    const float d = pictures.image[at] - pictures.target[at];
    const float s = pictures.image[at] + pictures.target[at];
    const float pull = 2 * (d * field[0][i] + s * field[1][i]) + field[2][i];
    const float sign = (d > 0 ? l1_scale : 0.0f) - (d < 0 ? l1_scale : 0.0f);
    v_image[at] = ssim_scale * pull + sign;
  }
  if (blockIdx.x == 0 && blockIdx.y == 0) finish_loss(finish, warp_sums);
}

struct Grid {
  int64_t across, down;
};

Grid grid_of(int64_t height, int64_t width) { return {parts_of(width, kPixels), parts_of(height, kRows)}; }

}  // namespace
}  // namespace isa_cuda
}  // namespace headsplat

int64_t hs_cuda_l1_ssim_bytes(int64_t height, int64_t width, int32_t with_gradient) {
  using namespace headsplat::isa_cuda;
  const Grid grid = grid_of(height, width);
  const int64_t slopes = with_gradient != 0 ? 3 * height * width * kChannels : 0;
  return 2 * grid.across * grid.down * static_cast<int64_t>(sizeof(double)) +
         slopes * static_cast<int64_t>(sizeof(float));
}

int32_t hs_cuda_l1_ssim(int64_t height, int64_t width, const float* image, const float* target,
                        double ssim_weight, float* loss, float* v_image, void* scratch, void* stream) {
  using namespace headsplat::isa_cuda;
  const Grid grid = grid_of(height, width);
  if (height < 1 || width < 1 || grid.down > kMostBlocksDown) return HS_UNSUPPORTED;
  const int64_t length = width * kChannels, tiles = grid.across * grid.down;
  const double count = static_cast<double>(height) * static_cast<double>(length);
  const Pictures pictures{image, target, height, length};
  const Window window = make_window();
  double* parts = static_cast<double*>(scratch);
  float* plane = reinterpret_cast<float*>(parts + 2 * tiles);
  const int64_t size = height * length;
  const Slopes slopes =
      v_image == nullptr ? Slopes{nullptr, nullptr, nullptr} : Slopes{plane, plane + size, plane + 2 * size};
  const Finish finish{parts, tiles, (1 - ssim_weight) / count, ssim_weight / count, loss};
  const dim3 blocks(static_cast<unsigned>(grid.across), static_cast<unsigned>(grid.down));
  const dim3 threads(kThreads);
  HS_LAUNCH(loss_kernel, blocks, threads, as_stream(stream), pictures, window, parts, slopes);
  if (v_image == nullptr) {
    HS_LAUNCH(finish_kernel, dim3(1), threads, as_stream(stream), finish);
  } else {
    HS_LAUNCH(gradient_kernel, blocks, threads, as_stream(stream), pictures, window, slopes, finish,
                  v_image);
  }
  return HS_OK;
}
