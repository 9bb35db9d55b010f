// Sums over lanes, warps, blocks and clusters, always in the same order, and the block that finishes last.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "formulas.cuh"
#include "loss_plan.h"

namespace rcgm {
namespace gpu {

static_assert(sizeof(Sums) == kBytesOfSums, "the layout of shared memory counts on it");

constexpr unsigned kAllLanes = 0xffffffffu;

// The shared memory whose size the launch decides.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ uint4 shared[];
  return reinterpret_cast<char*>(shared);
}

// Sum over each aligned group of `lanes` (a power of two up to 32), in all of its lanes. The whole warp takes part.
__device__ __forceinline__ double sum_of_lanes(double value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// Sums of one thread over its elements, in the compute type.
template <typename T>
struct RunningSums {
  T rr = 0, pp = 0, pr = 0, yy = 0;

  template <int V>
  __device__ __forceinline__ void add(const T (&residual)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) rr += residual[i] * residual[i];
  }
  template <int V>
  __device__ __forceinline__ void add(const T (&residual)[V], const T (&pred)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const T y = pred[i] - residual[i];
      pp += pred[i] * pred[i];
      pr += pred[i] * residual[i];
      yy += y * y;
    }
  }
  __device__ __forceinline__ Sums over_lanes(int lanes, bool cosine) const {
    Sums s = {sum_of_lanes(double(rr), lanes), 0, 0, 0};
    if (cosine) {
      s.pp = sum_of_lanes(double(pp), lanes);
      s.pr = sum_of_lanes(double(pr), lanes);
      s.yy = sum_of_lanes(double(yy), lanes);
    }
    return s;
  }
};

__device__ __forceinline__ void add_to(Sums* total, const Sums& s) {
  total->rr += s.rr;
  total->pp += s.pp;
  total->pr += s.pr;
  total->yy += s.yy;
}

// Sum over the block, in thread 0. `warps` has room for one value a warp, and nobody else is using it.
__device__ __forceinline__ double sum_of_block(double value, double* warps) {
  value = sum_of_lanes(value, kWarp);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) total += warps[warp];
  }
  return total;
}

// True, in all threads, for the last of `blocks` blocks that gets here. It sees what thread 0 of each block wrote before, and
// sets the counter back to 0.
__device__ __forceinline__ bool last_of(unsigned blocks, unsigned* counter, bool* shared) {
  if (threadIdx.x == 0) {
    __threadfence();
    *shared = atomicInc(counter, blocks - 1) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return *shared;
}

// Clusters exist from compute capability 9.0 on; elsewhere the host never asks for one.
__device__ __forceinline__ int rank_in_cluster(int cluster) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (cluster > 1) return int(cooperative_groups::this_cluster().block_rank());
#endif
  return 0;
}

__device__ __forceinline__ void cluster_barrier(int cluster) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (cluster > 1) cooperative_groups::this_cluster().sync();
#endif
}

// The shared variable of block `rank` of the cluster that `mine` is in this block.
template <typename T>
__device__ __forceinline__ T* in_block(T* mine, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
#else
  return mine;
#endif
}

}  // namespace gpu
}  // namespace rcgm
