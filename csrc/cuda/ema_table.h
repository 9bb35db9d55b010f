// The tensors of one launch of the EMA kernel, passed by value, and the search in them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/arrays.h"

namespace rcgm {
namespace gpu {

constexpr int64_t kEmaChunk = 8192;  // elements a block

struct EmaEntry {
  void* average;
  const void* param;
  void* copy;  // null: none
  int64_t size;
  uint32_t first_block;
  uint8_t average_dtype, param_dtype, copy_dtype;
  bool vectors;  // whether vectors of 4 elements are aligned in all three
};

template <int kCapacity>
struct EmaTable {
  double decay;
  int count;
  EmaEntry entries[kCapacity];
};

// Kernel parameters may take 4 KB, or nearly 32 KB from CUDA 12.1 on.
constexpr int kEmaFew = 96;
#if CUDART_VERSION >= 12010
constexpr int kEmaMany = 800;
static_assert(sizeof(EmaTable<kEmaMany>) <= 32764, "the table does not fit the parameters of a kernel");
#else
constexpr int kEmaMany = kEmaFew;
#endif
static_assert(sizeof(EmaTable<kEmaFew>) <= 4096, "the table does not fit the parameters of a kernel");

// The entry that a block works on: the last whose first block is not after it. Each entry has at least one block.
__host__ __device__ __forceinline__ int entry_of(const EmaEntry* entries, int count, uint32_t block) {
  int first = 0, beyond = count;
  while (beyond - first > 1) {
    const int middle = (first + beyond) / 2;
    if (entries[middle].first_block <= block) {
      first = middle;
    } else {
      beyond = middle;
    }
  }
  return first;
}

}  // namespace gpu
}  // namespace rcgm
