// Storage dtypes: vectors of elements between memory, registers and the compute type.
//
// A kernel is a template over one of these storages:
//   Uniform<S, N>  every tensor is S (float, __half, __nv_bfloat16); float arithmetic; N elements fill a 16-byte access
//   Mixed<T, N>    every tensor says its dtype at run time; arithmetic in T; N elements of T fill a 16-byte access, and
//                  narrower ones are read 8 or 4 bytes at a time. N = 1 is for tensors that no vector access fits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "storage.h"

namespace rcgm {
namespace gpu {

__device__ __forceinline__ int log_bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 3 : dtype == DType::kFloat32 ? 2 : 1;
}

// Bits of a vector as they lie in memory, before they are converted: loads in flight cost no more registers than that.
template <int kBytes>
struct Bits {
  static constexpr int kCount = (kBytes + 3) / 4;
  uint32_t word[kCount];
};

template <bool kReadOnly, typename Word>
__device__ __forceinline__ Word read_word(const void* from) {
  if constexpr (kReadOnly) return __ldg(static_cast<const Word*>(from));
  return *static_cast<const Word*>(from);
}

template <int kBytes, bool kReadOnly, int kRoom>
__device__ __forceinline__ void read_bits(const void* from, uint32_t (&word)[kRoom]) {
  static_assert(kRoom * 4 >= kBytes, "the vector does not fit");
  if constexpr (kBytes == 16) {
    const uint4 v = read_word<kReadOnly, uint4>(from);
    word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
  } else if constexpr (kBytes == 8) {
    const uint2 v = read_word<kReadOnly, uint2>(from);
    word[0] = v.x, word[1] = v.y;
  } else if constexpr (kBytes == 4) {
    word[0] = read_word<kReadOnly, unsigned>(from);
  } else {
    static_assert(kBytes == 2, "no such access");
    word[0] = read_word<kReadOnly, unsigned short>(from);
  }
}

template <int kBytes, int kRoom>
__device__ __forceinline__ void write_bits(void* to, const uint32_t (&word)[kRoom]) {
  static_assert(kRoom * 4 >= kBytes, "the vector does not fit");
  if constexpr (kBytes == 16) {
    *static_cast<uint4*>(to) = make_uint4(word[0], word[1], word[2], word[3]);
  } else if constexpr (kBytes == 8) {
    *static_cast<uint2*>(to) = make_uint2(word[0], word[1]);
  } else if constexpr (kBytes == 4) {
    *static_cast<unsigned*>(to) = word[0];
  } else {
    static_assert(kBytes == 2, "no such access");
    *static_cast<unsigned short*>(to) = static_cast<unsigned short>(word[0]);
  }
}

// Element i of vector bits that hold S, and a vector of values as bits of S. All indices are compile-time constants once
// the loops around are unrolled.
template <typename S>
struct Codec;

template <>
struct Codec<double> {
  static constexpr int kBytes = 8;
  template <typename T, int kRoom>
  __device__ __forceinline__ static T get(const uint32_t (&word)[kRoom], int i) {
    return T(__hiloint2double(int(word[2 * i + 1]), int(word[2 * i])));
  }
  template <typename T, int V, int kRoom>
  __device__ __forceinline__ static void put(const T (&value)[V], uint32_t (&word)[kRoom]) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      word[2 * i] = uint32_t(__double2loint(double(value[i])));
      word[2 * i + 1] = uint32_t(__double2hiint(double(value[i])));
    }
  }
};

template <>
struct Codec<float> {
  static constexpr int kBytes = 4;
  template <typename T, int kRoom>
  __device__ __forceinline__ static T get(const uint32_t (&word)[kRoom], int i) {
    return T(__uint_as_float(word[i]));
  }
  template <typename T, int V, int kRoom>
  __device__ __forceinline__ static void put(const T (&value)[V], uint32_t (&word)[kRoom]) {
#pragma unroll
    for (int i = 0; i < V; ++i) word[i] = __float_as_uint(float(value[i]));
  }
};

template <>
struct Codec<__half> {
  static constexpr int kBytes = 2;
  template <typename T, int kRoom>
  __device__ __forceinline__ static T get(const uint32_t (&word)[kRoom], int i) {
    return T(__half2float(__ushort_as_half(static_cast<unsigned short>(word[i / 2] >> (16 * (i & 1))))));
  }
  template <typename T, int V, int kRoom>
  __device__ __forceinline__ static void put(const T (&value)[V], uint32_t (&word)[kRoom]) {
    if constexpr (V == 1) {
      word[0] = __half_as_ushort(__float2half_rn(float(value[0])));
    } else {
#pragma unroll
      for (int i = 0; i < V; i += 2) {
        const __half2 two = __floats2half2_rn(float(value[i]), float(value[i + 1]));
        word[i / 2] = uint32_t(__half_as_ushort(two.x)) | uint32_t(__half_as_ushort(two.y)) << 16;
      }
    }
  }
};

template <>
struct Codec<__nv_bfloat16> {
  static constexpr int kBytes = 2;
  template <typename T, int kRoom>
  __device__ __forceinline__ static T get(const uint32_t (&word)[kRoom], int i) {
    return T(__uint_as_float(i & 1 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16));
  }
  template <typename T, int V, int kRoom>
  __device__ __forceinline__ static void put(const T (&value)[V], uint32_t (&word)[kRoom]) {
    if constexpr (V == 1) {
      word[0] = __bfloat16_as_ushort(__float2bfloat16_rn(float(value[0])));
    } else {
#pragma unroll
      for (int i = 0; i < V; i += 2) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(float(value[i]), float(value[i + 1]));
        word[i / 2] = uint32_t(__bfloat16_as_ushort(two.x)) | uint32_t(__bfloat16_as_ushort(two.y)) << 16;
      }
    }
  }
};

