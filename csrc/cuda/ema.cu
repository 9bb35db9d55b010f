// ema_update_: the averages of a whole model in one launch.
#include <memory>

#include "elements.cuh"
#include "ema_table.h"
#include "launch.h"
#include "partition.h"

namespace rcgm {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // vectors in flight a thread

// The work of one thread on one tensor: elements [begin, end) in steps of the block.
struct EmaWork {
  MutableArray average, copy;
  Array param;
  double decay;
  int64_t begin, end;
};

// Updates kUnroll vectors of V elements from `offset` on, without those beyond the end.
template <typename S, int V>
__device__ __forceinline__ void update(const EmaWork& w, int64_t offset) {
  using T = typename S::T;
  typename S::template Raw<V> averages[kUnroll], params[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = offset + u * kThreads * V;
    if (i + V > w.end) continue;
    averages[u] = S::template load<V, false>(w.average, 0, i);
    params[u] = S::template load<V, false>(w.param, 0, i);
  }
  // Two forms of one formula. The first is exact for decay 1, the second for decay 0.
  const bool near_average = T(1 - w.decay) < T(0.5);
  const T factor = near_average ? T(1 - w.decay) : -T(w.decay);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = offset + u * kThreads * V;
    if (i + V > w.end) continue;
    T average[V], param[V];
    S::widen(averages[u], w.average.dtype, average);
    S::widen(params[u], w.param.dtype, param);
#pragma unroll
    for (int j = 0; j < V; ++j) average[j] = (near_average ? average[j] : param[j]) + factor * (param[j] - average[j]);
    S::store(w.average, 0, i, average);
    if (w.copy.data) S::store(w.copy, 0, i, average);
  }
}

template <typename S>
__device__ __forceinline__ void update_all(EmaWork w, bool vectors) {
  constexpr int V = S::kWidth;
  const int64_t tail = vectors ? w.begin + (w.end - w.begin) / V * V : w.begin;
  const int thread = int(threadIdx.x);
  const int64_t end = w.end;
  w.end = tail;
  for (int64_t i = w.begin + thread * V; i < tail; i += kUnroll * kThreads * V) update<S, V>(w, i);
  w.end = end;
  for (int64_t i = tail + thread; i < end; i += kUnroll * kThreads) update<S, 1>(w, i);
}

template <int kCapacity>
__global__ void __launch_bounds__(kThreads, 3) ema_kernel(const __grid_constant__ EmaTable<kCapacity> table) {
  const EmaEntry& e = table.entries[entry_of(table.entries, table.count, blockIdx.x)];
  EmaWork w;
  w.average = {e.average, 0, DType(e.average_dtype)};
  w.copy = {e.copy, 0, DType(e.copy_dtype)};
  w.param = {e.param, 0, DType(e.param_dtype)};
  w.decay = table.decay;
  w.begin = int64_t(blockIdx.x - e.first_block) * kEmaChunk;
  w.end = e.size < w.begin + kEmaChunk ? e.size : w.begin + kEmaChunk;
  const bool float64 = w.average.dtype == DType::kFloat64 || w.param.dtype == DType::kFloat64 ||
                       (w.copy.data && w.copy.dtype == DType::kFloat64);
  if (float64) {
    update_all<Mixed<double, 2>>(w, e.vectors);
  } else {
    update_all<Mixed<float, 4>>(w, e.vectors);
  }
}

template <int kCapacity>
void launch_some(const EmaTensor* tensors, int count, double decay, const Place& place) {
  const auto table = std::make_unique<EmaTable<kCapacity>>();
  table->decay = decay;
  table->count = count;
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) {
    const EmaTensor& t = tensors[i];
    const Tensors all({Array{t.average, 0, t.average_dtype}, Array{t.param, 0, t.param_dtype}, Array{t.copy, 0, t.copy_dtype}});
    table->entries[i] = {t.average, t.param, t.copy, t.size, uint32_t(blocks), uint8_t(t.average_dtype),
                         uint8_t(t.param_dtype), uint8_t(t.copy_dtype), all.fit(4, 1)};
    blocks += divided_up(t.size, kEmaChunk);
  }
  launch(ema_kernel<kCapacity>, "the EMA kernel", {blocks, kThreads}, place, *table);
}

}  // namespace

void ema(const std::vector<EmaTensor>& tensors, double decay, const Place& place) {
  enter(place);
  std::vector<EmaTensor> there;
  for (const EmaTensor& tensor : tensors) {
    if (tensor.size > 0) there.push_back(tensor);
  }
  for (size_t first = 0; first < there.size(); first += kEmaMany) {
    const int count = int(there.size() - first < size_t(kEmaMany) ? there.size() - first : size_t(kEmaMany));
    if (count <= kEmaFew) {
      launch_some<kEmaFew>(&there[first], count, decay, place);
    } else {
      launch_some<kEmaMany>(&there[first], count, decay, place);
    }
  }
}

}  // namespace gpu
}  // namespace rcgm
