// Which kernels a loss runs, and how they split it. Host arithmetic only.
#pragma once

#include "launch.h"
#include "partition.h"
#include "slots.h"

namespace rcgm {
namespace gpu {

enum class LossPath {
  kOnChip,     // the residual stays in shared memory, or is not needed again: one launch, several samples a block, one
               // sample a block, or one sample a cluster of blocks
  kStream,     // several blocks a sample, nothing kept: one launch
  kTwoPasses,  // sums first; then everything is read again for the gradient
};

struct LossPlan {
  LossPath path;
  Shape shape;
  // on chip
  int lanes;          // threads a sample (of each block of its cluster)
  bool keep;          // the residual is needed again
  int64_t kept;       // elements of the residual that a block keeps for one sample
  // streaming
  int64_t chunk;  // elements, or positions with a cosine over the channels
  int chunks;
  int finish_lanes;  // threads that add up the chunks of one sample
  // with a cosine over the channels
  int groups;  // of `lanes` threads, which share the channels
};

// What the choice depends on.
struct LossCase {
  int64_t batch, size;
  int tensors, width;  // elements a vector
  int element_bytes;   // of the compute type
  bool needs_sums, with_gradient;
  int64_t positions;  // of a cosine over the channels; 0: none
};

struct Limits {
  int multiprocessors;
  int64_t shared_bytes;  // that a block may have
  int cluster;           // blocks; 1 where clusters do not exist
};

constexpr int kStreamThreads = 256;
constexpr int kSmallBlock = 128;     // threads of an on-chip block, for small samples
constexpr int kUsualBlock = 256;     // for others
constexpr int kOnChipThreads = 512;  // at most, where a block is alone on its multiprocessor
constexpr int kWarp = 32;
constexpr int64_t kBytesOfSums = 4 * sizeof(double);

// Samples up to this size do not fill a streaming block.
constexpr int64_t kSmallSample = 1024;

// Three blocks that keep this much fit a multiprocessor of Hopper and later, so that some read while others write; with a cosine
// over the channels two, since registers allow no more. A cluster shares a sample that needs more.
constexpr int64_t kComfortableBytes = 72 * 1024, kComfortableBytesOfChannels = 112 * 1024;
constexpr int64_t kSmallestShare = 8192;
constexpr int kLargestCluster = 16;

// Shared memory of the on-chip kernel, in this order: sums of the warps, sums of the block (read by its cluster), slots, kept.
struct OnChipLayout {
  int64_t block_sums, slots, kept, total;
};

__host__ __device__ __forceinline__ OnChipLayout on_chip_layout(int threads, int lanes, int tensors, int element_bytes,
                                                               int64_t kept) {
  OnChipLayout l;
  const int64_t groups = threads / lanes;
  l.block_sums = threads / kWarp * kBytesOfSums;
  l.slots = l.block_sums + kBytesOfSums;
  l.kept = divided_up(l.slots + groups * slot_count(tensors) * element_bytes, 16) * 16;
  l.total = l.kept + groups * divided_up(kept * element_bytes, 16) * 16;
  return l;
}

inline LossPlan on_chip_plan(const LossCase& c, int cluster) {
  LossPlan p = {};
  p.path = LossPath::kOnChip;
  const int64_t vectors = divided_up(divided_up(c.size, c.width), cluster);
  p.keep = c.needs_sums && c.with_gradient;
  p.kept = p.keep ? (vectors + 1) * c.width : 0;
  const int most = p.kept * c.element_bytes > kComfortableBytes ? kOnChipThreads : kUsualBlock;
  p.lanes = power_of_two_from(vectors, 2 * most);
  if (p.lanes > 64) p.lanes /= 2;  // two vectors a thread
  const int threads = p.lanes > kSmallBlock ? p.lanes : kSmallBlock;
  p.shape.threads = threads;
  p.shape.cluster = cluster;
  p.shape.blocks = divided_up(c.batch, threads / p.lanes) * cluster;
  p.shape.shared_bytes = on_chip_layout(threads, p.lanes, c.tensors, c.element_bytes, p.kept).total;
  return p;
}

inline LossPlan stream_plan(const LossCase& c, const Limits& limits) {
  LossPlan p = {};
  p.path = c.needs_sums && c.with_gradient ? LossPath::kTwoPasses : LossPath::kStream;
  p.chunk = chunk_size(c.batch, c.size, limits.multiprocessors);
  p.chunks = int(divided_up(c.size, p.chunk));
  p.finish_lanes = power_of_two_from(p.chunks, kWarp);
  p.lanes = p.shape.threads = kStreamThreads;
  p.shape.blocks = c.batch * p.chunks;
  return p;
}

inline LossPlan loss_plan(const LossCase& c, const Limits& limits) {
  if (c.size > kSmallSample && !(c.needs_sums && c.with_gradient)) return stream_plan(c, limits);
  LossPlan p = on_chip_plan(c, 1);
  // Larger clusters where a block would hold too much, or where there are fewer samples than multiprocessors.
  const auto too_large = [&] { return p.shape.shared_bytes > kComfortableBytes; };
  const auto too_few = [&] { return p.shape.blocks < limits.multiprocessors && c.size / (2 * p.shape.cluster) >= kSmallestShare; };
  while ((too_large() || too_few()) && 2 * p.shape.cluster <= limits.cluster && p.shape.cluster < kPortableCluster) {
    p = on_chip_plan(c, 2 * p.shape.cluster);
  }
  if (too_large() && limits.cluster >= kLargestCluster) p = on_chip_plan(c, kLargestCluster);
  return p.shape.shared_bytes > limits.shared_bytes ? stream_plan(c, limits) : p;
}

// A block takes so many positions, of all channels, that their residual can be kept.
constexpr int64_t kTileElements = 16384, kFewestPositions = 32, kMostPositions = 1024;

inline int64_t tile_of(int64_t channels) {
  const int64_t fit = kTileElements / channels / kFewestPositions * kFewestPositions;
  return fit < kFewestPositions ? kFewestPositions : fit < kMostPositions ? fit : kMostPositions;
}

// Shared memory of the kernel for channels: sums of the warps, sums of the block, slots, sums of the groups but the first,
// factors of each position, and the residual of all channels if it is kept (else `channels` is 0).
struct ChannelLayout {
  int64_t block_sums, slots, partial, factors, kept, total;
};

__host__ __device__ __forceinline__ ChannelLayout channel_layout(int threads, int lanes, int tensors, int element_bytes,
                                                                int width, int64_t tile, int64_t channels) {
  ChannelLayout l;
  l.block_sums = threads / kWarp * kBytesOfSums;
  l.slots = l.block_sums + kBytesOfSums;
  l.partial = divided_up(l.slots + slot_count(tensors) * element_bytes, 16) * 16;
  l.factors = l.partial + divided_up(int64_t(threads - lanes) * 4 * width * element_bytes, 16) * 16;
  l.kept = l.factors + divided_up(2 * tile * element_bytes, 16) * 16;
  l.total = l.kept + channels * tile * element_bytes;
  return l;
}

inline LossPlan channels_plan_of(const LossCase& c, LossPath path, int64_t tile, int cluster, bool keep,
                                 int most = kUsualBlock) {
  LossPlan p = {};
  const int64_t channels = c.size / c.positions;
  p.path = path;
  p.keep = keep;
  p.chunk = divided_up(tile, c.width) * c.width;
  p.chunks = cluster > 1 ? cluster : int(divided_up(c.positions, p.chunk));
  p.finish_lanes = power_of_two_from(p.chunks, kWarp);
  p.lanes = power_of_two_from(divided_up(p.chunk, c.width), most);
  p.groups = power_of_two_from(channels, most / p.lanes);
  p.shape.threads = p.lanes * p.groups < kWarp ? kWarp : p.lanes * p.groups;
  p.shape.cluster = cluster;
  p.shape.blocks = c.batch * p.chunks;
  p.shape.shared_bytes =
      channel_layout(p.shape.threads, p.lanes, c.tensors, c.element_bytes, c.width, p.chunk, keep ? channels : 0).total;
  const bool alone = p.shape.shared_bytes > kComfortableBytesOfChannels && most < kOnChipThreads;
  return alone ? channels_plan_of(c, path, tile, cluster, keep, kOnChipThreads) : p;
}

inline LossPlan channels_plan(const LossCase& c, const Limits& limits) {
  const bool keep = c.with_gradient;
  const auto on_chip = [&](int cluster) {
    return channels_plan_of(c, LossPath::kOnChip, divided_up(c.positions, cluster), cluster, keep);
  };
  LossPlan p = on_chip(1);
  const auto too_large = [&] { return p.shape.shared_bytes > kComfortableBytesOfChannels; };
  const auto too_few = [&] { return p.shape.blocks < limits.multiprocessors && c.size / (2 * p.shape.cluster) >= kSmallestShare; };
  while ((too_large() || too_few()) && 2 * p.shape.cluster <= limits.cluster && p.shape.cluster < kPortableCluster) {
    p = on_chip(2 * p.shape.cluster);
  }
  if (too_large() && limits.cluster >= kLargestCluster) p = on_chip(kLargestCluster);
  if (p.shape.shared_bytes <= limits.shared_bytes) return p;
  const auto several = [&](bool kept) {
    const LossPath path = c.needs_sums && c.with_gradient ? LossPath::kTwoPasses : LossPath::kStream;
    return channels_plan_of(c, path, tile_of(c.size / c.positions), 1, kept);
  };
  p = several(keep);
  return p.shape.shared_bytes > limits.shared_bytes ? several(false) : p;
}

// Doubles that any plan for [batch, size] may write: four sums a chunk, two factors a sample.
inline int64_t workspace_doubles(int64_t batch, int64_t size, int64_t positions, int multiprocessors) {
  const int64_t chunks = positions ? divided_up(positions, tile_of(size / positions))
                                   : divided_up(size, chunk_size(batch, size, multiprocessors));
  return 4 * batch * chunks + 2 * batch;
}

}  // namespace gpu
}  // namespace rcgm
