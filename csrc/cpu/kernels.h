// The CPU kernels, compiled once for every instruction set that a machine may have and chosen at run time.
#pragma once

#include "../common/arrays.h"

namespace rcgm {

struct LossArguments {
  int64_t batch, size;
  Array pred;
  Array terms[kMaxTerms];
  int count;
  bool float64;  // arithmetic in double
  Scalars scalars, pred_coeff, scale, weight, normalize_scale;
  LossOptions options;
  void* loss;             // one value or [batch], of the compute type
  MutableArray gradient;  // null data: not wanted
  float* storage_scales;  // [batch]; null unless the gradient is scaled
  int threads;
};

struct InterpolateArguments {
  int64_t batch, size;
  Array x, z;
  int points;
  Scalars alpha, gamma;  // [points, batch]
  MutableArray out;      // [points * batch, size], dense
  int threads;
};

struct AdvanceArguments {
  int64_t batch, size;
  Array x, velocity;
  Scalars t, r;
  MutableArray out;
  int threads;
};

struct ScaleArguments {
  int64_t batch, size;
  MutableArray gradient;
  Scalars upstream;  // stride 0: one value for all samples
  Scalars scales;    // what the gradient is stored with
  int threads;
};

struct EmaArguments {
  const EmaTensor* tensors;
  int64_t count;
  double decay;
  int threads;
};

struct Kernels {
  const char* isa;
  // Returns the first sample that has a weight and whose knots are out of order, in which case the results are of no use;
  // else -1.
  int64_t (*residual_loss)(const LossArguments&);
  void (*interpolate)(const InterpolateArguments&);
  void (*advance)(const AdvanceArguments&);
  void (*scale)(const ScaleArguments&);
  void (*ema)(const EmaArguments&);
};

// The table for the best instruction set of this machine, or for the one called `name` (null: best); null if it is not
// there. `isa_names` lists those that run here, best first, separated by commas.
const Kernels* kernels_for(const char* name);
const char* isa_names();

}  // namespace rcgm
