// How [batch, size] is split over blocks and threads. Plain arithmetic, the same on host and device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace rcgm {
namespace gpu {

__host__ __device__ __forceinline__ int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t begin, end;
};

// Part `rank` of `ranks` almost equal parts of `count` things.
__host__ __device__ __forceinline__ Range part_of(int64_t count, int rank, int ranks) {
  return {count * rank / ranks, count * (rank + 1) / ranks};
}

// A large sample is cut in chunks of this many elements. Any vector width divides it, and a block of 256 threads with
// vectors of 8 goes through it once.
constexpr int64_t kSmallestChunk = 2048, kLargestChunk = 16384;

// Enough chunks to fill the device several times over, but none smaller than one round of a block.
inline int64_t chunk_size(int64_t batch, int64_t size, int multiprocessors) {
  int64_t chunk = kLargestChunk;
  while (chunk > kSmallestChunk && batch * divided_up(size, chunk) < 4 * int64_t(multiprocessors)) chunk /= 2;
  const int64_t even = divided_up(size, divided_up(size, chunk));
  return divided_up(even, kSmallestChunk) * kSmallestChunk;
}

inline int power_of_two_from(int64_t count, int most) {
  int power = 1;
  while (power < count && power < most) power *= 2;
  return power;
}

// For the elementwise kernels: `lanes` threads a sample, several samples a block if they are small, several blocks a
// sample if they are large.
constexpr int kPartitionThreads = 256;

struct Partition {
  int64_t batch, size, chunk;
  int chunks, lanes;
};

inline Partition partition(int64_t batch, int64_t size, int width, int multiprocessors) {
  Partition p = {batch, size, size, 1, power_of_two_from(divided_up(size, width), kPartitionThreads)};
  if (p.lanes == kPartitionThreads) {
    p.chunk = chunk_size(batch, size, multiprocessors);
    p.chunks = int(divided_up(size, p.chunk));
  }
  return p;
}

inline int64_t blocks_of(const Partition& p) { return divided_up(p.batch, kPartitionThreads / p.lanes) * p.chunks; }

// What one thread works on: elements begin, begin + 1, ... end - 1 of a sample, together with the other lanes of its group.
struct Work {
  int64_t sample, begin, end;
  int lane;
};

__host__ __device__ __forceinline__ Work work_of(const Partition& p, unsigned block, int thread) {
  const unsigned chunk = block % unsigned(p.chunks);
  const int64_t group = block / unsigned(p.chunks);
  Work w;
  w.lane = thread & (p.lanes - 1);
  w.sample = group * (kPartitionThreads / p.lanes) + thread / p.lanes;
  w.begin = chunk * p.chunk;
  w.end = p.size < w.begin + p.chunk ? p.size : w.begin + p.chunk;
  if (w.sample >= p.batch) w.begin = w.end = 0;
  return w;
}

}  // namespace gpu
}  // namespace rcgm
