// What devices there are, and whether this build has code for them.
#include "launch.h"

namespace rcgm {
namespace gpu {
namespace {

__global__ void probe() {}

}  // namespace

std::string problem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count > 0 ? "" : "there is no CUDA device";
  cudaGetLastError();
  return std::string("there is no usable CUDA device or driver (") + cudaGetErrorString(status) + ")";
}

bool runs_on(int device) {
  check(cudaSetDevice(device), "selecting the device");
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    return false;
  }
  check(status, "looking for kernels for the device");
  return true;
}

}  // namespace gpu
}  // namespace rcgm
