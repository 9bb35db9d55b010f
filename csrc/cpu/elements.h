// Storage dtypes of the CPU kernels: chunks of them are converted to the compute type and back.
//
// Included inside the namespace of one instruction set, like formulas.h. All loops vectorise: conversions are integer
// arithmetic, or the instruction where the set has one.

typedef uint16_t Half;
struct BFloat16 {
  uint16_t bits;
};

// Two bfloat16 as they lie in memory; an address of bfloat16 need not be aligned to four bytes.
struct __attribute__((packed, aligned(2), may_alias)) Word {
  uint32_t bits;
};

template <typename Storage>
constexpr bool kIsBFloat16 = false;
template <>
constexpr bool kIsBFloat16<BFloat16> = true;

RCGM_FN float widen(BFloat16 value) { return bits_of<float>(uint32_t(value.bits) << 16); }

RCGM_FN float widen(Half value) {
  const uint32_t magnitude = uint32_t(value & 0x7fffu) << 13, sign = uint32_t(value & 0x8000u) << 16;
  const float scaled = bits_of<float>(magnitude) * 0x1p112f;  // exact, subnormals too
  const uint32_t special = magnitude | 0x7f800000u;
  return bits_of<float>((magnitude >= 0x0f800000u ? special : bits_of<uint32_t>(scaled)) | sign);
}

// The bits of `value` rounded to nearest even; the upper half is the bfloat16.
RCGM_FN uint32_t rounded_bfloat16(float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return value != value ? bits | 0x400000u : rounded;
}

RCGM_FN BFloat16 narrow_bfloat16(float value) { return BFloat16{uint16_t(rounded_bfloat16(value) >> 16)}; }

RCGM_FN Half narrow_half(float value) {
  const uint32_t bits = bits_of<uint32_t>(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const uint32_t subnormal = bits_of<uint32_t>(bits_of<float>(magnitude) + 0.5f) - bits_of<uint32_t>(0.5f);
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return Half((magnitude >= 0x477ff000u ? large : finite) | sign);
}

template <typename T, typename Storage>
RCGM_FN T load(const Storage* data, int64_t i) {
  return T(data[i]);
}
template <typename T>
RCGM_FN T load(const BFloat16* data, int64_t i) {
  return T(widen(data[i]));
}
template <typename T>
RCGM_FN T load(const Half* data, int64_t i) {
  return T(widen(data[i]));
}

template <typename T>
RCGM_FN void store(double* data, int64_t i, T value) {
  data[i] = double(value);
}
template <typename T>
RCGM_FN void store(float* data, int64_t i, T value) {
  data[i] = float(value);
}
template <typename T>
RCGM_FN void store(BFloat16* data, int64_t i, T value) {
  data[i] = narrow_bfloat16(float(value));
}
template <typename T>
RCGM_FN void store(Half* data, int64_t i, T value) {
  data[i] = narrow_half(float(value));
}

RCGM_FN int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Elements 2 i and 2 i + 1.
RCGM_FN float low_of(const BFloat16* data, int64_t i) {
  return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits << 16);
}
RCGM_FN float high_of(const BFloat16* data, int64_t i) {
  return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits & 0xffff0000u);
}
RCGM_FN void store_word(BFloat16* data, int64_t i, float low, float high) {
  const uint32_t high_bits = rounded_bfloat16(high) & 0xffff0000u;
  reinterpret_cast<Word*>(data)[i].bits = high_bits | (rounded_bfloat16(low) >> 16);
}

// A chunk of bfloat16 may be held in split order: first the elements of even index, then those of odd index. Two neighbours lie
// in one word. A shift and a mask turn its halves into floats, without a shuffle, and the way back is the same. Elementwise
// arithmetic gives the same results in this order if all chunks of a calculation are split; their length must be even.
template <typename T, typename Storage>
RCGM_FN void load_values(const Storage* data, int64_t length, bool, T* values) {
  for (int64_t i = 0; i < length; ++i) values[i] = load<T>(data, i);
}
RCGM_FN void load_values(const BFloat16* data, int64_t length, bool split, float* values) {
  if (!split) {
    for (int64_t i = 0; i < length; ++i) values[i] = load<float>(data, i);
    return;
  }
  const int64_t half = length / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    values[i] = low_of(data, i);
    values[half + i] = high_of(data, i);
  }
}

template <typename T, typename Storage>
RCGM_FN void store_values(Storage* data, int64_t length, bool, const T* values) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) store<T>(data, i, values[i]);
}
template <typename T>
RCGM_FN void store_values(BFloat16* data, int64_t length, bool split, const T* values) {
  if (!split) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) store<T>(data, i, values[i]);
    return;
  }
  const int64_t half = length / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) store_word(data, i, float(values[i]), float(values[half + i]));
}

// Call `body(typed pointer)` with the element type that `dtype` names.
template <typename Body>
RCGM_FN void with_type(DType dtype, const void* data, const Body& body) {
  switch (dtype) {
    case DType::kFloat64: return body(static_cast<const double*>(data));
    case DType::kFloat32: return body(static_cast<const float*>(data));
    case DType::kFloat16: return body(static_cast<const Half*>(data));
    case DType::kBFloat16: return body(static_cast<const BFloat16*>(data));
  }
}
template <typename Body>
RCGM_FN void with_type(DType dtype, void* data, const Body& body) {
  switch (dtype) {
    case DType::kFloat64: return body(static_cast<double*>(data));
    case DType::kFloat32: return body(static_cast<float*>(data));
    case DType::kFloat16: return body(static_cast<Half*>(data));
    case DType::kBFloat16: return body(static_cast<BFloat16*>(data));
  }
}

RCGM_FN const void* element(const Array& array, int64_t sample, int64_t offset) {
  return static_cast<const char*>(array.data) + (sample * array.stride + offset) * bytes_of(array.dtype);
}
RCGM_FN void* element(const MutableArray& array, int64_t sample, int64_t offset) {
  return static_cast<char*>(array.data) + (sample * array.stride + offset) * bytes_of(array.dtype);
}
