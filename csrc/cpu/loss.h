// residual_loss on the CPU. Included by kernels.cpp inside the namespace of one instruction set.
//
// A sample is cut in blocks; a block is worked through in chunks that stay in the first-level cache while all terms are
// added up. Sums are kept per block and added in block order, so that the result does not depend on the thread count.

constexpr int64_t kChunk = 512;
// A float32 lane adds up at most 64 squares: were they all equal, and rounded the same way each time, 128 would be the
// limit for a relative error of 1e-5.
#if defined(__AVX512F__)
constexpr int64_t kFusedChunk = 64 * 16;
#elif defined(__AVX2__)
constexpr int64_t kFusedChunk = 64 * 8;
#else
constexpr int64_t kFusedChunk = 64 * 4;
#endif
constexpr int64_t kBlock = 16384;

// One sample's combination: value = total * anchor + sum_k coeff[k] * (term[k] - anchor).
template <typename T>
struct Combination {
  Array anchor;  // null data: no anchor
  Array terms[kMaxTerms];
  T coeffs[kMaxTerms];
  int count;
  T total, scale, clip;
};

template <typename T>
static Combination<T> combination_of(const LossArguments& a, int64_t b) {
  Combination<T> c;
  c.anchor = Array{nullptr, 0, DType::kFloat32};
  c.count = 0;
  c.scale = T(number(a.scale, 0, b));
  c.clip = T(a.options.clip);
  const auto scalar = [&](int i) { return number(a.scalars, i, b); };
  const auto coefficient = [&](int k) {
    if (!a.options.times) return scalar(k);
    const int segment = a.options.pred_in_residual ? k : k - 1;  // terms: [base], segments, velocity
    return k == a.count - 1 ? velocity_coefficient(scalar) : segment_coefficient(scalar, segment + 1);
  };
  double total = 0;
  int first = 0;
  if (a.options.pred_in_residual || a.options.times) {
    const double own = a.options.times ? 1.0 : number(a.pred_coeff, 0, b);
    if (own != 0) c.anchor = a.options.pred_in_residual ? a.pred : a.terms[0];
    first = a.options.pred_in_residual ? 0 : 1;
    total = own;
  }
  for (int k = first; k < a.count; ++k) {
    const double value = coefficient(k);
    total += value;
    if (value == 0) continue;  // not read: it may hold anything
    if (k == 0 && !a.options.pred_in_residual) {
      c.anchor = a.terms[0];
    } else {
      c.terms[c.count] = a.terms[k];
      c.coeffs[c.count++] = T(value);
    }
  }
  c.total = T(a.options.times ? 0 : total);
  return c;
}

template <typename T>
static void load_chunk(const Array& array, int64_t b, int64_t offset, int64_t length, bool split, T* values) {
  with_type(array.dtype, element(array, b, offset), [&](auto* data) { load_values(data, length, split, values); });
}

template <typename T, typename Value>
static void store_chunk(const MutableArray& array, int64_t b, int64_t offset, int64_t length, bool split, const Value& value) {
  with_type(array.dtype, element(array, b, offset), [&](auto* data) { store_values<T>(data, length, split, value); });
}

// values = R on `length` elements from `offset`; `anchor` and `term` are scratch.
template <typename T>
static void residual_chunk(const Combination<T>& c, int64_t b, int64_t offset, int64_t length, bool split, T* anchor, T* term,
                           T* values) {
  if (c.anchor.data) {
    load_chunk(c.anchor, b, offset, length, split, anchor);
  } else {
    for (int64_t i = 0; i < length; ++i) anchor[i] = 0;
  }
  if (c.total != 0) {
    for (int64_t i = 0; i < length; ++i) values[i] = c.total * anchor[i];
  } else {
    for (int64_t i = 0; i < length; ++i) values[i] = 0;
  }
  for (int k = 0; k < c.count; ++k) {
    const T coeff = c.coeffs[k];
    load_chunk(c.terms[k], b, offset, length, split, term);
    for (int64_t i = 0; i < length; ++i) values[i] += coeff * (term[i] - anchor[i]);
  }
  for (int64_t i = 0; i < length; ++i) values[i] = c.scale * clamp_residual(values[i], c.clip);
}

