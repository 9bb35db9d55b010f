// The shared formulas, compiled for host and device.
#pragma once

#include <cuda_runtime.h>
#include <math.h>

#include "../common/arrays.h"

#define RCGM_FN __host__ __device__ __forceinline__

namespace rcgm {
namespace gpu {
#include "../common/formulas.h"
}  // namespace gpu
}  // namespace rcgm
