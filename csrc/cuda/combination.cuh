// R = scale * clamp(total * anchor + sum_k a_k (T_k - anchor)): the coefficients of one sample, in shared memory, and the
// residual of a vector of elements.
#pragma once

#include "elements.cuh"
#include "groups.cuh"
#include "scalars.cuh"
#include "slots.h"

namespace rcgm {
namespace gpu {

// The numbers that the coefficient of tensor k is made of: a knot and the next one, or the coefficient itself.
struct Parts {
  Asked own, next;
};

__device__ __forceinline__ Parts parts_of(const LossArguments& a, int k, int64_t sample) {
  const int last = a.count - 1;
  if (k > last) return {};
  if (a.options.times) return {Asked(a.scalars, k, sample), Asked(a.scalars, k < last ? k + 1 : k, sample)};
  if (!a.options.pred_in_residual) return {Asked(a.scalars, k, sample), {}};
  return {k == 0 ? Asked(a.pred_coeff, 0, sample) : Asked(a.scalars, k - 1, sample), {}};
}

// Of the knots, those that the coefficient of tensor k > 0 depends on.
struct Knots {
  double first, second, own, next;
  int k;
  __device__ __forceinline__ double operator()(int i) const {
    return i == k ? own : i == k + 1 ? next : i == 0 ? first : second;
  }
};

__device__ __forceinline__ double coefficient(const LossArguments& a, int k, const Parts& parts, double first, double second) {
  if (!a.options.times) return parts.own.value();
  if (k == 0) return 1;
  const Knots knots = {first, second, parts.own.value(), parts.next.value(), k};
  return k == a.count - 1 ? velocity_coefficient(knots) : segment_coefficient(knots, k);
}

// The options of a loss whose gradient needs no sums, most of them constants that the compiler knows.
__device__ __forceinline__ LossOptions plain(const LossOptions& o) {
  LossOptions p = {};
  p.clip = o.clip;
  p.metric = Metric::kL2;
  p.normalize = -1;
  p.sum_of_elements = o.sum_of_elements;
  p.share = o.share;
  p.scaled = o.scaled;
  return p;
}

// What is known of a sample before its sums, asked for.
struct AskedSample {
  Asked weight, normalize_scale, scale;

  __device__ __forceinline__ AskedSample(const LossArguments& a, int64_t sample)
      : weight(a.weight, 0, sample), normalize_scale(a.normalize_scale, 0, sample), scale(a.scale, 0, sample) {}
  __device__ __forceinline__ Sample value(const LossArguments& a) const {
    return {weight.value(), normalize_scale.value(), a.options.clip * fabs(scale.value())};
  }
};

__device__ __forceinline__ Sample sample_of(const LossArguments& a, int64_t sample) { return AskedSample(a, sample).value(a); }

// Fill the slots of `sample` with `lanes` threads (a power of two up to 32). All lanes of the warp take part. The tensors of
// a sample that is not active, beyond the batch or of weight 0, are not read. A lane asks for all its numbers before it uses
// one, so that a launch begins with one wait for memory.
template <typename T>
__device__ __forceinline__ void prepare(const LossArguments& a, int64_t sample, int lane, int lanes, T* slots) {
  const bool exists = sample < a.batch;
  const int64_t from = exists ? sample : 0;
  const int end = slot_count(a.count) - kCoefficients;
  Parts parts = parts_of(a, lane, from);
  const Asked weight(a.weight, 0, from), scale(a.scale, 0, from);
  const Asked first = a.options.times ? Asked(a.scalars, 0, from) : Asked();
  const Asked second = a.options.times ? Asked(a.scalars, 1, from) : Asked();

  const bool active = exists && weight.value() != 0;
  double sum = 0;
  T own = 0;
  for (int k = lane; k < end; k += lanes) {
    if (k > lane) parts = parts_of(a, k, from);
    const double value = active && k < a.count ? coefficient(a, k, parts, first.value(), second.value()) : 0;
    slots[kCoefficients + k] = T(value);
    sum += value;
    if (k == 0) own = T(value);
  }
  sum = sum_of_lanes(sum, lanes);
  if (lane == 0) {
    slots[kActive] = T(active);
    slots[kTotal] = a.options.times || own == 0 ? T(0) : T(sum);
    slots[kScale] = active ? T(scale.value()) : T(0);
  }
}

// The residual on V elements of a sample. All lanes of a group see the same slots, so its branches do not diverge.
template <typename S, int V, typename T>
__device__ __forceinline__ void residual(const LossArguments& a, const T* slots, int64_t sample, int64_t offset,
                                         T (&value)[V]) {
  using Raw = typename S::template Raw<V>;
  const bool anchored = slots[kCoefficients] != 0;
  Raw own, ahead[kAhead];
  T coefficients[kAhead];
  const auto issue = [&](int k) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      coefficients[j] = slots[kCoefficients + k + j];
      if (coefficients[j] != 0) ahead[j] = S::template load<V>(a.tensors[k + j], sample, offset);
    }
  };
  if (anchored) own = S::template load<V>(a.tensors[0], sample, offset);
  if (a.count > 1) issue(1);

