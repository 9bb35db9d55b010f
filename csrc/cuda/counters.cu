// Counters with which the blocks of a launch find out which of them is the last.
#include "counters.h"

#include <cstdint>
#include <map>
#include <mutex>

#include "launch.h"

namespace rcgm {
namespace gpu {

// A module's variables are 0 when it is loaded. They belong to no allocator that could move or free them under a graph.
__device__ unsigned counters[kCounters];

namespace {

struct Device {
  unsigned* first = nullptr;
  std::map<unsigned long long, int> of_streams;
  int captured = 0;
};

std::mutex mutex;
std::map<int, Device> devices;

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(stream, &status), "asking whether a stream is being captured");
  return status != cudaStreamCaptureStatusNone;
}

// A handle may come again for another stream, and that of the default stream of a thread stands for several.
unsigned long long number_of(cudaStream_t stream) {
#if CUDART_VERSION >= 12000
  unsigned long long number = 0;
  check(cudaStreamGetId(stream, &number), "asking for the number of a stream");
  return number;
#else
  return reinterpret_cast<uintptr_t>(stream);
#endif
}

// Of the current device.
unsigned* first_counter() {
  // The first call on a device may load the module, which is not part of what is being captured.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "changing the capture mode");
  void* address = nullptr;
  const cudaError_t status = cudaGetSymbolAddress(&address, counters);
  check(cudaThreadExchangeStreamCaptureMode(&mode), "changing the capture mode");
  check(status, "looking for the counters");
  return static_cast<unsigned*>(address);
}

}  // namespace

unsigned* counter_for(const Place& place, unsigned* own) {
  const auto stream = static_cast<cudaStream_t>(place.stream);
  const bool capturing = is_capturing(stream);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    Device& device = devices[place.device];
    if (!device.first) device.first = first_counter();
    if (capturing) {
      if (device.captured < kCounters - kCountersOfStreams) return device.first + kCountersOfStreams + device.captured++;
    } else {
      const unsigned long long number = number_of(stream);
      const auto found = device.of_streams.find(number);
      if (found != device.of_streams.end()) return device.first + found->second;
      const int next = int(device.of_streams.size());
      if (next < kCountersOfStreams) return device.first + (device.of_streams[number] = next);
    }
  }
  check(cudaMemsetAsync(own, 0, sizeof(*own), stream), "clearing a counter");
  return own;
}

}  // namespace gpu
}  // namespace rcgm
