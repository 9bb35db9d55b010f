// scale_gradient_: the backward pass of the losses. It returns at once if the factor is 1.
#include "elements.cuh"
#include "launch.h"
#include "partition.h"
#include "scalars.cuh"

namespace rcgm {
namespace gpu {
namespace {

struct Parameters {
  ScaleArguments a;
  Partition partition;
};

template <typename S, int V>
__device__ __forceinline__ void multiply(const MutableArray& gradient, int64_t sample, int64_t offset, typename S::T factor) {
  typename S::T value[V];
  S::widen(S::template load<V, false>(gradient, sample, offset), gradient.dtype, value);
#pragma unroll
  for (int i = 0; i < V; ++i) value[i] *= factor;
  S::store(gradient, sample, offset, value);
}

template <typename S>
__global__ void __launch_bounds__(kPartitionThreads, 4) scale_kernel(const __grid_constant__ Parameters p) {
  using T = typename S::T;
  constexpr int V = S::kWidth;
  const Work w = work_of(p.partition, blockIdx.x, int(threadIdx.x));
  if (w.begin == w.end) return;
  const T factor = T(scalar(p.a.upstream, 0, w.sample) / scalar(p.a.scales, 0, w.sample));
  if (factor == 1) return;
  const int64_t step = int64_t(p.partition.lanes) * V, tail = w.begin + (w.end - w.begin) / V * V;
#pragma unroll 2
  for (int64_t i = w.begin + int64_t(w.lane) * V; i < tail; i += step) multiply<S, V>(p.a.gradient, w.sample, i, factor);
  if constexpr (V > 1) {
    for (int64_t i = tail + w.lane; i < w.end; i += p.partition.lanes) multiply<S, 1>(p.a.gradient, w.sample, i, factor);
  }
}

}  // namespace

void scale(const ScaleArguments& a, const Place& place) {
  enter(place);
  ScaleArguments flat = a;
  if (a.upstream.stride == 0 && !a.scales.data) {  // one factor: one long sample, whatever the size of the real ones
    flat.size = a.batch * a.size;
    flat.batch = 1;
  }
  with_storage(Tensors({as_array(flat.gradient)}).storage(flat.batch), [&](auto storage) {
    using S = decltype(storage);
    const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, place.device);
    const Parameters p = {flat, partition(flat.batch, flat.size, S::kWidth, multiprocessors)};
    launch(scale_kernel<S>, "the gradient scaling kernel", {blocks_of(p.partition), kPartitionThreads}, place, p);
  });
}

}  // namespace gpu
}  // namespace rcgm
