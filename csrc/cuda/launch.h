// Launches, with every error checked.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "kernels.h"

namespace rcgm {
namespace gpu {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a failed launch must not be reported again by the next call
  throw std::runtime_error(std::string("rcgm_kernels CUDA: ") + what + " failed: " + cudaGetErrorString(status));
}

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "reading a device attribute");
  return value;
}

struct Shape {
  int64_t blocks;
  int threads;
  int64_t shared_bytes = 0;
  int cluster = 1;
};

// Dynamic shared memory that a kernel may use without an attribute: 48 KB, minus the static shared memory of these kernels.
constexpr int64_t kFixedSharedBytes = 1024, kDefaultSharedBytes = 48 * 1024 - kFixedSharedBytes;
constexpr int kPortableCluster = 8;

// A launch configuration that owns its attributes.
class Configuration {
 public:
  Configuration(const Shape& shape, cudaStream_t stream) {
    config_.gridDim = dim3(unsigned(shape.blocks));
    config_.blockDim = dim3(unsigned(shape.threads));
    config_.dynamicSmemBytes = size_t(shape.shared_bytes);
    config_.stream = stream;
    if (shape.cluster > 1) {
      cluster_.id = cudaLaunchAttributeClusterDimension;
      cluster_.val.clusterDim.x = unsigned(shape.cluster);
      cluster_.val.clusterDim.y = cluster_.val.clusterDim.z = 1;
      config_.attrs = &cluster_;
      config_.numAttrs = 1;
    }
  }
  Configuration(const Configuration&) = delete;
  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchConfig_t config_ = {};
  cudaLaunchAttribute cluster_ = {};
};

template <typename Kernel>
void allow(Kernel* kernel, const Shape& shape) {
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes)),
          "asking for more shared memory");
  }
  if (shape.cluster > kPortableCluster) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "asking for a large cluster");
  }
}

// Whether the current device, which is `device`, can hold a cluster of this shape at all. CUDA is asked once.
template <typename Kernel>
bool cluster_fits(Kernel* kernel, const Shape& shape, int device) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int, int, int64_t>, bool> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(device, reinterpret_cast<const void*>(kernel), shape.cluster, shape.threads, shape.shared_bytes);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  int clusters = 0;
  allow(kernel, shape);
  const Configuration configuration(shape, nullptr);
  const cudaError_t status = cudaOccupancyMaxActiveClusters(&clusters, kernel, configuration.get());
  if (status == cudaErrorInvalidClusterSize) {
    cudaGetLastError();  // must not be reported again by the next call
  } else {
    check(status, "asking how many clusters fit");
  }
  return known[key] = clusters > 0;
}

template <typename... Parameters>
void launch(void (*kernel)(Parameters...), const char* name, const Shape& shape, const Place& place,
            const Parameters&... arguments) {
  if (shape.blocks > 0x7fffffff) throw std::runtime_error(std::string("rcgm_kernels CUDA: ") + name + ": too many blocks");
  allow(kernel, shape);
  const Configuration configuration(shape, static_cast<cudaStream_t>(place.stream));
  check(cudaLaunchKernelEx(configuration.get(), kernel, arguments...), name);
}

inline void enter(const Place& place) { check(cudaSetDevice(place.device), "selecting the device"); }

}  // namespace gpu
}  // namespace rcgm