// Whether all tensors are bfloat16, so that chunks of even length can be held in split order.
template <typename T>
static bool all_bfloat16(const LossArguments& a, const Combination<T>& c) {
  bool all = !a.float64 && (!c.anchor.data || c.anchor.dtype == DType::kBFloat16);
  for (int k = 0; k < c.count; ++k) all = all && c.terms[k].dtype == DType::kBFloat16;
  if (a.options.cosine != 0) all = all && a.pred.dtype == DType::kBFloat16;
  return all && (!a.gradient.data || a.gradient.dtype == DType::kBFloat16);
}

template <typename T>
static void write_gradient(const LossArguments& a, const Outcome& outcome, int64_t b, int64_t offset, int64_t length,
                           bool split, const T* residual, const T* pred) {
  const T r = T(outcome.residual_factor), p = T(outcome.pred_factor);
  if (pred) {
    store_chunk<T>(a.gradient, b, offset, length, split, [=](int64_t i) { return r * residual[i] + p * pred[i]; });
  } else {
    store_chunk<T>(a.gradient, b, offset, length, split, [=](int64_t i) { return r * residual[i]; });
  }
}

// The common case, all tensors of one dtype, few terms, plain L2: nothing leaves the registers but the gradient.
// Named scalars and pointers, one a term: compilers do not vectorise over arrays of them.
template <typename T, typename Storage>
struct FewTerms {
  static constexpr int kMost = 6;
  const Storage *anchor, *term0, *term1, *term2, *term3, *term4, *term5;
  T coeff0, coeff1, coeff2, coeff3, coeff4, coeff5, total, scale, clip;

  FewTerms(const Combination<T>& c, int64_t b, int64_t offset) {
    const auto pointer = [&](int k) { return static_cast<const Storage*>(element(c.terms[k < c.count ? k : 0], b, offset)); };
    anchor = static_cast<const Storage*>(element(c.anchor, b, offset));
    term0 = pointer(0), term1 = pointer(1), term2 = pointer(2), term3 = pointer(3), term4 = pointer(4), term5 = pointer(5);
    coeff0 = c.coeffs[0], coeff1 = c.coeffs[1], coeff2 = c.coeffs[2];
    coeff3 = c.coeffs[3], coeff4 = c.coeffs[4], coeff5 = c.coeffs[5];
    total = c.total, scale = c.scale, clip = c.clip;
  }
};

// The residual of one element, given a function that reads an element. kTotal: the coefficients do not add up to 0. Were
// that asked inside the loops, compilers would make two loops of each and vectorise one.
template <typename T, int kCount, bool kTotal, typename Storage, typename Read>
RCGM_FN T residual_of(const FewTerms<T, Storage>& f, const Read& read) {
  const T first = read(f.anchor);
  T value = kTotal ? f.total * first : 0;
  value += f.coeff0 * (read(f.term0) - first);
  if (kCount > 1) value += f.coeff1 * (read(f.term1) - first);
  if (kCount > 2) value += f.coeff2 * (read(f.term2) - first);
  if (kCount > 3) value += f.coeff3 * (read(f.term3) - first);
  if (kCount > 4) value += f.coeff4 * (read(f.term4) - first);
  if (kCount > 5) value += f.coeff5 * (read(f.term5) - first);
  return f.scale * clamp_residual(value, f.clip);
}

template <typename T, typename Storage, int kCount, bool kTotal, bool kStore>
static double fused_l2_loop(const FewTerms<T, Storage> f, int64_t start, int64_t length, T factor, Storage* out) {
  T rr = 0;
#pragma omp simd reduction(+ : rr)
  for (int64_t i = start; i < length; ++i) {
    const T residual = residual_of<T, kCount, kTotal>(f, [i](const Storage* data) { return load<T>(data, i); });
    rr += residual * residual;
    if (kStore) store<T>(out, i, factor * residual);
  }
  return double(rr);
}