  T anchor[V];
#pragma unroll
  for (int i = 0; i < V; ++i) anchor[i] = 0;
  if (anchored) S::widen(own, a.tensors[0].dtype, anchor);
  const T total = slots[kTotal];
#pragma unroll
  for (int i = 0; i < V; ++i) value[i] = total != 0 ? total * anchor[i] : T(0);
  for (int k = 1; k < a.count; k += kAhead) {
    if (k > 1) issue(k);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (coefficients[j] == 0) continue;
      T term[V];
      S::widen(ahead[j], a.tensors[k + j].dtype, term);
#pragma unroll
      for (int i = 0; i < V; ++i) value[i] += coefficients[j] * (term[i] - anchor[i]);
    }
  }

  const T clip = T(a.options.clip), scale = slots[kScale];
#pragma unroll
  for (int i = 0; i < V; ++i) value[i] = scale * clamp_residual(value[i], clip);
}

template <typename S, int V, typename T>
__device__ __forceinline__ void prediction(const LossArguments& a, int64_t sample, int64_t offset, T (&value)[V]) {
  const auto raw = S::template load<V>(a.pred, sample, offset);
  S::widen(raw, a.pred.dtype, value);
}

// The gradient on V elements. It needs the prediction only with a cosine term, and then a cache still holds it.
template <typename S, int V, typename T>
__device__ __forceinline__ void write_gradient(const LossArguments& a, const T* slots, int64_t sample, int64_t offset,
                                               const T (&residual)[V]) {
  T value[V];
  const T factor = slots[kResidualFactor];
#pragma unroll
  for (int i = 0; i < V; ++i) value[i] = factor * residual[i];
  const T pred_factor = slots[kPredFactor];
  if (a.options.cosine != 0 && pred_factor != 0) {
    T pred[V];
    prediction<S, V>(a, sample, offset, pred);
#pragma unroll
    for (int i = 0; i < V; ++i) value[i] += pred_factor * pred[i];
  }
  S::store(a.gradient, sample, offset, value);
}

template <typename T>
__device__ __forceinline__ void set_factors(const Outcome& outcome, T* slots) {
  slots[kResidualFactor] = T(outcome.residual_factor);
  slots[kPredFactor] = T(outcome.pred_factor);
}

template <typename T>
__device__ __forceinline__ void store_loss(const LossArguments& a, int64_t index, double value) {
  static_cast<T*>(a.loss)[index] = T(value);
}

__device__ __forceinline__ void store_scale(const LossArguments& a, int64_t sample, const Outcome& outcome) {
  if (a.storage_scales) a.storage_scales[sample] = float(outcome.storage_scale);
}

// The loss of the batch from the sum over its samples.
template <typename T>
__device__ __forceinline__ void store_reduced(const LossArguments& a, double sum) {
  store_loss<T>(a, 0, a.options.reduction == Reduction::kMean ? sum / double(a.batch) : sum);
}

}  // namespace gpu
}  // namespace rcgm
