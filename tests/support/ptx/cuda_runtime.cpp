// A CUDA runtime without a device: it remembers kernels by their names and hands every call to functions that are set from
// outside. Linked with the backend's own host code in the place of cudart.
#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <vector>

struct Launch {
  const char* kernel;
  unsigned blocks, threads, cluster;
  size_t shared;
  void* stream;
  void** arguments;
};

struct Hooks {
  int (*launch)(const Launch*);
  int (*clusters)(const Launch*, int*);
  int (*allow)(const char* kernel, int attribute, int value);
  int (*attribute)(int attribute, int device, int* value);
  int (*get_device)(int*);
  int (*set_device)(int);
  int (*count)(int*);
  int (*find)(const char* kernel);
  int (*variable)(const char* name, size_t bytes, void** address);
  int (*capturing)(void* stream, int* status);
  int (*clear)(void* to, size_t bytes, void* stream);
};

namespace {

Hooks hooks;

std::map<const void*, std::string>& kernels() {
  static std::map<const void*, std::string> all;
  return all;
}

struct Variable {
  std::string name;
  size_t bytes;
};

std::map<const void*, Variable>& variables() {
  static std::map<const void*, Variable> all;
  return all;
}

std::vector<const void*>& binaries() {
  static std::vector<const void*> all;
  return all;
}

const char* name_of(const void* kernel) { return kernels()[kernel].c_str(); }

Launch described(const cudaLaunchConfig_t* c, const void* kernel, void** arguments) {
  Launch launch = {name_of(kernel), c->gridDim.x, c->blockDim.x, 1, c->dynamicSmemBytes, c->stream, arguments};
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    if (c->attrs[i].id == cudaLaunchAttributeClusterDimension) launch.cluster = c->attrs[i].val.clusterDim.x;
  }
  return launch;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void set_hooks(const Hooks* given) { hooks = *given; }
EXPORT int binary_count() { return int(binaries().size()); }
EXPORT const void* binary(int index) { return binaries()[size_t(index)]; }

// What nvcc puts into every object: its kernels make themselves known when the library is loaded.
struct Wrapper {
  int magic, version;
  const void* data;
  void* file;
};
EXPORT void** __cudaRegisterFatBinary(void* wrapper) {
  static void* handle;
  binaries().push_back(static_cast<const Wrapper*>(wrapper)->data);
  return &handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  kernels()[host] = name;
}
EXPORT void __cudaRegisterVar(void**, char* host, char*, const char* name, int, size_t bytes, int, int) {
  variables()[host] = {name, bytes};
}
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}

// Launches by <<<>>> are not what this project makes.
EXPORT unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void*) { return 1; }
EXPORT cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaErrorNotSupported; }
EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return cudaErrorNotSupported; }

EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  const Launch launch = described(config, kernel, arguments);
  return cudaError_t(hooks.launch(&launch));
}
EXPORT cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel, const cudaLaunchConfig_t* config) {
  const Launch launch = described(config, kernel, nullptr);
  return cudaError_t(hooks.clusters(&launch, clusters));
}
EXPORT cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return cudaError_t(hooks.allow(name_of(kernel), attribute, value));
}
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {};
  return cudaError_t(hooks.find(name_of(kernel)));
}
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return cudaError_t(hooks.attribute(attribute, device, value));
}
EXPORT cudaError_t cudaGetDevice(int* device) { return cudaError_t(hooks.get_device(device)); }
EXPORT cudaError_t cudaSetDevice(int device) { return cudaError_t(hooks.set_device(device)); }
EXPORT cudaError_t cudaGetDeviceCount(int* count) { return cudaError_t(hooks.count(count)); }
EXPORT cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  const Variable& variable = variables()[symbol];
  return cudaError_t(hooks.variable(variable.name.c_str(), variable.bytes, address));
}
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  int value = 0;
  const int error = hooks.capturing(stream, &value);
  *status = cudaStreamCaptureStatus(value);
  return cudaError_t(error);
}
EXPORT cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  *number = reinterpret_cast<unsigned long long>(stream);
  return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
EXPORT cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return value ? cudaErrorInvalidValue : cudaError_t(hooks.clear(to, bytes, stream));
}
EXPORT cudaError_t cudaGetLastError() { return cudaSuccess; }
EXPORT const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string text;
  text = "error " + std::to_string(int(error)) + " of the runtime";
  return text.c_str();
}
