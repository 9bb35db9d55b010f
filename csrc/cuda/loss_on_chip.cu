// The loss in one pass with everything that is needed twice kept on the chip: many small samples a block, one sample a
// block, or one sample a cluster of blocks that add up their sums through distributed shared memory.
#include "finish.cuh"
#include "kept.cuh"

namespace rcgm {
namespace gpu {
namespace {

// Limits the registers of a thread, to 80 (double: 128), so that three (two) blocks of the usual size fit on a multiprocessor.
template <typename T>
constexpr int kRegisterBound = sizeof(T) == 8 ? kOnChipThreads : 3 * kUsualBlock;

template <typename S>
__global__ void __launch_bounds__(kRegisterBound<typename S::T>, 1) on_chip_kernel(const __grid_constant__ LossParameters p) {
  using T = typename S::T;
  constexpr int V = S::kWidth;
  __shared__ double loss_sums[kOnChipThreads / kWarp];
  __shared__ bool is_last;

  const LossArguments& a = p.a;
  const int threads = int(blockDim.x), lanes = p.plan.lanes, cluster = p.plan.shape.cluster, groups = threads / lanes;
  const int lane = int(threadIdx.x) & (lanes - 1), group = int(threadIdx.x) / lanes, rank = rank_in_cluster(cluster);
  const int64_t unit = blockIdx.x / unsigned(cluster), sample = unit * groups + group;
  const bool exists = sample < a.batch, cosine = a.options.cosine != 0, keep = p.plan.keep;
  const bool write_now = a.gradient.data && !keep;

  char* const base = dynamic_shared();
  const OnChipLayout layout = on_chip_layout(threads, lanes, a.count, int(sizeof(T)), p.plan.kept);
  Sums* const warp_sums = reinterpret_cast<Sums*>(base);
  Sums* const block_sums = reinterpret_cast<Sums*>(base + layout.block_sums);
  T* const slots = reinterpret_cast<T*>(base + layout.slots) + group * slot_count(a.count);
  const int64_t room = divided_up(p.plan.kept * int64_t(sizeof(T)), 16) * 16;
  T* const kept = reinterpret_cast<T*>(base + layout.kept + group * room);

  if (lane < kWarp) {
    prepare(a, sample, lane, lanes < kWarp ? lanes : kWarp, slots);
    if (lane == 0 && write_now && exists) {
      set_factors(finish_sample(plain(a.options), Sums{0, 0, 0, 0}, double(a.size), sample_of(a, sample)), slots);
    }
  }
  __syncthreads();
  const bool active = slots[kActive] != 0;

  const int64_t all_vectors = exists ? a.size / V : 0;
  const Range mine = part_of(all_vectors, rank, cluster);
  const int64_t tail = all_vectors * V, end = exists && rank == cluster - 1 ? a.size : tail;
  const Kept<T, V> kept_vectors = {kept, mine.end - mine.begin};
  T* const kept_tail = kept + (mine.end - mine.begin) * V;

  RunningSums<T> running;
  const auto look_at = [&](auto& value, int64_t offset) {
    constexpr int kCount = sizeof(value) / sizeof(T);
    residual<S, kCount>(a, slots, sample, offset, value);
    running.add(value);
    if (cosine && active) {
      T pred[kCount];
      prediction<S, kCount>(a, sample, offset, pred);
      running.add(value, pred);
    }
    if (write_now) write_gradient<S, kCount>(a, slots, sample, offset, value);
  };
  for (int64_t vector = mine.begin + lane; vector < mine.end; vector += lanes) {
    T value[V];
    look_at(value, vector * V);
    if (keep) kept_vectors.put(vector - mine.begin, value);
  }
  if constexpr (V > 1) {
    for (int64_t i = tail + lane; i < end; i += lanes) {
      T value[1];
      look_at(value, i);
      if (keep) kept_tail[i - tail] = value[0];
    }
  }

  Sums sums = running.over_lanes(lanes < kWarp ? lanes : kWarp, cosine);
  if (lanes > kWarp) {
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sums;
    __syncthreads();
    if (lane == 0) {
      const int first = group * lanes / kWarp;
      sums = warp_sums[first];
      for (int warp = 1; warp < lanes / kWarp; ++warp) add_to(&sums, warp_sums[first + warp]);
    }
  }
  if (cluster > 1) {
    if (threadIdx.x == 0) *block_sums = sums;
    cluster_barrier(cluster);
    if (threadIdx.x == 0) {
      sums = *in_block(block_sums, 0);
      for (int other = 1; other < cluster; ++other) add_to(&sums, *in_block(block_sums, other));
    }
  }

  double loss = 0;
  if (lane == 0 && exists) {
    const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample_of(a, sample));
    loss = outcome.loss;
    if (keep) set_factors(outcome, slots);
    if (rank == 0) {
      store_scale(a, sample, outcome);
      if (a.options.reduction == Reduction::kNone) store_loss<T>(a, sample, loss);
    }
  }
  __syncthreads();
  if (keep) {
    for (int64_t vector = mine.begin + lane; vector < mine.end; vector += lanes) {
      T value[V];
      kept_vectors.get(vector - mine.begin, value);
      write_gradient<S, V>(a, slots, sample, vector * V, value);
    }
    if constexpr (V > 1) {
      for (int64_t i = tail + lane; i < end; i += lanes) {
        const T value[1] = {kept_tail[i - tail]};
        write_gradient<S, 1>(a, slots, sample, i, value);
      }
    }
  }
  cluster_barrier(cluster);  // no block may leave while another reads its sums
  if (a.options.reduction == Reduction::kNone || rank != 0) return;

  reduce_units<T>(a, unsigned(unit), gridDim.x / unsigned(cluster), loss, loss_sums, &is_last);
}

}  // namespace

void launch_on_chip(const LossParameters& p, const Place& place) {
  with_storage(p.storage, [&](auto storage) {
    launch(on_chip_kernel<decltype(storage)>, "the loss kernel that keeps the residual on the chip", p.plan.shape, place, p);
  });
}

bool on_chip_cluster_fits(const LossParameters& p, int device) {
  bool fits = false;
  with_storage(p.storage, [&](auto storage) { fits = cluster_fits(on_chip_kernel<decltype(storage)>, p.plan.shape, device); });
  return fits;
}

}  // namespace gpu
}  // namespace rcgm
