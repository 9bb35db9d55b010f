// A cosine over the channels at each position: tiles of positions, all channels of each. Included by kernels.cpp inside the
// namespace of one instruction set.

constexpr int64_t kTile = kChunk;

// What a tile keeps for its second look: the residual, if all channels of a tile fit, and two factors of each position.
template <typename T>
struct KeptTile {
  alignas(64) T residual[kBlock];
  alignas(64) T residual_factor[kTile], pred_factor[kTile];
};

// Positions that are looked at together: as many as let all their channels be kept, but not so few that loops are short.
static int64_t tile_of(const LossArguments& a) {
  const int64_t fit = kBlock / (a.size / a.options.positions) / 16 * 16, tile = fit < 16 ? 16 : fit < kTile ? fit : kTile;
  return a.options.positions < tile ? a.options.positions : tile;
}

static bool tile_is_kept(const LossArguments& a) { return a.size / a.options.positions * tile_of(a) <= kBlock; }

// The gradient of a tile whose factors are in `kept`, and its residual too if it fits there.
template <typename T>
static void tile_gradient(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b, int64_t block,
                          const Outcome& outcome, const KeptTile<T>& kept) {
  alignas(64) T anchor[kTile], term[kTile], values[kTile], pred[kTile], of_residual[kTile], of_pred[kTile];
  const int64_t positions = a.options.positions, channels = a.size / positions, tile = tile_of(a), first = block * tile;
  const int64_t length = positions - first < tile ? positions - first : tile;
  const bool split = formats.split(length), keep = tile_is_kept(a);
  const T residual_factor = T(outcome.residual_factor), cosine_factor = T(outcome.pred_factor);
  for (int64_t i = 0; i < length; ++i) {
    of_residual[i] = residual_factor + cosine_factor * kept.residual_factor[i];
    of_pred[i] = cosine_factor * kept.pred_factor[i];
  }
  for (int64_t channel = 0; channel < channels; ++channel) {
    const int64_t offset = channel * positions + first;
    if (!keep) squares_of_residual(formats, c, b, offset, length, anchor, term, values);
    const T* residual = keep ? kept.residual + channel * length : values;
    load_chunk(a.pred, b, offset, length, split, pred);
    for (int64_t i = 0; i < length; ++i) pred[i] = of_residual[i] * residual[i] + of_pred[i] * pred[i];
    store_chunk<T>(a.gradient, b, offset, length, split, pred);
  }
}

// The cosine at each position of a tile; its factors go to `kept`. Overwrites `pp` and `pr`.
template <typename T>
__attribute__((flatten)) static Sums cosines_of_tile(const T* rr, T* pp, T* pr, const T* yy, int64_t length, KeptTile<T>& kept) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) {
    const Cosine<T> k = cosine_of(rr[i], pp[i], pr[i], yy[i]);
    kept.residual_factor[i] = k.residual_factor;
    kept.pred_factor[i] = k.pred_factor;
    pp[i] = k.value;
    pr[i] = k.steep;
  }
  double squares = 0, value = 0, steep = 0;
#pragma omp simd reduction(+ : squares, value, steep)
  for (int64_t i = 0; i < length; ++i) squares += double(rr[i]), value += double(pp[i]), steep += double(pr[i]);
  return {squares, value, steep, 0};
}

// One tile of positions of a sample, all its channels. As loss_block.
template <typename T>
static Sums loss_tile(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b, int64_t block,
                      const Outcome* outcome, KeptTile<T>& kept) {
  alignas(64) T anchor[kTile], term[kTile], values[kTile], pred[kTile];
  alignas(64) T rr[kTile] = {}, pp[kTile] = {}, pr[kTile] = {}, yy[kTile] = {};
  const int64_t positions = a.options.positions, channels = a.size / positions, tile = tile_of(a), first = block * tile;
  const int64_t length = positions - first < tile ? positions - first : tile;
  const bool split = formats.split(length), keep = tile_is_kept(a);
  constexpr int64_t kTogether = 64;  // a float32 sum of more would add up too much rounding
  for (int64_t from = 0; from < channels; from += kTogether) {
    alignas(64) T some_rr[kTile] = {}, some_pp[kTile] = {}, some_pr[kTile] = {}, some_yy[kTile] = {};
    for (int64_t channel = from; channel < channels && channel < from + kTogether; ++channel) {
      T* residual = keep ? kept.residual + channel * length : values;
      squares_of_residual(formats, c, b, channel * positions + first, length, anchor, term, residual);
      load_chunk(a.pred, b, channel * positions + first, length, split, pred);
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const T y = pred[i] - residual[i];
        some_rr[i] += residual[i] * residual[i];
        some_pp[i] += pred[i] * pred[i];
        some_pr[i] += pred[i] * residual[i];
        some_yy[i] += y * y;
      }
    }
    for (int64_t i = 0; i < length; ++i) rr[i] += some_rr[i], pp[i] += some_pp[i], pr[i] += some_pr[i], yy[i] += some_yy[i];
  }
  const Sums sums = cosines_of_tile(rr, pp, pr, yy, length, kept);
  if (outcome) tile_gradient(a, formats, c, b, block, *outcome, kept);
  return sums;
}

