// A cosine over the channels at each position: tiles of positions, all channels of each. Included by kernels.cpp inside the
// namespace of one instruction set.

// A tile is worked through again and again: it stays in the nearest caches.
constexpr int64_t kTileElements = 8192;
constexpr int64_t kTile = 2 * kChunk;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

// Some positions of a sample. R and the prediction of as many channels as fit are kept, a row each. The elements of a row lie
// as residual_of_chunk leaves them, and so do the factors of each position.
template <typename T>
struct Tile {
  int64_t first, length;   // positions
  int64_t channels, rows;  // of a sample, and those that fit
  int64_t pitch;
  alignas(64) T residual[kTileElements], pred[kTileElements];
  alignas(64) T residual_factor[kTile], pred_factor[kTile];

  bool keeps_all() const { return rows == channels; }
};

// 16 elements are whole vectors in every instruction set.
RCGM_FN int64_t whole_vectors(int64_t length) { return (length + 15) / 16 * 16; }

// From row to row, with a gap: rows a power of two apart would push each other out of the cache.
RCGM_FN int64_t pitch_of(int64_t length) { return whole_vectors(length) + 16; }

// Positions that are looked at together: as many as let all their channels be kept, but not so few that loops are short.
static int64_t tile_of(const LossArguments& a) {
  const int64_t fit = kTileElements / (a.size / a.options.positions) / 16 * 16 - 16;  // pitch_of adds 16
  const int64_t tile = fit < 16 ? 16 : fit < kTile ? fit : kTile;
  return a.options.positions < tile ? a.options.positions : tile;
}

// Channels of which a tile of so many positions keeps a row.
static int64_t rows_of(const LossArguments& a, int64_t length) {
  const int64_t channels = a.size / a.options.positions, rows = kTileElements / pitch_of(length);
  return channels < rows ? channels : rows;
}

static bool tile_is_kept(const LossArguments& a) { return rows_of(a, tile_of(a)) == a.size / a.options.positions; }

// Calls body(offset of a chunk in a row, its length) for all chunks of a row.
template <typename Body>
RCGM_FN void for_each_chunk_of_row(int64_t length, const Body& body) {
  for (int64_t i = 0; i < length; i += kChunk) body(i, length - i < kChunk ? length - i : kChunk);
}

// R and the prediction of the channels from `channel` on, in as many rows as there are.
template <typename T>
static int64_t make_rows(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b, int64_t channel,
                         Tile<T>& tile) {
  const int64_t left = tile.channels - channel, rows = left < tile.rows ? left : tile.rows;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = (channel + row) * a.options.positions + tile.first;
    T *residual = tile.residual + row * tile.pitch, *pred = tile.pred + row * tile.pitch;
    for_each_chunk_of_row(tile.length, [&](int64_t i, int64_t length) {
      residual_of_chunk(formats, c, Chunk{b, start + i, length}, nullptr, residual + i);
      load_chunk(a.pred, b, start + i, length, formats.split(length), pred + i);
    });
  }
  return rows;
}

// The gradient of a tile whose factors it has, and all rows if they fit.
template <typename T>
static void tile_gradient(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b,
                          const Outcome& outcome, Tile<T>& tile) {
  alignas(64) T of_residual[kTile], of_pred[kTile];
  const T residual_factor = T(outcome.residual_factor), cosine_factor = T(outcome.pred_factor);
  for (int64_t i = 0; i < tile.length; ++i) {
    of_residual[i] = residual_factor + cosine_factor * tile.residual_factor[i];
    of_pred[i] = cosine_factor * tile.pred_factor[i];
  }
  const auto factor = [](const T* factors) { return [factors](int64_t i) { return factors[i]; }; };
  for (int64_t channel = 0; channel < tile.channels; channel += tile.rows) {
    const int64_t left = tile.channels - channel;
    const int64_t rows = tile.keeps_all() ? left : make_rows(a, formats, c, b, channel, tile);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t start = (channel + row) * a.options.positions + tile.first, at = row * tile.pitch;
      for_each_chunk_of_row(tile.length, [&](int64_t i, int64_t length) {
        with_type(a.gradient.dtype, element(a.gradient, b, start + i), [&](auto* out) {
          const T *residual = tile.residual + at + i, *pred = tile.pred + at + i;
          gradient_values(out, residual, pred, length, formats.split(length), factor(of_residual + i), factor(of_pred + i));
        });
      });
    }
  }
}

