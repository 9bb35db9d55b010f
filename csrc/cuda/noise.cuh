// The shared noise, compiled for the device.
#pragma once

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include <cstdint>

#define RCGM_FN __device__ __forceinline__
#define RCGM_FMA(a, b, c) fmaf(a, b, c)

namespace rcgm {
namespace gpu {
#include "../common/bits.h"
#include "../common/noise.h"
}  // namespace gpu
}  // namespace rcgm

#undef RCGM_FN
