// residual_loss on the CPU. Included by kernels.cpp inside the namespace of one instruction set.
//
// A sample is cut in blocks; a block is worked through in chunks that stay in the first-level cache while all terms are
// added up. Sums are kept per block and added in block order, so that the result does not depend on the thread count.

// A thread keeps the residual of at most so many elements until the sums of their sample are known: about what the
// second-level cache of a core holds. The inputs of larger samples are read twice.
constexpr int64_t kMostKept = int64_t(1) << 18;

// What is the same for all samples of a call.
struct Plan {
  const LossArguments& a;
  Formats formats;
  int64_t blocks;   // of a sample
  bool needs_sums;  // the gradient does
  bool shared;      // the threads share each sample by blocks, since there are too few samples
  bool keep;        // R of a sample, until its sums are known
  bool keep_tile;   // R of a tile
  double* losses;   // of the samples; null: they are the result

  explicit Plan(const LossArguments& arguments) : a(arguments), formats(arguments) {
    const int64_t whole = a.options.positions ? a.options.positions : a.size;
    const int64_t block = a.options.positions ? tile_of(a) : kBlock;
    blocks = (whole + block - 1) / block;
    needs_sums = gradient_needs_sums(a.options);
    shared = a.batch < 4 * a.threads && blocks > 1;
    keep = a.gradient.data && needs_sums && a.size <= kMostKept * (shared ? a.threads : 1);
    keep_tile = a.gradient.data && a.options.positions && block * channels_of(a) <= kMostKept;
    losses = a.options.reduction == Reduction::kNone ? nullptr : new double[a.batch];
  }
  ~Plan() { delete[] losses; }

  int64_t rows_of_tile() const { return channels_of(a) * pitch_of(tile_of(a)); }

  // Elements that are kept of a sample, or else of a tile: R, and the two factors of each position.
  int64_t kept_of_sample() const {
    if (!a.options.positions) return keep ? a.size : 0;
    return keep ? blocks * rows_of_tile() + 2 * a.options.positions : 0;
  }
  int64_t kept_of_tile() const {
    if (!a.options.positions) return 0;
    return 2 * tile_of(a) + (keep_tile ? rows_of_tile() : 0);
  }

  // Tile `block` of a sample, in what is kept of the sample or else of the tile.
  template <typename T>
  Tile<T> tile(int64_t block, T* of_sample, T* of_tile) const {
    const int64_t positions = a.options.positions, most = tile_of(a), first = block * most;
    const int64_t length = positions - first < most ? positions - first : most;
    if (of_sample) {
      T* factors = of_sample + blocks * rows_of_tile() + first;
      return {first, length, pitch_of(most), of_sample + block * rows_of_tile(), factors, factors + positions};
    }
    return {first, length, pitch_of(most), keep_tile ? of_tile + 2 * most : nullptr, of_tile, of_tile + most};
  }
};

// Memory for so many elements, whole lines of a cache; null for none.
template <typename T>
struct Memory {
  void* whole;
  T* data;

