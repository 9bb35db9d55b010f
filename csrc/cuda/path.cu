// interpolate and advance: elementwise, one launch each.
#include "elements.cuh"
#include "launch.h"
#include "partition.h"
#include "scalars.cuh"

namespace rcgm {
namespace gpu {
namespace {

// Vectors of each input that a thread loads before it uses the first.
template <int kWidth>
constexpr int kVectorsAhead = kWidth == 8 ? 1 : 2;

// So many blocks must fit on a multiprocessor, which limits a thread to 80 registers.
constexpr int kResidentBlocks = 3;

template <typename Arguments>
struct Parameters {
  Arguments a;
  Partition partition;
};

// What is worked on at once.
template <int kVectorCount, int kElementCount>
struct Tile {
  static constexpr int kVectors = kVectorCount, kElements = kElementCount;
};

// Call body(offset of vector, vectors there) and then tail(offset) for the elements of one thread.
template <int V, typename Body, typename Tail>
__device__ __forceinline__ void for_each_vector(const Work& w, int lanes, const Body& body, const Tail& tail) {
  const int64_t step = int64_t(lanes) * V, vectors_end = w.begin + (w.end - w.begin) / V * V;
  for (int64_t i = w.begin + int64_t(w.lane) * V; i < vectors_end; i += kVectorsAhead<V> * step) body(i, step, vectors_end);
  if constexpr (V > 1) {
    for (int64_t i = vectors_end + w.lane; i < w.end; i += lanes) tail(i);
  }
}

template <typename S>
__global__ void __launch_bounds__(kPartitionThreads, kResidentBlocks)
    interpolate_kernel(const __grid_constant__ Parameters<InterpolateArguments> p) {
  using T = typename S::T;
  constexpr int V = S::kWidth;
  const InterpolateArguments& a = p.a;
  const Work w = work_of(p.partition, blockIdx.x, int(threadIdx.x));

  const auto points = [&](auto tile, int64_t offset, int64_t step, int64_t end) {
    constexpr int kVectors = decltype(tile)::kVectors, kCount = decltype(tile)::kElements;
    T x[kVectors][kCount], z[kVectors][kCount];
    typename S::template Raw<kCount> raw_x[kVectors], raw_z[kVectors];
    Asked alpha(a.alpha, 0, w.sample), gamma(a.gamma, 0, w.sample);
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      if (offset + u * step >= end) continue;
      raw_x[u] = S::template load<kCount>(a.x, w.sample, offset + u * step);
      raw_z[u] = S::template load<kCount>(a.z, w.sample, offset + u * step);
    }
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      if (offset + u * step >= end) continue;
      S::widen(raw_x[u], a.x.dtype, x[u]);
      S::widen(raw_z[u], a.z.dtype, z[u]);
    }
    for (int point = 0; point < a.points; ++point) {
      const T of_z = T(alpha.value()), of_x = T(gamma.value());
      if (point + 1 < a.points) alpha = Asked(a.alpha, point + 1, w.sample), gamma = Asked(a.gamma, point + 1, w.sample);
#pragma unroll
      for (int u = 0; u < kVectors; ++u) {
        if (offset + u * step >= end) continue;
        T value[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) value[i] = of_z * z[u][i] + of_x * x[u][i];
        S::store(a.out, point * a.batch + w.sample, offset + u * step, value);
      }
    }
  };
  for_each_vector<V>(
      w, p.partition.lanes, [&](int64_t offset, int64_t step, int64_t end) { points(Tile<kVectorsAhead<V>, V>(), offset, step, end); },
      [&](int64_t offset) { points(Tile<1, 1>(), offset, 0, offset + 1); });
}

template <typename S>
__global__ void __launch_bounds__(kPartitionThreads, kResidentBlocks)
    advance_kernel(const __grid_constant__ Parameters<AdvanceArguments> p) {
  using T = typename S::T;
  constexpr int V = S::kWidth;
  const AdvanceArguments& a = p.a;
  const Work w = work_of(p.partition, blockIdx.x, int(threadIdx.x));
  if (w.begin == w.end) return;
  const Asked t(a.t, 0, w.sample), r(a.r, 0, w.sample);
  const T length = T(t.value() - r.value());

  // `out` may be `x`, so neither is read through the read-only cache, and all loads of a thread come before its stores.
  const auto steps = [&](auto tile, int64_t offset, int64_t step, int64_t end) {
    constexpr int kVectors = decltype(tile)::kVectors, kCount = decltype(tile)::kElements;
    typename S::template Raw<kCount> raw_x[kVectors], raw_v[kVectors];
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      if (offset + u * step >= end) continue;
      raw_x[u] = S::template load<kCount, false>(a.x, w.sample, offset + u * step);
      raw_v[u] = S::template load<kCount, false>(a.velocity, w.sample, offset + u * step);
    }
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      if (offset + u * step >= end) continue;
      T x[kCount], v[kCount];
      S::widen(raw_x[u], a.x.dtype, x);
      S::widen(raw_v[u], a.velocity.dtype, v);
#pragma unroll
      for (int i = 0; i < kCount; ++i) x[i] -= length * v[i];
      S::store(a.out, w.sample, offset + u * step, x);
    }
  };
  for_each_vector<V>(
      w, p.partition.lanes, [&](int64_t offset, int64_t step, int64_t end) { steps(Tile<kVectorsAhead<V>, V>(), offset, step, end); },
      [&](int64_t offset) { steps(Tile<1, 1>(), offset, 0, offset + 1); });
}

Shape shape_of(const Partition& p) { return {blocks_of(p), kPartitionThreads}; }

}  // namespace

void interpolate(const InterpolateArguments& a, const Place& place) {
  enter(place);
  // Each point is a sample of `out`: so the alignment of `out` is checked like that of the inputs.
  with_storage(Tensors({a.x, a.z, as_array(a.out)}).storage(a.batch * a.points), [&](auto storage) {
    using S = decltype(storage);
    const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, place.device);
    const Parameters<InterpolateArguments> p = {a, partition(a.batch, a.size, S::kWidth, multiprocessors)};
    launch(interpolate_kernel<S>, "the interpolation kernel", shape_of(p.partition), place, p);
  });
}

void advance(const AdvanceArguments& a, const Place& place) {
  enter(place);
  with_storage(Tensors({a.x, a.velocity, as_array(a.out)}).storage(a.batch), [&](auto storage) {
    using S = decltype(storage);
    const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, place.device);
    const Parameters<AdvanceArguments> p = {a, partition(a.batch, a.size, S::kWidth, multiprocessors)};
    launch(advance_kernel<S>, "the step kernel", shape_of(p.partition), place, p);
  });
}

}  // namespace gpu
}  // namespace rcgm