// Two bfloat16 lie in a word: the halves are widened and narrowed in place by shifts and masks, with no shuffle.
template <int kCount, bool kTotal, bool kStore>
static double fused_l2_words(const FewTerms<float, BFloat16> f, int64_t words, float factor, BFloat16* out) {
  float rr_low = 0, rr_high = 0;
#pragma omp simd reduction(+ : rr_low, rr_high)
  for (int64_t i = 0; i < words; ++i) {
    const float low = residual_of<float, kCount, kTotal>(f, [i](const BFloat16* data) {
      return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits << 16);
    });
    const float high = residual_of<float, kCount, kTotal>(f, [i](const BFloat16* data) {
      return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits & 0xffff0000u);
    });
    rr_low += low * low;
    rr_high += high * high;
    if (kStore) {
      const uint32_t high_bits = rounded_bfloat16(factor * high) & 0xffff0000u;
      reinterpret_cast<Word*>(out)[i].bits = high_bits | (rounded_bfloat16(factor * low) >> 16);
    }
  }
  return double(rr_low) + double(rr_high);
}

template <typename T, typename Storage, int kCount, bool kTotal, bool kStore>
static double fused_l2_as(const FewTerms<T, Storage>& f, int64_t length, T factor, Storage* out) {
  double rr = 0;
  int64_t start = 0;
  if constexpr (kIsBFloat16<Storage>) {
    start = length / 2 * 2;
    rr = fused_l2_words<kCount, kTotal, kStore>(f, length / 2, factor, out);
  }
  return rr + fused_l2_loop<T, Storage, kCount, kTotal, kStore>(f, start, length, factor, out);
}

template <typename T, typename Storage, int kCount>
static double fused_l2(const Combination<T>& c, int64_t b, int64_t offset, int64_t length, T factor, void* gradient) {
  const FewTerms<T, Storage> f(c, b, offset);
  Storage* out = static_cast<Storage*>(gradient);
  if (f.total != 0) {
    return out ? fused_l2_as<T, Storage, kCount, true, true>(f, length, factor, out)
               : fused_l2_as<T, Storage, kCount, true, false>(f, length, factor, out);
  }
  return out ? fused_l2_as<T, Storage, kCount, false, true>(f, length, factor, out)
             : fused_l2_as<T, Storage, kCount, false, false>(f, length, factor, out);
}

template <typename T>
using FusedL2 = double (*)(const Combination<T>&, int64_t, int64_t, int64_t, T, void*);

template <typename T, typename Storage>
static FusedL2<T> fused_l2_of_count(int count) {
  switch (count) {
    case 1: return fused_l2<T, Storage, 1>;
    case 2: return fused_l2<T, Storage, 2>;
    case 3: return fused_l2<T, Storage, 3>;
    case 4: return fused_l2<T, Storage, 4>;
    case 5: return fused_l2<T, Storage, 5>;
    case 6: return fused_l2<T, Storage, 6>;
  }
  return nullptr;
}

template <typename T>
static FusedL2<T> fused_l2_for(const LossArguments& a, const Combination<T>& c) {
  return nullptr;
}

// The fused kernel for this combination, or null where only the general path will do.
template <>
FusedL2<float> fused_l2_for(const LossArguments& a, const Combination<float>& c) {
  if (!c.anchor.data || gradient_needs_sums(a.options)) return nullptr;
  const DType dtype = c.anchor.dtype;
  if (a.gradient.data && a.gradient.dtype != dtype) return nullptr;
  for (int k = 0; k < c.count; ++k) {
    if (c.terms[k].dtype != dtype) return nullptr;
  }
  switch (dtype) {
    case DType::kFloat32: return fused_l2_of_count<float, float>(c.count);
    case DType::kFloat16: return fused_l2_of_count<float, Half>(c.count);
    case DType::kBFloat16: return fused_l2_of_count<float, BFloat16>(c.count);
    default: return nullptr;
  }
}

// What a sample of one block, or one tile of positions, keeps for its second look.
constexpr int64_t kTile = 512;
template <typename T>
struct Kept {
  alignas(64) T residual[kBlock];
  alignas(64) T residual_factor[kTile], pred_factor[kTile];  // of each position, with a cosine over the channels
};

// Positions that are looked at together: as many as let all their channels be kept, but not so few that loops are short.
static int64_t tile_of(const LossArguments& a) {
  const int64_t fit = kBlock / (a.size / a.options.positions) / 16 * 16, tile = fit < 16 ? 16 : fit < kTile ? fit : kTile;
  return a.options.positions < tile ? a.options.positions : tile;
}

