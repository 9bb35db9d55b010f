// The CPU kernels, compiled once for every instruction set that a machine may have and chosen at run time.
#pragma once

#include "../common/arrays.h"

namespace rcgm {

struct LossArguments {
  int64_t batch, size;
  Array pred;
  Array terms[kMaxTerms];
  int count;
  bool float64;           // arithmetic in double
  const double* scalars;
  const double* pred_coeff;  // [batch], null: 1
  const double* scale;       // [batch], null: 1
  const double* weight;      // [batch], null: 1
  const double* normalize_scale;  // [batch], null: 1
  LossOptions options;
  double* losses;         // [batch], out
  MutableArray gradient;  // out; null data: not wanted
  float* storage_scales;  // [batch], out; null unless the gradient is scaled
  int threads;
};

struct InterpolateArguments {
  int64_t batch, size;
  Array x, z;
  int points;
  bool float64;
  const double *alpha, *gamma;  // [points, batch]
  void* out;                    // [points, batch, size], dense
  DType out_dtype;
  int threads;
};

struct AdvanceArguments {
  int64_t batch, size;
  Array x, velocity;
  bool float64;
  const double *t, *r;  // [batch]
  MutableArray out;
  int threads;
};

struct ScaleArguments {
  int64_t batch, size;
  MutableArray gradient;
  const double* upstream;  // one value, or [batch]
  bool per_sample;
  const float* scales;  // what the gradient is stored with, [batch]; null: 1
  int threads;
};

struct EmaEntry {
  void* average;
  const void* param;
  void* copy;  // null: none
  int64_t size;
  DType average_dtype, param_dtype, copy_dtype;
};

struct EmaArguments {
  const EmaEntry* entries;
  int64_t count;
  double decay;
  int threads;
};

struct Kernels {
  const char* isa;
  void (*residual_loss)(const LossArguments&);
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