// The squares and products of each position.
template <typename T>
struct Products {
  typedef T Vector __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int64_t kWide = kVectorBytes / int64_t(sizeof(T));
  alignas(64) T rr[kTile], pp[kTile], pr[kTile], yy[kTile];

  static Vector& vector(T* values) { return *reinterpret_cast<Vector*>(values); }
  static const Vector& vector(const T* values) { return *reinterpret_cast<const Vector*>(values); }

  void clear(int64_t length) {
    const size_t bytes = size_t(length) * sizeof(T);
    memset(rr, 0, bytes), memset(pp, 0, bytes), memset(pr, 0, bytes), memset(yy, 0, bytes);
  }

  // Adds those of a vector of positions, from `i` on, of some channels: sums stay in registers.
  void add_rows(int64_t i, const T* residual, const T* pred, int64_t rows, int64_t pitch) {
    Vector some_rr = {}, some_pp = {}, some_pr = {}, some_yy = {};
    for (int64_t at = 0; at < rows * pitch; at += pitch) {
      const Vector r = vector(residual + at), p = vector(pred + at), y = p - r;
      some_rr += r * r, some_pp += p * p, some_pr += p * r, some_yy += y * y;
    }
    vector(rr + i) += some_rr, vector(pp + i) += some_pp, vector(pr + i) += some_pr, vector(yy + i) += some_yy;
  }
};

// The cosine at each position of a tile; its factors go to the tile. Overwrites pp and pr.
template <typename T>
__attribute__((flatten)) static Sums cosines_of_tile(Products<T>& s, Tile<T>& tile) {
#pragma omp simd
  for (int64_t i = 0; i < tile.length; ++i) {
    const Cosine<T> k = cosine_of(s.rr[i], s.pp[i], s.pr[i], s.yy[i]);
    tile.residual_factor[i] = k.residual_factor;
    tile.pred_factor[i] = k.pred_factor;
    s.pp[i] = k.value;
    s.pr[i] = k.steep;
  }
  double squares = 0, value = 0, steep = 0;
#pragma omp simd reduction(+ : squares, value, steep)
  for (int64_t i = 0; i < tile.length; ++i) squares += double(s.rr[i]), value += double(s.pp[i]), steep += double(s.pr[i]);
  return {squares, value, steep, 0};
}

// One tile of positions of a sample, all its channels. As loss_block.
template <typename T>
static Sums loss_tile(const LossArguments& a, const Formats& formats, const Combination<T>& c, int64_t b, int64_t block,
                      const Outcome* outcome, Tile<T>& tile) {
  constexpr int64_t kTogether = 64;  // a float32 sum of more would add up too much rounding
  const int64_t positions = a.options.positions, most = tile_of(a);
  tile.first = block * most;
  tile.length = positions - tile.first < most ? positions - tile.first : most;
  tile.channels = a.size / positions;
  tile.rows = rows_of(a, most);
  tile.pitch = pitch_of(most);
  Products<T> products;
  products.clear(whole_vectors(tile.length));
  for (int64_t channel = 0; channel < tile.channels; channel += tile.rows) {
    const int64_t rows = make_rows(a, formats, c, b, channel, tile);
    for (int64_t i = 0; i < tile.length; i += Products<T>::kWide) {
      for (int64_t row = 0; row < rows; row += kTogether) {
        const int64_t at = row * tile.pitch + i, count = rows - row < kTogether ? rows - row : kTogether;
        products.add_rows(i, tile.residual + at, tile.pred + at, count, tile.pitch);
      }
    }
  }
  const Sums sums = cosines_of_tile(products, tile);
  if (outcome) tile_gradient(a, formats, c, b, *outcome, tile);
  return sums;
}
