// The emulated device. See cuda_runtime.h.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "cuda/counters.h"
#include "cuda_runtime.h"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace rcgm {
namespace gpu {
constexpr size_t kSharedRoom = 256 * 1024;
extern thread_local uint4 shared[kSharedRoom / sizeof(uint4)];  // what the kernels declare as extern __shared__
thread_local uint4 shared[kSharedRoom / sizeof(uint4)];
extern unsigned counters[kCounters];
}  // namespace gpu
}  // namespace rcgm

namespace {

constexpr size_t kStackBytes = 192 * 1024;
constexpr unsigned kFixedShared = 1000;  // more than any kernel declares
constexpr unsigned kWarp = 32, kDefaultShared = 48 * 1024 - kFixedShared, kPortableCluster = 8;
constexpr unsigned char kPoison = 0xff;  // NaN in every dtype

struct Device {
  int multiprocessors = 4, shared_bytes = 227 * 1024, largest_cluster = 16;
  bool backwards = false;  // run the threads of a block in the other order
  int64_t launches = 0;
} device;

std::map<const void*, int> allowed_shared, allowed_cluster;

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "emulated CUDA device: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  abort();
}

enum class State { kReady, kAtBlock, kAtWarp, kAtCluster, kDone };

struct Cluster {
  pthread_barrier_t barrier;
  std::vector<char*> shared;
};

// One block: its threads are fibers, run in turn until they wait.
struct Block {
  const std::function<void()>* thread;
  Cluster* cluster;
  unsigned rank;
  std::vector<State> states;
  std::vector<ucontext_t> fibers;
  std::vector<std::unique_ptr<char[]>> stacks;
  ucontext_t scheduler;
  uint64_t exchanged[32][32];  // of each warp and lane

  void enter(unsigned t) {
    threadIdx.x = t;
    swapcontext(&scheduler, &fibers[t]);
  }
  void wait(State state) {
    const unsigned t = threadIdx.x;
    states[t] = state;
    swapcontext(&fibers[t], &scheduler);
  }
  bool all(State state, size_t begin, size_t end) const {
    for (size_t t = begin; t < end; ++t) {
      if (states[t] != state) return false;
    }
    return true;
  }
  void release(size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) states[t] = State::kReady;
  }
  void run();
};

thread_local Block* current;

void fiber_main() {
  (*current->thread)();
  current->wait(State::kDone);
}

void Block::run() {
  const size_t count = blockDim.x;
  states.assign(count, State::kReady);
  fibers.resize(count);
  current = this;
  for (size_t t = 0; t < count; ++t) {
    if (stacks.size() <= t) stacks.emplace_back(new char[kStackBytes]);
    getcontext(&fibers[t]);
    fibers[t].uc_stack.ss_sp = stacks[t].get();
    fibers[t].uc_stack.ss_size = kStackBytes;
    fibers[t].uc_link = nullptr;
    makecontext(&fibers[t], fiber_main, 0);
  }
  while (!all(State::kDone, 0, count)) {
    for (size_t i = 0; i < count; ++i) {
      const size_t t = device.backwards ? count - 1 - i : i;
      if (states[t] == State::kReady) enter(unsigned(t));
    }
    bool released = false;
    for (size_t warp = 0; warp < count; warp += kWarp) {
      if (all(State::kAtWarp, warp, warp + kWarp)) release(warp, warp + kWarp), released = true;
    }
    if (released) continue;
    if (all(State::kAtBlock, 0, count)) {
      release(0, count);
    } else if (all(State::kAtCluster, 0, count)) {
      pthread_barrier_wait(&cluster->barrier);
      release(0, count);
    } else if (!all(State::kDone, 0, count)) {
      fail("some threads wait where others do not come");
    }
  }
}

// One block on this thread of the host, with poisoned shared memory of exactly the size that was asked for.
void run_block(Block& block, const cudaLaunchConfig_t& config, unsigned index) {
  blockIdx = {index, 0, 0};
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  unsigned char* shared = reinterpret_cast<unsigned char*>(rcgm::gpu::shared);
  memset(shared, kPoison, rcgm::gpu::kSharedRoom);
  block.run();
  for (size_t i = config.dynamicSmemBytes; i < rcgm::gpu::kSharedRoom; ++i) {
    if (shared[i] != kPoison) fail("a write beyond the dynamic shared memory");
  }
}

