// What the bindings hand to the kernels: raw pointers, dtypes, strides, options. No torch headers anywhere in csrc/.
#pragma once

#include <cstdint>

namespace rcgm {

enum class DType : int { kFloat64 = 0, kFloat32 = 1, kFloat16 = 2, kBFloat16 = 3 };

// A tensor [batch, ...] whose samples are dense; `stride` is the distance between samples in elements (0: expanded).
struct Array {
  const void* data;
  int64_t stride;
  DType dtype;
};

struct MutableArray {
  void* data;
  int64_t stride;
  DType dtype;
};

// Numbers per sample, [rows, batch], float32 or float64, with any strides. Null data stands for ones.
struct Scalars {
  const void* data;
  int64_t row_stride, stride;
  bool float64;
};

// One tensor of a model, its average, and a copy of the average in another dtype.
struct EmaTensor {
  void* average;
  const void* param;
  void* copy;  // null: none
  int64_t size;
  DType average_dtype, param_dtype, copy_dtype;
};

// The numbers of metrics and reductions are the places of their names in METRICS and REDUCTIONS of rcgm_kernels/options.py.
enum class Metric : int { kL2 = 0, kPseudoHuber = 1, kBarron = 2, kBarronReweighting = 3 };

enum class Reduction : int { kMean = 0, kSum = 1, kNone = 2 };

// LossPlan.numbers of rcgm_kernels/plan.py gives the fields in this order.
struct LossOptions {
  bool times;             // the per-sample numbers are knots [N+2, batch] rather than coefficients [K, batch]
  bool pred_in_residual;  // the combination starts with the prediction; else with the first term
  double clip;        // infinity: no clamp
  Metric metric;
  double metric_c;    // width of pseudo-Huber and Barron
  double metric_alpha;  // shape of Barron
  double cosine;      // weight of the cosine term; 0: none
  int64_t positions;  // of a sample, at each of which that cosine is over the channels; 0: it is over the sample
  double normalize;   // constant of the tangent normalisation; negative: none
  double power;       // adaptive weight 1 / (size + eps)^power; 0: none
  double eps;
  bool adaptive_of_loss;  // its size is the sample's loss, else |R|^2
  bool sum_of_elements;   // a sample's squares are added up, else averaged
  double share;           // of a sample in the loss of the batch: what its gradient is multiplied by
  bool scaled;            // the gradient is stored with a scale for each sample (Outcome::storage_scale)
  Reduction reduction;  // over samples
};

// The options from `fields`, which gives field i as a number.
template <typename Fields>
LossOptions loss_options(const Fields& fields) {
  int i = 0;
  const auto next = [&] { return double(fields(i++)); };
  LossOptions o = {};
  o.times = next() != 0;
  o.pred_in_residual = next() != 0;
  o.clip = next();
  o.metric = Metric(int(next()));
  o.metric_c = next();
  o.metric_alpha = next();
  o.cosine = next();
  o.positions = int64_t(next());
  o.normalize = next();
  o.power = next();
  o.eps = next();
  o.adaptive_of_loss = next() != 0;
  o.sum_of_elements = next() != 0;
  o.share = next();
  o.scaled = next() != 0;
  o.reduction = Reduction(int(next()));
  return o;
}

// The most network outputs, velocities and states that one residual may combine.
constexpr int kMaxTerms = 32;

}  // namespace rcgm
