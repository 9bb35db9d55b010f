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

enum class Metric : int { kL2 = 0, kPseudoHuber = 1, kBarron = 2 };

struct LossOptions {
  double clip;        // infinity: no clamp
  Metric metric;
  double metric_c;    // width of pseudo-Huber and Barron
  double metric_alpha;  // shape of Barron
  double cosine;      // weight of the cosine term; 0: none
  double normalize;   // constant of the tangent normalisation; negative: none
  double power;       // adaptive weight 1 / (|R|^2 + eps)^power; 0: none
  double eps;
  double grad_scale;  // what the stored gradient is multiplied by: the reduction's 1/B, and fp16's range guard
};

// The most network outputs, velocities and states that one residual may combine.
constexpr int kMaxTerms = 32;

}  // namespace rcgm
