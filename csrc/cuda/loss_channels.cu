// The loss with a cosine over the channels at each position. A block takes a tile of positions and loops over the channels,
// which lie as far apart as there are positions. Groups of threads share the channels; each lane of a group has a vector of
// positions. The residual is needed twice, so it stays in shared memory. If a block or a cluster of blocks can hold a sample,
// there is one launch. Otherwise each sample has several blocks, in one launch, or in two if the gradient needs sums over the
// sample.
#include "finish.cuh"
#include "kept.cuh"

namespace rcgm {
namespace gpu {
namespace {

template <typename S>
__global__ void __launch_bounds__(kOnChipThreads, 1)
    channels_kernel(const __grid_constant__ LossParameters p, const bool second) {
  using T = typename S::T;
  constexpr int V = S::kWidth;
  __shared__ double loss_sums[kOnChipThreads / kWarp];
  __shared__ bool is_last;

  const LossArguments& a = p.a;
  const LossPlan& plan = p.plan;
  const int64_t positions = a.options.positions, channels = a.size / positions;
  const unsigned chunks = unsigned(plan.chunks), chunk = blockIdx.x % chunks;
  const int64_t sample = blockIdx.x / chunks, begin = int64_t(chunk) * plan.chunk;
  const int64_t left = positions - begin, vectors = (left < plan.chunk ? left < 0 ? 0 : left : plan.chunk) / V;
  const int lanes = plan.lanes, groups = plan.groups, cluster = plan.shape.cluster, threads = int(blockDim.x);
  const int lane = int(threadIdx.x) % lanes, group = int(threadIdx.x) / lanes;
  const bool on_chip = plan.path == LossPath::kOnChip;
  const bool at_once = plan.path == LossPath::kStream && a.gradient.data;

  char* const base = dynamic_shared();
  const ChannelLayout layout =
      channel_layout(threads, lanes, a.count, int(sizeof(T)), V, plan.chunk, plan.keep ? channels : 0);
  Sums* const warp_sums = reinterpret_cast<Sums*>(base);
  Sums* const block_sums = reinterpret_cast<Sums*>(base + layout.block_sums);
  T* const slots = reinterpret_cast<T*>(base + layout.slots);
  const int others = threads - lanes, room = int(plan.chunk) / V;  // threads behind the first group; vectors of a tile
  const Kept<T, V> partial = {reinterpret_cast<T*>(base + layout.partial), 4 * others};
  const Kept<T, V> by_residual = {reinterpret_cast<T*>(base + layout.factors), room};
  const Kept<T, V> by_pred = {by_residual.data + plan.chunk, room};
  const Kept<T, V> kept = {reinterpret_cast<T*>(base + layout.kept), channels * room};

  if (threadIdx.x < kWarp) {
    prepare(a, sample, int(threadIdx.x), kWarp, slots);
    if (threadIdx.x == 0 && second) {
      const double* factors = factors_of(p, sample);
      set_factors(Outcome{0, factors[0], factors[1], 1}, slots);
    } else if (threadIdx.x == 0 && at_once) {
      set_factors(finish_sample(a.options, Sums{0, 0, 0, 0}, double(a.size), sample_of(a, sample)), slots);
    }
  }
  __syncthreads();
  const bool active = slots[kActive] != 0;

  const auto read = [&](int64_t offset, T (&value)[V], T (&pred)[V]) {
    residual<S, V>(a, slots, sample, offset, value);
    if (active) {
      prediction<S, V>(a, sample, offset, pred);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) pred[i] = 0;
    }
  };

  Sums sums = {0, 0, 0, 0};
  for (int64_t first = 0; first < vectors; first += lanes) {
    const int64_t vector = first + lane;
    const bool here = vector < vectors && group < groups;
    T rr[V], pp[V], pr[V], yy[V];
#pragma unroll
    for (int i = 0; i < V; ++i) rr[i] = pp[i] = pr[i] = yy[i] = 0;
    for (int64_t channel = group; here && channel < channels; channel += groups) {
      T value[V], pred[V];
      read(channel * positions + begin + vector * V, value, pred);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const T y = pred[i] - value[i];
        rr[i] += value[i] * value[i];
        pp[i] += pred[i] * pred[i];
        pr[i] += pred[i] * value[i];
        yy[i] += y * y;
      }
      if (plan.keep) kept.put(channel * room + vector, value);
    }
    if (groups > 1) {  // added up by the first group, in the order of the groups
      const auto add = [&](int other, int kind, T (&to)[V]) {
        T theirs[V];
        partial.get(kind * others + (other - 1) * lanes + lane, theirs);
#pragma unroll
        for (int i = 0; i < V; ++i) to[i] += theirs[i];
      };
      if (here && group > 0) {
        const int mine = int(threadIdx.x) - lanes;
        partial.put(mine, rr), partial.put(others + mine, pp);
        partial.put(2 * others + mine, pr), partial.put(3 * others + mine, yy);
      }
      __syncthreads();
      for (int other = 1; here && group == 0 && other < groups; ++other) {
        add(other, 0, rr), add(other, 1, pp), add(other, 2, pr), add(other, 3, yy);
      }
    }
    if (here && group == 0) {
      T of_residual[V], of_pred[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const Cosine<T> k = cosine_of(rr[i], pp[i], pr[i], yy[i]);
        of_residual[i] = k.residual_factor;
        of_pred[i] = k.pred_factor;
        sums.rr += double(rr[i]);
        sums.pp += double(k.value);
        sums.pr += double(k.steep);
      }
      by_residual.put(vector, of_residual);
      by_pred.put(vector, of_pred);
    }
    __syncthreads();
  }

