// A cosine over the channels at each position: tiles of positions, all channels of each. Included by kernels.cpp inside the
// namespace of one instruction set.

// R of a tile stays in the second-level cache.
constexpr int64_t kTileElements = int64_t(1) << 15;
// A row of a tile is not so short that loops take longer to start than to run, and not so long that the sums leave the caches.
constexpr int64_t kShortestRow = 64, kLongestRow = 4 * kChunk;
// Between rows: were they a power of two apart, they would push each other out of the cache.
constexpr int64_t kGap = 16;
// Rows that are added up before they meet the sums in memory.
constexpr int64_t kRows = 4;
// A float32 sum of more rows would add up too much rounding.
constexpr int64_t kMostRows = 64 * kRows;

RCGM_FN int64_t channels_of(const LossArguments& a) { return a.size / a.options.positions; }

// Positions that are looked at together: as many as let R of all their channels stay near.
static int64_t tile_of(const LossArguments& a) {
  const int64_t positions = a.options.positions, fit = kTileElements / channels_of(a);
  const int64_t most = fit < kShortestRow ? kShortestRow : fit < kLongestRow ? fit : kLongestRow;
  const int64_t tiles = (positions + most - 1) / most;
  const int64_t even = ((positions + tiles - 1) / tiles + 15) / 16 * 16;  // of about one length, and whole vectors
  return even < positions ? even : positions;
}

RCGM_FN int64_t pitch_of(int64_t length) { return length < kShortestRow ? length : length + kGap; }

// Some positions of a sample. The elements of a row, one channel, lie as residual_of_chunk leaves them, and so do the factors
// of each position.
template <typename T>
struct Tile {
  int64_t first, length;  // positions
  int64_t pitch;          // from row to row
  T* residual;            // a row for each channel; null: it is made again where it is needed
  T *residual_factor, *pred_factor;

  T* row(int64_t channel) const { return residual + channel * pitch; }
};

// Calls body(offset of a chunk in a row, its length) for all chunks of a row.
template <typename Body>
RCGM_FN void for_each_chunk_of_row(int64_t length, const Body& body) {
  for (int64_t i = 0; i < length; i += kChunk) body(i, length - i < kChunk ? length - i : kChunk);
}

// The squares and products of each position.
template <typename T>
struct Products {
  static constexpr int64_t kPitch = kLongestRow + kGap;
  alignas(64) T rr[kPitch], pp[kPitch], pr[kPitch], yy[kPitch];

  void clear(int64_t length) {
    const size_t bytes = size_t(length) * sizeof(T);
    memset(rr, 0, bytes), memset(pp, 0, bytes), memset(pr, 0, bytes), memset(yy, 0, bytes);
  }

  void add(const Products& s, int64_t length) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) rr[i] += s.rr[i], pp[i] += s.pp[i], pr[i] += s.pr[i], yy[i] += s.yy[i];
  }

  // Those of four channels at one position.
  void add(int64_t i, T r0, T r1, T r2, T r3, T p0, T p1, T p2, T p3) {
    const T y0 = p0 - r0, y1 = p1 - r1, y2 = p2 - r2, y3 = p3 - r3;
    rr[i] += (r0 * r0 + r1 * r1) + (r2 * r2 + r3 * r3);
    pp[i] += (p0 * p0 + p1 * p1) + (p2 * p2 + p3 * p3);
    pr[i] += (p0 * r0 + p1 * r1) + (p2 * r2 + p3 * r3);
    yy[i] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3);
  }
};

// R and the prediction of four channels; zeros for those that a sample lacks.
template <typename T, typename Storage>
struct Rows {
  const T *r0, *r1, *r2, *r3;
  const Storage *p0, *p1, *p2, *p3;

  Rows(const T* residual, const Storage* pred, int64_t count, int64_t pitch, int64_t positions) {
    const auto r = [&](int64_t k) { return k < count ? residual + k * pitch : reinterpret_cast<const T*>(kZeros); };
    const auto p = [&](int64_t k) { return k < count ? pred + k * positions : reinterpret_cast<const Storage*>(kZeros); };
    r0 = r(0), r1 = r(1), r2 = r(2), r3 = r(3);
    p0 = p(0), p1 = p(1), p2 = p(2), p3 = p(3);
  }
};