  explicit Memory(int64_t count) : whole(count ? malloc(size_t(count) * sizeof(T) + 64) : nullptr) {
    data = reinterpret_cast<T*>((uintptr_t(whole) + 63) / 64 * 64);
  }
  ~Memory() { free(whole); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

RCGM_FN void add(Sums* total, const Sums& s) {
  total->rr += s.rr, total->pp += s.pp, total->pr += s.pr, total->yy += s.yy;
}

// One block of a sample. Returns its sums; writes the gradient if `outcome` is given; keeps R in `kept`, the memory of the
// whole sample, if that is given.
template <typename T>
static Sums loss_block(const Plan& plan, const Combination<T>& c, int64_t b, int64_t block, const Outcome* outcome, T* kept,
                       T* of_tile) {
  const LossArguments& a = plan.a;
  if (a.options.positions) return loss_tile(a, plan.formats, c, b, outcome, plan.tile(block, kept, of_tile));
  alignas(64) T values[kChunk];
  const bool cosine = a.options.cosine != 0;
  const int64_t end = a.size < (block + 1) * kBlock ? a.size : (block + 1) * kBlock;
  Sums sums = {0, 0, 0, 0};
  for (int64_t offset = block * kBlock; offset < end; offset += kChunk) {
    const Chunk x = {b, offset, end - offset < kChunk ? end - offset : kChunk};
    double rr;
    if (outcome && !cosine &&
        gradient_at_once(plan.formats, c, x, outcome->residual_factor, element(a.gradient, b, offset), &rr)) {
      sums.rr += rr;
      continue;
    }
    T* residual = kept ? kept + offset : values;
    add(&sums, residual_of_chunk(plan.formats, c, x, cosine ? &a.pred : nullptr, residual));
    if (outcome) write_gradient<T>(a, *outcome, b, offset, x.length, plan.formats.split(x.length), residual);
  }
  return sums;
}

// The gradient of a block from what was kept.
template <typename T>
static void gradient_of_block(const Plan& plan, const Combination<T>& c, const Outcome& outcome, int64_t b, int64_t block,
                              T* kept) {
  const LossArguments& a = plan.a;
  if (a.options.positions) return tile_gradient(a, plan.formats, c, b, outcome, plan.tile<T>(block, kept, nullptr));
  const int64_t end = a.size < (block + 1) * kBlock ? a.size : (block + 1) * kBlock;
  for (int64_t offset = block * kBlock; offset < end; offset += kChunk) {
    const int64_t length = end - offset < kChunk ? end - offset : kChunk;
    write_gradient<T>(a, outcome, b, offset, length, plan.formats.split(length), kept + offset);
  }
}

// A whole sample on one thread.
template <typename T>
static void loss_of_sample(const Plan& plan, int64_t b, T* kept, T* of_tile) {
  const LossArguments& a = plan.a;
  if (left_out(a, b, plan.losses)) return;
  const Combination<T> c = combination_of<T>(a, b);
  const Sample sample = sample_of(a, b);
  const bool at_once = a.gradient.data && !plan.needs_sums;
  const Outcome known = at_once ? finish_sample(a.options, Sums{0, 0, 0, 0}, double(a.size), sample) : Outcome{0, 0, 0, 1};
  Sums sums = {0, 0, 0, 0};
  for (int64_t block = 0; block < plan.blocks; ++block) {
    add(&sums, loss_block<T>(plan, c, b, block, at_once ? &known : nullptr, kept, of_tile));
  }
  const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample);
  store_outcome(a, b, outcome, plan.losses);
  if (at_once || !a.gradient.data) return;
  for (int64_t block = 0; block < plan.blocks; ++block) {
    if (kept) {
      gradient_of_block<T>(plan, c, outcome, b, block, kept);
    } else {
      loss_block<T>(plan, c, b, block, &outcome, nullptr, of_tile);
    }
  }
}

// A sample whose blocks are spread over the threads.
template <typename T>
static void loss_of_shared_sample(const Plan& plan, int64_t b, T* kept, Sums* partial) {
  const LossArguments& a = plan.a;
  if (left_out(a, b, plan.losses)) return;
  const Combination<T> c = combination_of<T>(a, b);
  const Sample sample = sample_of(a, b);
  const bool at_once = a.gradient.data && !plan.needs_sums;
  const Outcome known = finish_sample(a.options, Sums{0, 0, 0, 0}, double(a.size), sample);
#pragma omp parallel for num_threads(a.threads) schedule(static)
  for (int64_t block = 0; block < plan.blocks; ++block) {
    const Memory<T> of_tile(kept ? 0 : plan.kept_of_tile());
    partial[block] = loss_block<T>(plan, c, b, block, at_once ? &known : nullptr, kept, of_tile.data);
  }
  Sums sums = {0, 0, 0, 0};
  for (int64_t block = 0; block < plan.blocks; ++block) add(&sums, partial[block]);
  const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample);
  store_outcome(a, b, outcome, plan.losses);
  if (at_once || !a.gradient.data) return;
#pragma omp parallel for num_threads(a.threads) schedule(static)
  for (int64_t block = 0; block < plan.blocks; ++block) {
    if (kept) {
      gradient_of_block<T>(plan, c, outcome, b, block, kept);
    } else {
      const Memory<T> of_tile(plan.kept_of_tile());
      loss_block<T>(plan, c, b, block, &outcome, nullptr, of_tile.data);
    }
  }
}

template <typename T>
static void losses_of(const Plan& plan) {
  const LossArguments& a = plan.a;
  if (plan.shared) {
    Sums* partial = new Sums[plan.blocks];
    const Memory<T> kept(plan.kept_of_sample());
    for (int64_t b = 0; b < a.batch; ++b) loss_of_shared_sample<T>(plan, b, kept.data, partial);
    delete[] partial;
    return;
  }
#pragma omp parallel num_threads(a.batch * a.size > kFewElements ? a.threads : 1)
  {
    const Memory<T> kept(plan.kept_of_sample()), of_tile(kept.data ? 0 : plan.kept_of_tile());
#pragma omp for schedule(static)
    for (int64_t b = 0; b < a.batch; ++b) loss_of_sample<T>(plan, b, kept.data, of_tile.data);
  }
}

template <typename T>
static int64_t residual_loss_as(const LossArguments& a) {
  const Plan plan(a);
  const bool packed = is_packed(a);
  const int64_t unordered = packed ? losses_of_packs<T>(a, plan.formats, plan.losses) : first_unordered(a);
  if (unordered >= 0) return unordered;
  if (!packed) losses_of<T>(plan);
  if (!plan.losses) return -1;
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t b = 0; b < a.batch; ++b) total += plan.losses[b];
  *static_cast<T*>(a.loss) = T(a.options.reduction == Reduction::kMean ? total / double(a.batch) : total);
  return -1;
}

static int64_t residual_loss(const LossArguments& a) {
  return a.float64 ? residual_loss_as<double>(a) : residual_loss_as<float>(a);
}