static bool tile_is_kept(const LossArguments& a) { return a.size / a.options.positions * tile_of(a) <= kBlock; }

static int64_t blocks_of(const LossArguments& a) {
  const int64_t whole = a.options.positions ? a.options.positions : a.size;
  const int64_t block = a.options.positions ? tile_of(a) : kBlock;
  return (whole + block - 1) / block;
}

template <typename T>
static bool tile_is_split(const LossArguments& a, const Combination<T>& c, int64_t length) {
  return all_bfloat16(a, c) && length % 2 == 0;
}

// The gradient of a tile whose factors are in `kept`, and its residual too if it fits there.
template <typename T>
static void tile_gradient(const LossArguments& a, const Combination<T>& c, int64_t b, int64_t block, const Outcome& outcome,
                          const Kept<T>& kept) {
  alignas(64) T anchor[kTile], term[kTile], values[kTile], pred[kTile], of_residual[kTile], of_pred[kTile];
  const int64_t positions = a.options.positions, channels = a.size / positions, tile = tile_of(a), first = block * tile;
  const int64_t length = positions - first < tile ? positions - first : tile;
  const bool split = tile_is_split(a, c, length), keep = tile_is_kept(a);
  const T residual_factor = T(outcome.residual_factor), cosine_factor = T(outcome.pred_factor);
  for (int64_t i = 0; i < length; ++i) {
    of_residual[i] = residual_factor + cosine_factor * kept.residual_factor[i];
    of_pred[i] = cosine_factor * kept.pred_factor[i];
  }
  for (int64_t channel = 0; channel < channels; ++channel) {
    const int64_t offset = channel * positions + first;
    if (!keep) residual_chunk(c, b, offset, length, split, anchor, term, values);
    const T* residual = keep ? kept.residual + channel * length : values;
    load_chunk(a.pred, b, offset, length, split, pred);
    const T *r = of_residual, *p = of_pred, *own = pred;
    store_chunk<T>(a.gradient, b, offset, length, split, [=](int64_t i) { return r[i] * residual[i] + p[i] * own[i]; });
  }
}

