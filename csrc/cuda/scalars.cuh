// Reading per-sample numbers of either dtype on the device.
#pragma once

#include "kernels.h"

namespace rcgm {
namespace gpu {

__device__ __forceinline__ double scalar(const Scalars& s, int row, int64_t sample) {
  if (!s.data) return 1;
  const int64_t index = row * s.row_stride + sample * s.stride;
  return s.float64 ? __ldg(static_cast<const double*>(s.data) + index)
                   : double(__ldg(static_cast<const float*>(s.data) + index));
}

}  // namespace gpu
}  // namespace rcgm
