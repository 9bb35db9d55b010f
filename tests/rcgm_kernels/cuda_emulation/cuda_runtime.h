// CUDA on the host, for tests on machines without a GPU: the kernels' own source, compiled by a C++ compiler with this
// folder in place of CUDA's headers. Each thread of a block is a fiber, each block of a cluster a thread of the host.
// Barriers and shuffles that not all threads reach, writes beyond the shared memory that a launch asked for, and launches
// that a device would refuse, are errors.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <mutex>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ thread_local  // a block, with all its fibers, stays on one thread of the host
#define __CUDA_ARCH__ 900
#define CUDART_VERSION 13000

struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

// Host side

typedef struct CUstream_st* cudaStream_t;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidConfiguration,
  cudaErrorInvalidClusterSize,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrClusterLaunch };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributeNonPortableClusterSizeAllowed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore, cudaLaunchAttributeClusterDimension };
struct cudaFuncAttributes {};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace emulation {
cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute which, int value);
void wait_for_block();
void wait_for_warp();
void wait_for_cluster();
unsigned rank_in_cluster();
void* in_block(void* mine, unsigned rank);
void* exchange_slot(unsigned lane);
extern std::mutex atomics;
}  // namespace emulation

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "the emulated device refused"; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
inline cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  return *number = reinterpret_cast<uintptr_t>(stream), cudaSuccess;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return memset(to, value, bytes), cudaSuccess;
}
template <typename Variable>
cudaError_t cudaGetSymbolAddress(void** address, Variable& variable) {
  return *address = &variable, cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device);
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute which, int value) {
  return emulation::set_attribute(reinterpret_cast<const void*>(kernel), which, value);
}
cudaError_t emulated_clusters(int* count, const cudaLaunchConfig_t* config);
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, Kernel*, const cudaLaunchConfig_t* config) {
  return emulated_clusters(count, config);
}
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  return emulation::run(*config, reinterpret_cast<const void*>(kernel), [&] { kernel(arguments...); });
}

// Device side

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __threadfence() {}
template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
inline unsigned atomicInc(unsigned* counter, unsigned last) {
  const std::lock_guard<std::mutex> guard(emulation::atomics);
  const unsigned old = *counter;
  *counter = old >= last ? 0 : old + 1;
  return old;
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  const unsigned lane = threadIdx.x % 32;
  memcpy(emulation::exchange_slot(lane), &value, sizeof(T));
  emulation::wait_for_warp();
  memcpy(&value, emulation::exchange_slot(lane ^ unsigned(distance)), sizeof(T));
  emulation::wait_for_warp();
  return value;
}

template <typename To, typename From>
To emulated_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}
inline float __uint_as_float(unsigned bits) { return emulated_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulated_cast<unsigned>(value); }
inline double __hiloint2double(int high, int low) {
  return emulated_cast<double>(uint64_t(unsigned(high)) << 32 | unsigned(low));
}
inline int __double2hiint(double value) { return int(emulated_cast<uint64_t>(value) >> 32); }
inline int __double2loint(double value) { return int(emulated_cast<uint64_t>(value)); }
