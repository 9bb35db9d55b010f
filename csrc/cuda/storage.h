// Which storage (elements.cuh) serves the tensors of a call. Host code.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "../common/arrays.h"

namespace rcgm {
namespace gpu {

// All tensors of one dtype with 16-byte accesses; any mix of dtypes with vectors of 16 bytes of the compute type; or any mix,
// an element at a time.
enum class Storage {
  kFloat32,
  kFloat16,
  kBFloat16,
  kMixed,
  kMixedScalar,
  kMixedDouble,
  kMixedDoubleScalar
};

inline int width_of(Storage storage) {
  switch (storage) {
    case Storage::kFloat16:
    case Storage::kBFloat16: return 8;
    case Storage::kFloat32:
    case Storage::kMixed: return 4;
    case Storage::kMixedDouble: return 2;
    default: return 1;
  }
}

// The storage that takes the same tensors an element at a time.
inline Storage scalar_storage(Storage storage) {
  return storage == Storage::kMixedDouble ? Storage::kMixedDoubleScalar : Storage::kMixedScalar;
}

inline int element_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

inline Array as_array(const MutableArray& a) { return {a.data, a.stride, a.dtype}; }

// The tensors of a call; those without data do not count.
class Tensors {
 public:
  Tensors(std::initializer_list<Array> arrays, const Array* more = nullptr, int count = 0) : arrays_(arrays) {
    arrays_.insert(arrays_.end(), more, more + count);
  }

  bool all_are(DType dtype) const {
    return every([&](const Array& a) { return a.dtype == dtype; });
  }
  bool any_is(DType dtype) const {
    return !every([&](const Array& a) { return a.dtype != dtype; });
  }
  // Whether every vector of `width` elements, counted from the beginning of a sample, is aligned to its size.
  bool fit(int width, int64_t batch) const {
    return every([&](const Array& a) {
      return reinterpret_cast<uintptr_t>(a.data) % uintptr_t(width * element_bytes(a.dtype)) == 0 &&
             (batch == 1 || a.stride % width == 0);
    });
  }

  // The fastest storage that fits.
  Storage storage(int64_t batch) const {
    if (all_are(DType::kBFloat16) && fit(8, batch)) return Storage::kBFloat16;
    if (all_are(DType::kFloat16) && fit(8, batch)) return Storage::kFloat16;
    if (all_are(DType::kFloat32) && fit(4, batch)) return Storage::kFloat32;
    return mixed_storage(batch);
  }
  // The fastest one for any mix of dtypes.
  Storage mixed_storage(int64_t batch) const {
    if (any_is(DType::kFloat64)) return fit(2, batch) ? Storage::kMixedDouble : Storage::kMixedDoubleScalar;
    return fit(4, batch) ? Storage::kMixed : Storage::kMixedScalar;
  }

 private:
  template <typename Test>
  bool every(const Test& test) const {
    return std::all_of(arrays_.begin(), arrays_.end(), [&](const Array& a) { return !a.data || test(a); });
  }

  std::vector<Array> arrays_;
};

}  // namespace gpu
}  // namespace rcgm