template <typename T, typename Storage>
__attribute__((flatten, noinline)) static void add_rows(Products<T>& s, const Rows<T, Storage> x, int64_t first, int64_t length, bool) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) {
    s.add(first + i, x.r0[i], x.r1[i], x.r2[i], x.r3[i], load<T>(x.p0, i), load<T>(x.p1, i), load<T>(x.p2, i), load<T>(x.p3, i));
  }
}
__attribute__((flatten, noinline)) static void add_rows(Products<float>& s, const Rows<float, BFloat16> x, int64_t first, int64_t length, bool split) {
  if (!split) return add_rows<float, BFloat16>(s, x, first, length, split);
  const int64_t half = length / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const int64_t j = half + i;
    s.add(first + i, x.r0[i], x.r1[i], x.r2[i], x.r3[i], low_of(x.p0, i), low_of(x.p1, i), low_of(x.p2, i), low_of(x.p3, i));
    s.add(first + j, x.r0[j], x.r1[j], x.r2[j], x.r3[j], high_of(x.p0, i), high_of(x.p1, i), high_of(x.p2, i), high_of(x.p3, i));
  }
}

// The products of a tile, and its R.
template <typename T>
static void make_products(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b,
                          const Tile<T>& tile, Products<T>* sums) {
  alignas(64) T rows[kRows * (kLongestRow + kGap)];
  Products<T> some;
  const int64_t channels = channels_of(a), positions = a.options.positions, length = tile.length;
  Products<T>* const few = channels > kMostRows ? &some : sums;
  sums->clear(length), few->clear(length);
  for (int64_t channel = 0; channel < channels; channel += kRows) {
    const int64_t left = channels - channel, count = left < kRows ? left : kRows;
    const int64_t start = channel * positions + tile.first;
    T* residual = tile.residual ? tile.row(channel) : rows;
    for (int64_t k = 0; k < count; ++k) {
      for_each_chunk_of_row(length, [&](int64_t i, int64_t part) {
        residual_of_chunk(formats, c, Chunk{b, start + k * positions + i, part}, nullptr, residual + k * tile.pitch + i);
      });
    }
    for_each_chunk_of_row(length, [&](int64_t i, int64_t part) {
      with_type(a.pred.dtype, element(a.pred, b, start + i), [&](auto* pred) {
        add_rows(*few, Rows(residual + i, pred, count, tile.pitch, positions), i, part, formats.split(part));
      });
    });
    if (few != sums && (channel + kRows) % kMostRows == 0) sums->add(*few, length), few->clear(length);
  }
  if (few != sums) sums->add(*few, length);
}

// The cosine at each position of a tile; its factors go to the tile. Overwrites pp and pr.
template <typename T>
__attribute__((flatten, noinline)) static Sums cosines_of_tile(Products<T>& s, const Tile<T>& tile) {
#pragma omp simd
  for (int64_t i = 0; i < tile.length; ++i) {
    const Cosine<T> k = cosine_of(s.rr[i], s.pp[i], s.pr[i], s.yy[i]);
    tile.residual_factor[i] = k.residual_factor;
    tile.pred_factor[i] = k.pred_factor;
    s.pp[i] = k.value;
    s.pr[i] = k.steep;
  }
  Sums sums = {0, 0, 0, 0};
  for_each_chunk_of_row(tile.length, [&](int64_t first, int64_t length) {
    T squares = 0, value = 0, steep = 0;
#pragma omp simd reduction(+ : squares, value, steep)
    for (int64_t i = 0; i < length; ++i) squares += s.rr[first + i], value += s.pp[first + i], steep += s.pr[first + i];
    sums.rr += double(squares), sums.pp += double(value), sums.pr += double(steep);
  });
  return sums;
}

// The gradient of a tile that has its factors.
template <typename T>
static void tile_gradient(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b,
                          const Outcome& outcome, const Tile<T>& tile) {
  alignas(64) T of_residual[kLongestRow], of_pred[kLongestRow], values[kChunk];
  const T residual_factor = T(outcome.residual_factor), cosine_factor = T(outcome.pred_factor);
  for (int64_t i = 0; i < tile.length; ++i) {
    of_residual[i] = residual_factor + cosine_factor * tile.residual_factor[i];
    of_pred[i] = cosine_factor * tile.pred_factor[i];
  }
  const auto factor = [](const T* factors) { return [factors](int64_t i) { return factors[i]; }; };
  const int64_t channels = channels_of(a);
  for (int64_t channel = 0; channel < channels; ++channel) {
    for_each_chunk_of_row(tile.length, [&](int64_t i, int64_t length) {
      const Chunk x = {b, channel * a.options.positions + tile.first + i, length};
      const T* residual = tile.residual ? tile.row(channel) + i : values;
      if (!tile.residual) residual_of_chunk(formats, c, x, nullptr, values);
      write_gradient(a, b, x.offset, length, formats.split(length), residual, factor(of_residual + i), factor(of_pred + i));
    });
  }
}

// One tile of positions of a sample, all its channels. As loss_block.
template <typename T>
static Sums loss_tile(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b,
                      const Outcome* outcome, const Tile<T>& tile) {
  Products<T> products;
  make_products(a, formats, c, b, tile, &products);
  const Sums sums = cosines_of_tile(products, tile);
  if (outcome) tile_gradient(a, formats, c, b, *outcome, tile);
  return sums;
}
