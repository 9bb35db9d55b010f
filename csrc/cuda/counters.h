// Counters of finished blocks, which are 0 before and after a launch.
#pragma once

#include "kernels.h"

namespace rcgm {
namespace gpu {

constexpr int kCounters = 16384, kCountersOfStreams = 1024;

// A counter that no launch uses at the same time as one of `place`, whose device is the current one.
//
// Launches on one stream run one after the other and share a counter. A graph may be replayed on any stream, so each launch
// that is captured gets one of its own. Once all are given away, `own` is cleared and taken, at the price of one more node.
unsigned* counter_for(const Place& place, unsigned* own);

}  // namespace gpu
}  // namespace rcgm