__device__ __forceinline__ const char* address(const Array& a, int64_t sample, int64_t offset, int log_bytes) {
  return static_cast<const char*>(a.data) + ((sample * a.stride + offset) << log_bytes);
}
__device__ __forceinline__ char* address(const MutableArray& a, int64_t sample, int64_t offset, int log_bytes) {
  return static_cast<char*>(a.data) + ((sample * a.stride + offset) << log_bytes);
}

template <typename S, int N>
struct Uniform {
  using T = float;
  static constexpr int kWidth = N;
  static constexpr int kLog = sizeof(S) == 4 ? 2 : 1;
  template <int V>
  using Raw = Bits<V * int(sizeof(S))>;

  // `kReadOnly` may be set where nothing in the kernel writes the tensor.
  template <int V, bool kReadOnly = true, typename Tensor>
  __device__ __forceinline__ static Raw<V> load(const Tensor& a, int64_t sample, int64_t offset) {
    Raw<V> raw;
    read_bits<V * int(sizeof(S)), kReadOnly>(address(a, sample, offset, kLog), raw.word);
    return raw;
  }
  template <int V>
  __device__ __forceinline__ static void widen(const Raw<V>& raw, DType, T (&value)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) value[i] = Codec<S>::template get<T>(raw.word, i);
  }
  template <int V>
  __device__ __forceinline__ static void store(const MutableArray& a, int64_t sample, int64_t offset, const T (&value)[V]) {
    Raw<V> raw;
    Codec<S>::put(value, raw.word);
    write_bits<V * int(sizeof(S))>(address(a, sample, offset, kLog), raw.word);
  }
};

template <typename Compute, int N>
struct Mixed {
  using T = Compute;
  static constexpr int kWidth = N;
  template <int V>
  using Raw = Bits<V * int(sizeof(T))>;

  template <int V, bool kReadOnly = true, typename Tensor>
  __device__ __forceinline__ static Raw<V> load(const Tensor& a, int64_t sample, int64_t offset) {
    const int log_bytes = log_bytes_of(a.dtype);
    const void* from = address(a, sample, offset, log_bytes);
    Raw<V> raw;
    if (log_bytes == 1) {
      read_bits<V * 2, kReadOnly>(from, raw.word);
    } else if (sizeof(T) == 4 || log_bytes == 2) {
      read_bits<V * 4, kReadOnly>(from, raw.word);
    } else {
      read_bits<V * int(sizeof(T)), kReadOnly>(from, raw.word);
    }
    return raw;
  }
  template <int V>
  __device__ __forceinline__ static void widen(const Raw<V>& raw, DType dtype, T (&value)[V]) {
    if (dtype == DType::kBFloat16) {
      widen_as<__nv_bfloat16>(raw, value);
    } else if (dtype == DType::kFloat16) {
      widen_as<__half>(raw, value);
    } else if (sizeof(T) == 4 || dtype == DType::kFloat32) {
      widen_as<float>(raw, value);
    } else {
      widen_as<T>(raw, value);
    }
  }
  template <int V>
  __device__ __forceinline__ static void store(const MutableArray& a, int64_t sample, int64_t offset, const T (&value)[V]) {
    void* to = address(a, sample, offset, log_bytes_of(a.dtype));
    if (a.dtype == DType::kBFloat16) {
      store_as<__nv_bfloat16>(to, value);
    } else if (a.dtype == DType::kFloat16) {
      store_as<__half>(to, value);
    } else if (sizeof(T) == 4 || a.dtype == DType::kFloat32) {
      store_as<float>(to, value);
    } else {
      store_as<T>(to, value);
    }
  }

 private:
  template <typename S, int V>
  __device__ __forceinline__ static void widen_as(const Raw<V>& raw, T (&value)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) value[i] = Codec<S>::template get<T>(raw.word, i);
  }
  template <typename S, int V>
  __device__ __forceinline__ static void store_as(void* to, const T (&value)[V]) {
    Bits<V * Codec<S>::kBytes> raw;
    Codec<S>::put(value, raw.word);
    write_bits<V * Codec<S>::kBytes>(to, raw.word);
  }
};

// Call body(storage type) for what Tensors::storage() chose without the uniform ones.
template <typename Body>
void with_mixed_storage(Storage storage, const Body& body) {
  switch (storage) {
    case Storage::kMixed: return body(Mixed<float, 4>());
    case Storage::kMixedScalar: return body(Mixed<float, 1>());
    case Storage::kMixedDouble: return body(Mixed<double, 2>());
    default: return body(Mixed<double, 1>());
  }
}

// Call body(storage type) for what Tensors::storage() chose.
template <typename Body>
void with_storage(Storage storage, const Body& body) {
  switch (storage) {
    case Storage::kFloat32: return body(Uniform<float, 4>());
    case Storage::kFloat16: return body(Uniform<__half, 8>());
    case Storage::kBFloat16: return body(Uniform<__nv_bfloat16, 8>());
    default: return with_mixed_storage(storage, body);
  }
}

}  // namespace gpu
}  // namespace rcgm
