// The CUDA kernels as the bindings see them: raw device pointers, sizes and a stream. Everything throws std::runtime_error
// when CUDA reports an error, and nothing waits for the device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../common/arrays.h"

namespace rcgm {
namespace gpu {

struct LossArguments {
  int64_t batch, size;  // both > 0
  Array pred;           // read for the cosine term; the combination names it among `tensors` if it belongs there
  Array tensors[kMaxTerms];
  int count;             // tensors of the combination; the first is the anchor where its coefficient is not 0
  Scalars scalars;     // knots, with which the coefficient of the first tensor is 1, or coefficients
  Scalars pred_coeff;  // of the first tensor where that is the prediction
  Scalars scale, weight, normalize_scale;
  LossOptions options;
  void* loss;             // one value or [batch], of the compute type
  MutableArray gradient;  // null data: not wanted
  float* storage_scales;  // [batch]; null unless the gradient is scaled
  double* workspace;      // loss_workspace(...) doubles, of any content
  unsigned* counter;      // of finished blocks; chosen by residual_loss
};

struct InterpolateArguments {
  int64_t batch, size;
  Array x, z;
  int points;
  Scalars alpha, gamma;  // [points, batch]
  MutableArray out;      // [points * batch, size], dense
};

struct AdvanceArguments {
  int64_t batch, size;
  Array x, velocity;
  Scalars t, r;
  MutableArray out;
};

struct ScaleArguments {
  int64_t batch, size;
  MutableArray gradient;
  Scalars upstream;  // stride 0: one value for all samples
  Scalars scales;    // what the gradient is stored with
};

// The device and the stream of a launch. torch has its own copy of the CUDA runtime: what it selected there does not count here.
struct Place {
  int device;
  void* stream;
};

// How residual_loss would split the work, in words: for benchmarks and tests.
struct LossDescription {
  const char* path;  // "on chip", "stream" or "two passes"
  int lanes, cluster;
  int64_t blocks, shared_bytes;
};

std::string problem();  // why no kernel can run here; empty if one can
bool runs_on(int device);  // makes it the current device

int64_t loss_workspace(int device, int64_t batch, int64_t size, int64_t positions);
LossDescription describe_loss(const LossArguments& a, int device);
void residual_loss(const LossArguments& a, const Place& place);
void interpolate(const InterpolateArguments& a, const Place& place);
void advance(const AdvanceArguments& a, const Place& place);
void scale(const ScaleArguments& a, const Place& place);
void ema(const std::vector<EmaTensor>& tensors, double decay, const Place& place);

}  // namespace gpu
}  // namespace rcgm