  if (!second) {
    sums.rr = sum_of_lanes(sums.rr, kWarp);
    sums.pp = sum_of_lanes(sums.pp, kWarp);
    sums.pr = sum_of_lanes(sums.pr, kWarp);
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sums;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int warp = 1; warp < threads / kWarp; ++warp) add_to(&sums, warp_sums[warp]);
    }
  }
  double loss = 0;
  if (on_chip) {
    if (threadIdx.x == 0) *block_sums = sums;
    cluster_barrier(cluster);
    if (threadIdx.x == 0) {
      sums = cluster > 1 ? *in_block(block_sums, 0) : sums;
      for (int other = 1; other < cluster; ++other) add_to(&sums, *in_block(block_sums, other));
      const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample_of(a, sample));
      set_factors(outcome, slots);
      if (chunk == 0) {
        loss = outcome.loss;
        store_scale(a, sample, outcome);
        if (a.options.reduction == Reduction::kNone) store_loss<T>(a, sample, loss);
      }
    }
    __syncthreads();
  } else if (!second && threadIdx.x == 0) {
    store_sums(p, blockIdx.x, sums, true);
  }

  if (a.gradient.data && (on_chip || at_once || second)) {
    const T residual_factor = slots[kResidualFactor], cosine_factor = slots[kPredFactor];
    for (int64_t vector = lane; group < groups && vector < vectors; vector += lanes) {
      T of_residual[V], of_pred[V];
      by_residual.get(vector, of_residual);
      by_pred.get(vector, of_pred);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        of_residual[i] = residual_factor + cosine_factor * of_residual[i];
        of_pred[i] *= cosine_factor;
      }
      const auto write = [&](int64_t offset, T (&value)[V], const T (&pred)[V]) {
#pragma unroll
        for (int i = 0; i < V; ++i) value[i] = of_residual[i] * value[i] + of_pred[i] * pred[i];
        S::store(a.gradient, sample, offset, value);
      };
      const int64_t own = begin + vector * V;
      if (plan.keep && active) {
        for (int64_t first = group; first < channels; first += int64_t(kAhead) * groups) {
          typename S::template Raw<V> ahead[kAhead];
#pragma unroll
          for (int j = 0; j < kAhead; ++j) {
            const int64_t channel = first + int64_t(j) * groups;
            if (channel < channels) ahead[j] = S::template load<V>(a.pred, sample, channel * positions + own);
          }
#pragma unroll
          for (int j = 0; j < kAhead; ++j) {
            const int64_t channel = first + int64_t(j) * groups;
            if (channel >= channels) break;
            T value[V], pred[V];
            S::widen(ahead[j], a.pred.dtype, pred);
            kept.get(channel * room + vector, value);
            write(channel * positions + own, value, pred);
          }
        }
      } else {
        for (int64_t channel = group; channel < channels; channel += groups) {
          T value[V], pred[V];
          read(channel * positions + own, value, pred);
          write(channel * positions + own, value, pred);
        }
      }
    }
  }

  if (on_chip) {
    cluster_barrier(cluster);  // no block may leave while another reads its sums
    if (a.options.reduction == Reduction::kNone || chunk != 0) return;
    reduce_units<T>(a, blockIdx.x / chunks, gridDim.x / chunks, loss, loss_sums, &is_last);
  } else if (!second && last_of(gridDim.x, a.counter, &is_last)) {
    finish_batch<T, false>(p, loss_sums);
  }
}

}  // namespace

void launch_channels(const LossParameters& p, const Place& place) {
  with_storage(p.storage, [&](auto storage) {
    const auto kernel = channels_kernel<decltype(storage)>;
    launch(kernel, "the loss kernel for channels", p.plan.shape, place, p, false);
    if (p.plan.path == LossPath::kTwoPasses) {
      launch(kernel, "the loss kernel for channels and the gradient", p.plan.shape, place, p, true);
    }
  });
}

bool channels_cluster_fits(const LossParameters& p, int device) {
  bool fits = false;
  with_storage(
      p.storage, [&](auto storage) { fits = cluster_fits(channels_kernel<decltype(storage)>, p.plan.shape, device); });
  return fits;
}

}  // namespace gpu
}  // namespace rcgm
