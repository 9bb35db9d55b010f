// The loss of large samples, several blocks a sample. With plain L2 one pass does everything; with other metrics, where a
// sample does not fit on the chip, a first pass finds the sums and a second writes the gradient.
#include "finish.cuh"

namespace rcgm {
namespace gpu {
namespace {

enum class Pass { kWhole, kSums, kGradient };

// So many blocks must fit on a multiprocessor, which limits the registers of a thread: to 64, or to 80 for double and for the
// pass that also computes the losses.
template <typename T, Pass kPass>
constexpr int kResidentBlocks = sizeof(T) == 8 || kPass == Pass::kSums ? 3 : 4;

template <typename S, Pass kPass>
__global__ void __launch_bounds__(kStreamThreads, kResidentBlocks<typename S::T, kPass>)
    stream_kernel(const __grid_constant__ LossParameters p) {
  using T = typename S::T;
  constexpr int V = S::kWidth, kWarps = kStreamThreads / kWarp;
  __shared__ T slots[slot_count(kMaxTerms)];
  __shared__ Sums warp_sums[kWarps];
  __shared__ double loss_sums[kWarps];
  __shared__ bool is_last;

  const LossArguments& a = p.a;
  const unsigned chunk = blockIdx.x % unsigned(p.plan.chunks);
  const int64_t sample = blockIdx.x / unsigned(p.plan.chunks);
  const bool cosine = kPass == Pass::kSums && a.options.cosine != 0;
  const bool write = kPass == Pass::kGradient || (kPass == Pass::kWhole && a.gradient.data);
  if (threadIdx.x < kWarp) {
    prepare(a, sample, int(threadIdx.x), kWarp, slots);
    if (threadIdx.x == 0) {
      if constexpr (kPass == Pass::kWhole) {
        const Outcome known = finish_sample(plain(a.options), Sums{0, 0, 0, 0}, double(a.size), sample_of(a, sample));
        set_factors(known, slots);
        if (chunk == 0) store_scale(a, sample, known);
      } else if constexpr (kPass == Pass::kGradient) {
        const double* factors = factors_of(p, sample);
        set_factors(Outcome{0, factors[0], factors[1], 1}, slots);
      }
    }
  }
  __syncthreads();
  const bool active = slots[kActive] != 0;

  const int64_t begin = chunk * p.plan.chunk, end = a.size < begin + p.plan.chunk ? a.size : begin + p.plan.chunk;
  const int64_t tail = begin + (end - begin) / V * V;
  RunningSums<T> running;
  const auto look_at = [&](auto& value, int64_t offset) {
    constexpr int kCount = sizeof(value) / sizeof(T);
    residual<S, kCount>(a, slots, sample, offset, value);
    if (kPass != Pass::kGradient) running.add(value);
    if (cosine && active) {
      T pred[kCount];
      prediction<S, kCount>(a, sample, offset, pred);
      running.add(value, pred);
    }
    if (write) write_gradient<S, kCount>(a, slots, sample, offset, value);
  };
  for (int64_t i = begin + int64_t(threadIdx.x) * V; i < tail; i += kStreamThreads * V) {
    T value[V];
    look_at(value, i);
  }
  if constexpr (V > 1) {
    if (tail + threadIdx.x < end) {
      T value[1];
      look_at(value, tail + threadIdx.x);
    }
  }
  if constexpr (kPass != Pass::kGradient) {
    const Sums sums = running.over_lanes(kWarp, cosine);
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = sums;
    __syncthreads();
    if (threadIdx.x == 0) {
      Sums total = warp_sums[0];
      for (int warp = 1; warp < kWarps; ++warp) add_to(&total, warp_sums[warp]);
      store_sums(p, blockIdx.x, total, cosine);
    }
    if (last_of(gridDim.x, a.counter, &is_last)) finish_batch<T, kPass == Pass::kWhole>(p, loss_sums);
  }
}

}  // namespace

void launch_stream(const LossParameters& p, const Place& place) {
  if (!gradient_needs_sums(p.a.options)) {
    with_storage(p.storage, [&](auto storage) {
      launch(stream_kernel<decltype(storage), Pass::kWhole>, "the loss kernel for large samples", p.plan.shape, place, p);
    });
    return;
  }
  with_mixed_storage(p.storage, [&](auto storage) {
    using S = decltype(storage);
    launch(stream_kernel<S, Pass::kSums>, "the loss kernel for sums", p.plan.shape, place, p);
    if (p.plan.path == LossPath::kTwoPasses) {
      launch(stream_kernel<S, Pass::kGradient>, "the loss kernel for the gradient", p.plan.shape, place, p);
    }
  });
}

}  // namespace gpu
}  // namespace rcgm