// One tile of positions of a sample, all its channels. As loss_block.
template <typename T>
static Sums loss_tile(const LossArguments& a, const Combination<T>& c, int64_t b, int64_t block, const Outcome* outcome,
                      Kept<T>& kept) {
  alignas(64) T anchor[kTile], term[kTile], values[kTile], pred[kTile];
  alignas(64) T rr[kTile] = {}, pp[kTile] = {}, pr[kTile] = {}, yy[kTile] = {};
  const int64_t positions = a.options.positions, channels = a.size / positions, tile = tile_of(a), first = block * tile;
  const int64_t length = positions - first < tile ? positions - first : tile;
  const bool split = tile_is_split(a, c, length), keep = tile_is_kept(a);
  constexpr int64_t kTogether = 64;  // a float32 sum of more would add up too much rounding
  for (int64_t from = 0; from < channels; from += kTogether) {
    alignas(64) T some_rr[kTile] = {}, some_pp[kTile] = {}, some_pr[kTile] = {}, some_yy[kTile] = {};
    for (int64_t channel = from; channel < channels && channel < from + kTogether; ++channel) {
      T* residual = keep ? kept.residual + channel * length : values;
      residual_chunk(c, b, channel * positions + first, length, split, anchor, term, residual);
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
  Sums sums = {0, 0, 0, 0};
  for (int64_t i = 0; i < length; ++i) {
    const Cosine<T> k = cosine_of(rr[i], pp[i], pr[i], yy[i]);
    kept.residual_factor[i] = k.residual_factor;
    kept.pred_factor[i] = k.pred_factor;
    sums.rr += double(rr[i]);
    sums.pp += double(k.value);
    sums.pr += double(k.steep);
  }
  if (outcome) tile_gradient(a, c, b, block, *outcome, kept);
  return sums;
}

// One block of a sample. Returns its sums; writes the gradient if `outcome` is given; keeps R in `kept` if that is given.
template <typename T>
static Sums loss_block(const LossArguments& a, const Combination<T>& c, int64_t b, int64_t block, const Outcome* outcome,
                       Kept<T>* kept) {
  if (a.options.positions) {
    Kept<T> own;
    return loss_tile(a, c, b, block, outcome, kept ? *kept : own);
  }
  alignas(64) T anchor[kChunk], term[kChunk], values[kChunk], pred[kChunk];
  const bool cosine = a.options.cosine != 0;
  const int64_t end = a.size < (block + 1) * kBlock ? a.size : (block + 1) * kBlock;
  Sums sums = {0, 0, 0, 0};
  if (const FusedL2<T> fused = kept ? nullptr : fused_l2_for(a, c)) {
    for (int64_t offset = block * kBlock; offset < end; offset += kFusedChunk) {
      const int64_t length = end - offset < kFusedChunk ? end - offset : kFusedChunk;
      void* gradient = outcome ? element(a.gradient, b, offset) : nullptr;
      sums.rr += fused(c, b, offset, length, outcome ? T(outcome->residual_factor) : T(0), gradient);
    }
    return sums;
  }
  const bool splittable = all_bfloat16(a, c);
  for (int64_t offset = block * kBlock; offset < end; offset += kChunk) {
    const int64_t length = end - offset < kChunk ? end - offset : kChunk;
    const bool split = splittable && length % 2 == 0;
    T* residual = kept ? kept->residual + (offset - block * kBlock) : values;
    residual_chunk(c, b, offset, length, split, anchor, term, residual);
    T rr = 0;
#pragma omp simd reduction(+ : rr)
    for (int64_t i = 0; i < length; ++i) rr += residual[i] * residual[i];
    sums.rr += double(rr);
    if (cosine) {
      load_chunk(a.pred, b, offset, length, split, pred);
      T pp = 0, pr = 0, yy = 0;
#pragma omp simd reduction(+ : pp, pr, yy)
      for (int64_t i = 0; i < length; ++i) {
        const T y = pred[i] - residual[i];
        pp += pred[i] * pred[i];
        pr += pred[i] * residual[i];
        yy += y * y;
      }
      sums.pp += double(pp);
      sums.pr += double(pr);
      sums.yy += double(yy);
    }
    if (outcome) write_gradient<T>(a, *outcome, b, offset, length, split, residual, cosine ? pred : nullptr);
  }
  return sums;
}

template <typename T>
static Sums sample_sums(const LossArguments& a, const Combination<T>& c, int64_t b, int64_t blocks, const Outcome* outcome,
                        Kept<T>* kept) {
  Sums total = {0, 0, 0, 0};
  for (int64_t block = 0; block < blocks; ++block) {
    const Sums s = loss_block<T>(a, c, b, block, outcome, kept);
    total.rr += s.rr, total.pp += s.pp, total.pr += s.pr, total.yy += s.yy;
  }
  return total;
}

template <typename T>
static void gradient_from_kept(const LossArguments& a, const Combination<T>& c, const Outcome& outcome, int64_t b,
                               const Kept<T>& kept) {
  if (a.options.positions) return tile_gradient(a, c, b, 0, outcome, kept);
  alignas(64) T pred[kChunk];
  const bool splittable = all_bfloat16(a, c);
  for (int64_t offset = 0; offset < a.size; offset += kChunk) {
    const int64_t length = a.size - offset < kChunk ? a.size - offset : kChunk;
    const bool split = splittable && length % 2 == 0;
    if (a.options.cosine != 0) load_chunk(a.pred, b, offset, length, split, pred);
    write_gradient<T>(a, outcome, b, offset, length, split, kept.residual + offset, a.options.cosine != 0 ? pred : nullptr);
  }
}

static Sample sample_of(const LossArguments& a, int64_t b) {
  return {number(a.weight, 0, b), number(a.normalize_scale, 0, b), a.options.clip * fabs(number(a.scale, 0, b))};
}

static void store_outcome(const LossArguments& a, int64_t b, const Outcome& outcome, double* losses) {
  losses[b] = outcome.loss;
  if (a.storage_scales) a.storage_scales[b] = float(outcome.storage_scale);
}

// A sample of weight 0 is not read: it may hold anything.
static bool left_out(const LossArguments& a, int64_t b, double* losses) {
  if (number(a.weight, 0, b) != 0) return false;
  store_outcome(a, b, {0, 0, 0, 1}, losses);
  if (a.gradient.data) memset(element(a.gradient, b, 0), 0, size_t(a.size * bytes_of(a.gradient.dtype)));
  return true;
}

// A whole sample on one thread: its inputs are still in the cache when a second look at them is needed.
template <typename T>
static void loss_of_sample(const LossArguments& a, int64_t b, int64_t blocks, bool needs_sums, double* losses) {
  Kept<T> kept;
  if (left_out(a, b, losses)) return;
  const Combination<T> c = combination_of<T>(a, b);
  const Sample sample = sample_of(a, b);
  const bool with_gradient = a.gradient.data != nullptr, keep = with_gradient && needs_sums && blocks == 1;
  const Outcome known = finish_sample(a.options, Sums{0, 0, 0, 0}, double(a.size), sample);
  const Sums sums = sample_sums<T>(a, c, b, blocks, with_gradient && !needs_sums ? &known : nullptr, keep ? &kept : nullptr);
  const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample);
  store_outcome(a, b, outcome, losses);
  if (keep) {
    gradient_from_kept<T>(a, c, outcome, b, kept);
  } else if (with_gradient && needs_sums) {
    sample_sums<T>(a, c, b, blocks, &outcome, nullptr);
  }
}

// Fewer samples than threads can share: the blocks of a sample are spread over the threads.
template <typename T>
static void loss_of_large_sample(const LossArguments& a, int64_t b, int64_t blocks, bool needs_sums, Sums* partial,
                                 double* losses) {
  if (left_out(a, b, losses)) return;
  const Combination<T> c = combination_of<T>(a, b);
  const Sample sample = sample_of(a, b);
  const bool with_gradient = a.gradient.data != nullptr;
  const Outcome known = finish_sample(a.options, Sums{0, 0, 0, 0}, double(a.size), sample);
#pragma omp parallel for num_threads(a.threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    partial[block] = loss_block<T>(a, c, b, block, with_gradient && !needs_sums ? &known : nullptr, nullptr);
  }
  Sums sums = {0, 0, 0, 0};
  for (int64_t block = 0; block < blocks; ++block) {
    sums.rr += partial[block].rr, sums.pp += partial[block].pp, sums.pr += partial[block].pr, sums.yy += partial[block].yy;
  }
  const Outcome outcome = finish_sample(a.options, sums, double(a.size), sample);
  store_outcome(a, b, outcome, losses);
  if (!with_gradient || !needs_sums) return;
#pragma omp parallel for num_threads(a.threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) loss_block<T>(a, c, b, block, &outcome, nullptr);
}

