// What the threads of a sample share while they combine its tensors: numbers of the compute type, in this order.
#pragma once

#include <cuda_runtime.h>

namespace rcgm {
namespace gpu {

// Loads of this many terms are in flight together, with that of the anchor.
constexpr int kAhead = 4;

enum Slot { kActive, kTotal, kScale, kResidualFactor, kPredFactor, kCoefficients };

// Zeros follow the coefficients, so that kAhead of them can always be read.
__host__ __device__ __forceinline__ constexpr int slot_count(int tensors) {
  return kCoefficients + 1 + (tensors - 1 + kAhead - 1) / kAhead * kAhead;
}

}  // namespace gpu
}  // namespace rcgm
