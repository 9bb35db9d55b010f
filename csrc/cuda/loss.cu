// residual_loss: the choice among the loss kernels.
#include "counters.h"
#include "formulas.cuh"
#include "loss_kernels.h"

namespace rcgm {
namespace gpu {
namespace {

Limits limits_of(int device) {
  Limits limits;
  limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  limits.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) - kFixedSharedBytes;
  limits.cluster = attribute(cudaDevAttrClusterLaunch, device) ? kLargestCluster : 1;
  return limits;
}

LossParameters planned(const LossArguments& a, int device) {
  // The prediction is not read without a cosine term, but its dtype still decides about float64.
  const bool counts = a.options.cosine != 0 || a.pred.dtype == DType::kFloat64;
  const Tensors tensors({counts ? a.pred : Array{}, as_array(a.gradient)}, a.tensors, a.count);
  LossCase c = {a.batch, a.size, a.count, 0, tensors.any_is(DType::kFloat64) ? 8 : 4, gradient_needs_sums(a.options),
                a.gradient.data != nullptr, a.options.positions};
  const auto plan_with = [&](const Limits& limits) {
    // Two passes are rare without a cosine over the channels: any dtype is served by one kernel.
    LossParameters p = {a, {}, tensors.storage(a.batch)};
    if (c.positions % width_of(p.storage)) p.storage = tensors.mixed_storage(a.batch);
    if (c.positions % width_of(p.storage)) p.storage = scalar_storage(p.storage);
    c.width = width_of(p.storage);
    p.plan = c.positions ? channels_plan(c, limits) : loss_plan(c, limits);
    if (c.positions == 0 && c.needs_sums && p.plan.path != LossPath::kOnChip) p.storage = tensors.mixed_storage(a.batch);
    return p;
  };
  Limits limits = limits_of(device);
  LossParameters p = plan_with(limits);
  // A part of a device (MIG) may be too small for a cluster that the chip can run.
  const auto fits = [&] { return c.positions ? channels_cluster_fits(p, device) : on_chip_cluster_fits(p, device); };
  while (p.plan.shape.cluster > 1 && !fits()) {
    limits.cluster = p.plan.shape.cluster / 2;
    p = plan_with(limits);
  }
  return p;
}

}  // namespace

int64_t loss_workspace(int device, int64_t batch, int64_t size, int64_t positions) {
  return 1 + workspace_doubles(batch, size, positions, attribute(cudaDevAttrMultiProcessorCount, device));
}

LossDescription describe_loss(const LossArguments& a, int device) {
  const LossPlan p = planned(a, device).plan;
  const char* path = p.path == LossPath::kOnChip ? "on chip" : p.path == LossPath::kStream ? "stream" : "two passes";
  return {path, p.lanes, p.shape.cluster, p.shape.blocks, p.shape.shared_bytes};
}

void residual_loss(const LossArguments& a, const Place& place) {
  enter(place);
  LossParameters p = planned(a, place.device);
  p.a.counter = counter_for(place, reinterpret_cast<unsigned*>(a.workspace));
  p.a.workspace = a.workspace + 1;
  if (a.options.positions) {
    launch_channels(p, place);
  } else if (p.plan.path == LossPath::kOnChip) {
    launch_on_chip(p, place);
  } else {
    launch_stream(p, place);
  }
}

}  // namespace gpu
}  // namespace rcgm
