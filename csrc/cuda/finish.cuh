// From sums over samples to the loss of the batch, for kernels with several blocks a sample or a batch.
#pragma once

#include "combination.cuh"
#include "loss_kernels.h"

namespace rcgm {
namespace gpu {

// Where the first of two passes leaves the factors of the gradient for the second: behind the sums of the chunks.
__device__ __forceinline__ double* factors_of(const LossParameters& p, int64_t sample) {
  return p.a.workspace + 4 * p.a.batch * p.plan.chunks + 2 * sample;
}

// The sums of chunk `unit`, as finish_batch reads them.
__device__ __forceinline__ void store_sums(const LossParameters& p, int64_t unit, const Sums& sums, bool cosine) {
  double* to = p.a.workspace + unit;
  const int64_t units = p.a.batch * p.plan.chunks;
  to[0] = sums.rr;
  if (cosine) to[units] = sums.pp, to[2 * units] = sums.pr, to[3 * units] = sums.yy;
}

// The end of the last block: the sums of the chunks become losses, always in the same order.
template <typename T, bool kPlain>
__device__ __forceinline__ void finish_batch(const LossParameters& p, double* shared) {
  const LossArguments& a = p.a;
  const LossOptions options = kPlain ? plain(a.options) : a.options;
  const int lanes = p.plan.finish_lanes, lane = int(threadIdx.x) & (lanes - 1), chunks = p.plan.chunks;
  const int64_t units = a.batch * chunks;
  const bool cosine = !kPlain && a.options.cosine != 0, two_passes = p.plan.path == LossPath::kTwoPasses;
  double total = 0;
  for (int64_t first = 0; first < a.batch; first += blockDim.x / lanes) {
    const int64_t sample = first + threadIdx.x / lanes;
    const AskedSample asked(a, sample < a.batch ? sample : 0);
    Sums sums = {0, 0, 0, 0};
    if (sample < a.batch) {
      const double* from = a.workspace + sample * chunks;
      for (int i = lane; i < chunks; i += lanes) {
        sums.rr += __ldcg(from + i);
        if (cosine) {
          sums.pp += __ldcg(from + units + i);
          sums.pr += __ldcg(from + 2 * units + i);
          sums.yy += __ldcg(from + 3 * units + i);
        }
      }
    }
    sums.rr = sum_of_lanes(sums.rr, lanes);
    if (cosine) {
      sums.pp = sum_of_lanes(sums.pp, lanes);
      sums.pr = sum_of_lanes(sums.pr, lanes);
      sums.yy = sum_of_lanes(sums.yy, lanes);
    }
    if (lane == 0 && sample < a.batch) {
      const Outcome outcome = finish_sample(options, sums, double(a.size), asked.value(a));
      total += outcome.loss;
      if (a.options.reduction == Reduction::kNone) store_loss<T>(a, sample, outcome.loss);
      if (two_passes) {
        factors_of(p, sample)[0] = outcome.residual_factor;
        factors_of(p, sample)[1] = outcome.pred_factor;
        store_scale(a, sample, outcome);
      }
    }
  }
  if (a.options.reduction == Reduction::kNone) return;
  total = sum_of_block(total, shared);
  if (threadIdx.x == 0) store_reduced<T>(a, total);
}

// The loss of the batch where block `unit` of `units` knows that of its samples: `loss` of all threads together.
template <typename T>
__device__ __forceinline__ void reduce_units(const LossArguments& a, unsigned unit, unsigned units, double loss, double* shared,
                                             bool* is_last) {
  double total = sum_of_block(loss, shared);
  if (units > 1) {
    if (threadIdx.x == 0) a.workspace[unit] = total;
    if (!last_of(units, a.counter, is_last)) return;
    double sum = 0;
    for (unsigned i = threadIdx.x; i < units; i += blockDim.x) sum += __ldcg(a.workspace + i);
    total = sum_of_block(sum, shared);
  }
  if (threadIdx.x == 0) store_reduced<T>(a, total);
}

}  // namespace gpu
}  // namespace rcgm
