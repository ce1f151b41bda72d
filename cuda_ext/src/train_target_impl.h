// Training pictures from bytes to numbers, for one instruction set.
#pragma once

#include "train_parallel.h"

namespace headsplat {
namespace HEADSPLAT_ISA {

// 16 pixels of red, green, blue and mask, where `kRecolour` on another background than white.
template <bool kRecolour>
HS_FN void unpack_pixels(const uint8_t* rgba, const float* background, float* picture, float* mask) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "red must be the lowest byte of a word");
  // Words and shifts, since the compiler makes vectors of them; of single bytes it does not.
  uint32_t word[kLanes];
  memcpy(word, rgba, sizeof(word));
  float number[4][kLanes];
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < kLanes; ++i) {
      number[k][i] = static_cast<float>(static_cast<int32_t>(word[i] >> (8 * k) & 255));
    }
  }
  // Divided, not multiplied by 1/255, so that white is exactly 1 in every build.
  Wide channel[4];
  for (int k = 0; k < 4; ++k) channel[k] = Wide::load(number[k]) / Wide(255.0f);
  channel[3].store(mask);
  if (kRecolour) {
    // In this order a pixel without person has exactly the background's colour.
    const Wide behind = Wide(1.0f) - channel[3];
    for (int k = 0; k < 3; ++k) channel[k] = (channel[k] - behind) + behind * Wide(background[k]);
  }
  interleave(channel, picture);
}

template <bool kRecolour>
static void unpack_onto(const HsRun& run, int64_t pixels, const uint8_t* rgba, const float* background,
                        float* picture, float* mask) {
  constexpr int64_t kTask = 8192;
  each((pixels + kTask - 1) / kTask, run.threads, [&](int64_t task, int) {
    const int64_t end = least((task + 1) * kTask, pixels);
    int64_t i = task * kTask;
    for (; i + kLanes <= end; i += kLanes) {
      unpack_pixels<kRecolour>(rgba + 4 * i, background, picture + 3 * i, mask + i);
    }
    if (i < end) {
      const size_t rest = static_cast<size_t>(end - i);
      uint8_t bytes[4 * kLanes] = {};
      float colours[3 * kLanes], masks[kLanes];
      memcpy(bytes, rgba + 4 * i, 4 * rest);
      unpack_pixels<kRecolour>(bytes, background, colours, masks);
      memcpy(picture + 3 * i, colours, 3 * rest * sizeof(float));
      memcpy(mask + i, masks, rest * sizeof(float));
    }
  });
}

static void unpack_target(const HsRun& run, int64_t pixels, const uint8_t* rgba, const float* background,
                          float* picture, float* mask) {
  if (background == nullptr) {
    unpack_onto<false>(run, pixels, rgba, background, picture, mask);
  } else {
    unpack_onto<true>(run, pixels, rgba, background, picture, mask);
  }
}

}  // namespace HEADSPLAT_ISA
}  // namespace headsplat
