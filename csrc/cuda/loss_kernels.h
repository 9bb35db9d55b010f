// The families of loss kernels, compiled apart.
#pragma once

#include "loss_plan.h"
#include "storage.h"

namespace rcgm {
namespace gpu {

// The arguments of a kernel: they go into constant memory, once a launch.
struct LossParameters {
  LossArguments a;
  LossPlan plan;
  Storage storage;
};

void launch_on_chip(const LossParameters& p, const Place& place);
void launch_stream(const LossParameters& p, const Place& place);
void launch_channels(const LossParameters& p, const Place& place);

// Whether the current device, which is `device`, can hold a cluster of the plan's shape at all.
bool on_chip_cluster_fits(const LossParameters& p, int device);
bool channels_cluster_fits(const LossParameters& p, int device);

}  // namespace gpu
}  // namespace rcgm