template <typename T>
static void losses_of(const LossArguments& a, double* losses) {
  const int64_t blocks = blocks_of(a);
  const bool needs_sums = gradient_needs_sums(a.options);
  if (a.batch < 4 * a.threads && blocks > 1) {
    Sums* partial = new Sums[blocks];
    for (int64_t b = 0; b < a.batch; ++b) loss_of_large_sample<T>(a, b, blocks, needs_sums, partial, losses);
    delete[] partial;
    return;
  }
  const bool worthwhile = a.batch * a.size > 2 * kChunk;
#pragma omp parallel for num_threads(worthwhile ? a.threads : 1) schedule(static)
  for (int64_t b = 0; b < a.batch; ++b) loss_of_sample<T>(a, b, blocks, needs_sums, losses);
}

template <typename T>
static void residual_loss_as(const LossArguments& a) {
  double* losses = new double[a.batch];
  losses_of<T>(a, losses);
  T* loss = static_cast<T*>(a.loss);
  if (a.options.reduction == Reduction::kNone) {
    for (int64_t b = 0; b < a.batch; ++b) loss[b] = T(losses[b]);
  } else {
    double total = 0;
    for (int64_t b = 0; b < a.batch; ++b) total += losses[b];
    *loss = T(a.options.reduction == Reduction::kMean ? total / double(a.batch) : total);
  }
  delete[] losses;
}

static void residual_loss(const LossArguments& a) {
  if (a.float64) {
    residual_loss_as<double>(a);
  } else {
    residual_loss_as<float>(a);
  }
}