void run_cluster(const cudaLaunchConfig_t& config, const std::function<void()>& thread, unsigned first, unsigned size) {
  Cluster cluster;
  cluster.shared.resize(size);
  pthread_barrier_init(&cluster.barrier, nullptr, size);
  std::vector<std::thread> blocks;
  for (unsigned rank = 0; rank < size; ++rank) {
    blocks.emplace_back([&, rank] {
      cluster.shared[rank] = reinterpret_cast<char*>(rcgm::gpu::shared);
      pthread_barrier_wait(&cluster.barrier);
      const auto block = std::make_unique<Block>();
      block->thread = &thread;
      block->cluster = &cluster;
      block->rank = rank;
      run_block(*block, config, first + rank);
      pthread_barrier_wait(&cluster.barrier);  // shared memory goes with its thread
    });
  }
  for (std::thread& block : blocks) block.join();
  pthread_barrier_destroy(&cluster.barrier);
}

}  // namespace

namespace emulation {

std::mutex atomics;

void wait_for_block() { current->wait(State::kAtBlock); }
void wait_for_warp() { current->wait(State::kAtWarp); }
void wait_for_cluster() { current->wait(State::kAtCluster); }
unsigned rank_in_cluster() { return current->rank; }
void* exchange_slot(unsigned lane) { return &current->exchanged[threadIdx.x / kWarp][lane]; }

void* in_block(void* mine, unsigned rank) {
  const Cluster& cluster = *current->cluster;
  if (rank >= cluster.shared.size()) fail("no such block in the cluster");
  return cluster.shared[rank] + (static_cast<char*>(mine) - cluster.shared[current->rank]);
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute which, int value) {
  if (which == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value + int(kFixedShared) > device.shared_bytes) return cudaErrorInvalidConfiguration;
    allowed_shared[kernel] = value;
  } else {
    allowed_cluster[kernel] = value;
  }
  return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const unsigned cluster = config.numAttrs ? config.attrs[0].val.clusterDim.x : 1;
  const unsigned shared = allowed_shared.count(kernel) ? unsigned(allowed_shared[kernel]) : kDefaultShared;
  const bool fits = config.gridDim.x > 0 && config.gridDim.x % cluster == 0 && config.blockDim.x % kWarp == 0 &&
                    config.blockDim.x <= 1024 && config.dynamicSmemBytes <= shared &&
                    int(cluster) <= device.largest_cluster && (cluster <= kPortableCluster || allowed_cluster[kernel]);
  if (!fits) return cudaErrorInvalidConfiguration;
  ++device.launches;
  Block block;
  block.thread = &thread;
  block.rank = 0;
  for (unsigned first = 0; first < config.gridDim.x; first += cluster) {
    if (cluster > 1) {
      run_cluster(config, thread, first, cluster);
    } else {
      run_block(block, config, first);
    }
  }
  return cudaSuccess;
}

}  // namespace emulation

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount            ? device.multiprocessors
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? device.shared_bytes
                                                              : device.largest_cluster > 1;
  return cudaSuccess;
}

cudaError_t emulated_clusters(int* count, const cudaLaunchConfig_t* config) {
  *count = int(config->attrs[0].val.clusterDim.x) <= device.largest_cluster;
  return cudaSuccess;
}

extern "C" __attribute__((visibility("default"))) void emulate(int multiprocessors, int shared_bytes, int largest_cluster,
                                                               int backwards) {
  device.multiprocessors = multiprocessors;
  device.shared_bytes = shared_bytes;
  device.largest_cluster = largest_cluster;
  device.backwards = backwards != 0;
}

extern "C" __attribute__((visibility("default"))) int64_t emulated_launches() { return device.launches; }

extern "C" __attribute__((visibility("default"))) int emulated_counters_are_zero() {
  for (unsigned counter : rcgm::gpu::counters) {
    if (counter) return 0;
  }
  return 1;
}
