// Reading per-sample numbers of either dtype on the device.
#pragma once

#include "kernels.h"

namespace rcgm {
namespace gpu {

// A number that has been asked for. Nothing waits for it before value(), so several are under way together.
class Asked {
 public:
  __device__ __forceinline__ Asked() : given_(false), float64_(false), bits_{0, 0} {}
  __device__ __forceinline__ Asked(const Scalars& s, int row, int64_t sample)
      : given_(s.data != nullptr), float64_(s.float64), bits_{0, 0} {
    if (!given_) return;
    const int64_t index = row * s.row_stride + sample * s.stride;
    if (float64_) {
      bits_ = __ldg(static_cast<const uint2*>(s.data) + index);
    } else {
      bits_.x = __ldg(static_cast<const unsigned*>(s.data) + index);
    }
  }
  __device__ __forceinline__ double value() const {
    if (!given_) return 1;
    return float64_ ? __hiloint2double(int(bits_.y), int(bits_.x)) : double(__uint_as_float(bits_.x));
  }

 private:
  bool given_, float64_;
  uint2 bits_;
};

__device__ __forceinline__ double scalar(const Scalars& s, int row, int64_t sample) { return Asked(s, row, sample).value(); }

}  // namespace gpu
}  // namespace rcgm
