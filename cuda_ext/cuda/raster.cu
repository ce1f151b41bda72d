// The C interface of headsplat_cuda.h: what is refused, and the order of the stages.
#include "raster.cuh"

namespace {

using namespace headsplat::isa_cuda;

int32_t code_of(cudaError_t error) { return error == cudaSuccess ? HS_OK : HS_CUDA_ERROR - (int32_t)error; }

int32_t refuse(const HsScene& s, int64_t capacity, int32_t backward) {
  constexpr int64_t most = 0x7fffff00;  // indices of 32 bits, with room to round up to whole blocks
  if (capacity < 0 || capacity > most) return HS_TOO_MANY_PAIRS;
  if (s.width < 1 || s.height < 1 || s.width > 65535 || s.height > 65535) return HS_UNSUPPORTED;
  if (tiles(s) > kMostTiles) return HS_UNSUPPORTED;
  if (s.count < 0 || s.count > most || s.channels < 0 || s.channels > 4096) return HS_UNSUPPORTED;
  if (backward != HS_CUDA_BACKWARD_WARP && backward != HS_CUDA_BACKWARD_GAUSSIAN) return HS_UNSUPPORTED;
  return HS_OK;
}

cudaError_t forward(const HsScene& s, int64_t capacity, int32_t backward, Record* records, Box* boxes, void* memory,
                    void* scratch_memory, const HsPicture& picture, unsigned long long* counts,
                    cudaStream_t stream) {
  size_t storage = 0;
  HS_TRY(storage_bytes(s, capacity, &storage));
  const State state(s, capacity, backward, memory);
  const ForwardScratch scratch(s, capacity, storage, scratch_memory);
  HS_TRY(cudaMemsetAsync(counts, 0, 4 * sizeof(*counts), stream));
  HS_TRY(project_all(s, records, boxes, scratch, counts, stream));
  HS_TRY(sort_and_bin(s, capacity, records, boxes, scratch, storage, state, counts, stream));
  return blend(s, records, state, picture, stream);
}

}  // namespace

const char* hs_cuda_message(int32_t code) {
  if (code <= HS_CUDA_ERROR) return cudaGetErrorString((cudaError_t)(HS_CUDA_ERROR - code));
  switch (code) {
    case HS_OK:
      return "no error";
    case HS_UNSUPPORTED:
      return "the CUDA rasterizer draws 1 to 65534 tiles of 16x16 pixels, at most 65535 pixels a side, 4096 channels "
             "and 2^31 Gaussians; draw a smaller picture";
    case HS_TOO_MANY_PAIRS:
      return "room was asked for more than 2^31 pairs of Gaussian and tile; are scales or the picture far too large?";
    default:
      return "unknown error";
  }
}

int32_t hs_cuda_devices(void) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return error == cudaSuccess ? count : code_of(error);
}

int32_t hs_cuda_use_device(int32_t device) { return code_of(cudaSetDevice(device)); }

int64_t hs_cuda_state_bytes(const HsScene* scene, int64_t capacity, int32_t backward) {
  const int32_t refused = refuse(*scene, capacity, backward);
  return refused != HS_OK ? refused : State(*scene, capacity, backward, nullptr).bytes;
}

int64_t hs_cuda_scratch_bytes(const HsScene* scene, int64_t capacity) {
  const int32_t refused = refuse(*scene, capacity, HS_CUDA_BACKWARD_WARP);
  if (refused != HS_OK) return refused;
  size_t storage = 0;
  const cudaError_t error = storage_bytes(*scene, capacity, &storage);
  if (error != cudaSuccess) return code_of(error);
  const int64_t there = ForwardScratch(*scene, capacity, storage, nullptr).bytes;
  const int64_t back = BackwardScratch(*scene, capacity, nullptr).bytes;
  return there > back ? there : back;
}

int32_t hs_cuda_rasterize(const HsScene* scene, int64_t capacity, int32_t backward, float* records, uint16_t* boxes,
                          void* state, void* scratch, const HsPicture* picture, int64_t* counts, void* stream) {
  const int32_t refused = refuse(*scene, capacity, backward);
  if (refused != HS_OK) return refused;
  return code_of(forward(*scene, capacity, backward, reinterpret_cast<Record*>(records), reinterpret_cast<Box*>(boxes),
                         state, scratch, *picture, reinterpret_cast<unsigned long long*>(counts),
                         static_cast<cudaStream_t>(stream)));
}

int32_t hs_cuda_rasterize_backward(const HsScene* scene, int64_t capacity, int32_t backward, const float* records,
                                   const void* state_memory, void* scratch_memory, const HsPicture* picture,
                                   const HsGradients* gradients, void* stream) {
  const int32_t refused = refuse(*scene, capacity, backward);
  if (refused != HS_OK) return refused;
  const State state(*scene, capacity, backward, const_cast<void*>(state_memory));
  const BackwardScratch scratch(*scene, capacity, scratch_memory);
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  const cudaError_t error = blend_backward(*scene, backward, reinterpret_cast<const Record*>(records), state, *picture,
                                           *gradients, scratch.rows, on);
  return code_of(error != cudaSuccess ? error : project_backward(*scene, state, *gradients, scratch, on));
}
