// The residual of a chunk whose tensors are all of one dtype: only the gradient, or the residual, leaves the registers.
//
// Included by kernels.cpp inside the namespace of one instruction set.

// What stands in for a tensor of zeros of any dtype.
alignas(64) static const double kZeros[kChunk] = {};

// Named scalars and pointers, one a term: compilers do not vectorise over arrays of them.
template <typename Storage>
struct FewTerms {
  static constexpr int kMost = 10;
  const Storage *anchor, *term0, *term1, *term2, *term3, *term4, *term5, *term6, *term7, *term8, *term9;
  float coeff0, coeff1, coeff2, coeff3, coeff4, coeff5, coeff6, coeff7, coeff8, coeff9, scale, clip;

  // total * anchor is the term -total * (0 - anchor).
  FewTerms(const Combination<float>& c, int64_t b, int64_t offset) {
    const Storage* zeros = reinterpret_cast<const Storage*>(kZeros);
    const auto pointer = [&](int k) {
      return k < c.count ? static_cast<const Storage*>(element(c.terms[k], b, offset)) : zeros;
    };
    const auto coeff = [&](int k) { return k < c.count ? c.coeffs[k] : -c.total; };
    anchor = c.anchor.data ? static_cast<const Storage*>(element(c.anchor, b, offset)) : zeros;
    term0 = pointer(0), term1 = pointer(1), term2 = pointer(2), term3 = pointer(3), term4 = pointer(4);
    term5 = pointer(5), term6 = pointer(6), term7 = pointer(7), term8 = pointer(8), term9 = pointer(9);
    coeff0 = coeff(0), coeff1 = coeff(1), coeff2 = coeff(2), coeff3 = coeff(3), coeff4 = coeff(4);
    coeff5 = coeff(5), coeff6 = coeff(6), coeff7 = coeff(7), coeff8 = coeff(8), coeff9 = coeff(9);
    scale = c.scale, clip = c.clip;
  }
};

// The residual of one element, given a function that reads an element.
template <int kCount, typename Storage, typename Read>
RCGM_FN float residual_of(const FewTerms<Storage>& f, const Read& read) {
  const float first = read(f.anchor);
  float value = f.coeff0 * (read(f.term0) - first);
  if (kCount > 1) value += f.coeff1 * (read(f.term1) - first);
  if (kCount > 2) value += f.coeff2 * (read(f.term2) - first);
  if (kCount > 3) value += f.coeff3 * (read(f.term3) - first);
  if (kCount > 4) value += f.coeff4 * (read(f.term4) - first);
  if (kCount > 5) value += f.coeff5 * (read(f.term5) - first);
  if (kCount > 6) value += f.coeff6 * (read(f.term6) - first);
  if (kCount > 7) value += f.coeff7 * (read(f.term7) - first);
  if (kCount > 8) value += f.coeff8 * (read(f.term8) - first);
  if (kCount > 9) value += f.coeff9 * (read(f.term9) - first);
  return f.scale * clamp_residual(value, f.clip);
}

// What a fused loop does with R: writes factor * R to `out`, or keeps R in `kept`. It returns the sum of R^2 and, with
// kKeepAndCompare, the products with the prediction that a cosine over the sample needs.
enum class Work { kWrite, kKeep, kKeepAndCompare };

template <int kCount, Work kWork, typename Storage>
static Sums fused_loop(const FewTerms<Storage> f, int64_t length, float factor, Storage* out, float* kept, const Storage* pred) {
  float rr = 0, pp = 0, pr = 0, yy = 0;
#pragma omp simd reduction(+ : rr, pp, pr, yy)
  for (int64_t i = 0; i < length; ++i) {
    const float residual = residual_of<kCount>(f, [i](const Storage* data) { return load<float>(data, i); });
    rr += residual * residual;
    if (kWork == Work::kWrite) {
      store<float>(out, i, factor * residual);
    } else {
      kept[i] = residual;
    }
    if (kWork == Work::kKeepAndCompare) {
      const float p = load<float>(pred, i), y = p - residual;
      pp += p * p, pr += p * residual, yy += y * y;
    }
  }
  return {double(rr), double(pp), double(pr), double(yy)};
}

// Two bfloat16 lie in a word: the halves are widened and narrowed in place by shifts and masks, with no shuffle. What is kept
// is in split order.
template <int kCount, Work kWork>
static Sums fused_loop(const FewTerms<BFloat16> f, int64_t length, float factor, BFloat16* out, float* kept,
                       const BFloat16* pred) {
  const int64_t words = length / 2;
  float rr_low = 0, rr_high = 0, pp = 0, pr = 0, yy = 0, pp_high = 0, pr_high = 0, yy_high = 0;
#pragma omp simd reduction(+ : rr_low, rr_high, pp, pr, yy, pp_high, pr_high, yy_high)
  for (int64_t i = 0; i < words; ++i) {
    const float low = residual_of<kCount>(f, [i](const BFloat16* data) { return low_of(data, i); });
    const float high = residual_of<kCount>(f, [i](const BFloat16* data) { return high_of(data, i); });
    rr_low += low * low;
    rr_high += high * high;
    if (kWork == Work::kWrite) {
      store_word(out, i, factor * low, factor * high);
    } else {
      kept[i] = low;
      kept[words + i] = high;
    }
    if (kWork == Work::kKeepAndCompare) {
      const float p = low_of(pred, i), q = high_of(pred, i), y = p - low, z = q - high;
      pp += p * p, pr += p * low, yy += y * y;
      pp_high += q * q, pr_high += q * high, yy_high += z * z;
    }
  }
  return {double(rr_low) + double(rr_high), double(pp) + double(pp_high), double(pr) + double(pr_high),
          double(yy) + double(yy_high)};
}

template <typename Storage, int kCount>
static Sums fused_chunk(const Combination<float>& c, int64_t b, int64_t offset, int64_t length, float factor, void* gradient,
                        float* kept, const void* prediction) {
  const FewTerms<Storage> f(c, b, offset);
  Storage* out = static_cast<Storage*>(gradient);
  const Storage* pred = static_cast<const Storage*>(prediction);
  if (out) return fused_loop<kCount, Work::kWrite>(f, length, factor, out, kept, pred);
  if (pred) return fused_loop<kCount, Work::kKeepAndCompare>(f, length, factor, out, kept, pred);
  return fused_loop<kCount, Work::kKeep>(f, length, factor, out, kept, pred);
}

// Arguments: combination, sample, offset, length, factor, where to write (the gradient, or else the residual), and the
// prediction to compare with, or null.
typedef Sums (*FusedChunk)(const Combination<float>&, int64_t, int64_t, int64_t, float, void*, float*, const void*);

template <typename Storage>
static FusedChunk fused_chunk_of(int count) {
  switch (count) {
    case 1: return fused_chunk<Storage, 1>;
    case 2: return fused_chunk<Storage, 2>;
    case 3: return fused_chunk<Storage, 3>;
    case 4: return fused_chunk<Storage, 4>;
    case 5: return fused_chunk<Storage, 5>;
    case 6: return fused_chunk<Storage, 6>;
    case 7: return fused_chunk<Storage, 7>;
    case 8: return fused_chunk<Storage, 8>;
    case 9: return fused_chunk<Storage, 9>;
    case 10: return fused_chunk<Storage, 10>;
  }
  return nullptr;
}

// The fused loop for this combination, or null where only the general path will do.
static FusedChunk fused_chunk_for(const Formats& formats, const Combination<float>& c) {
  if (!formats.same) return nullptr;
  const int count = c.count + (c.total != 0 ? 1 : 0);
  switch (formats.dtype) {
    case DType::kFloat32: return fused_chunk_of<float>(count);
    case DType::kFloat16: return fused_chunk_of<Half>(count);
    case DType::kBFloat16: return fused_chunk_of<BFloat16>(count);
    default: return nullptr;
  }
}

// The sums over a chunk; those of products only if there is a prediction to compare with.
template <typename T>
static Sums sums_of(const T* residual, const T* pred, int64_t length) {
  T rr = 0, pp = 0, pr = 0, yy = 0;
#pragma omp simd reduction(+ : rr)
  for (int64_t i = 0; i < length; ++i) rr += residual[i] * residual[i];
#pragma omp simd reduction(+ : pp, pr, yy)
  for (int64_t i = 0; i < (pred ? length : 0); ++i) {
    const T y = pred[i] - residual[i];
    pp += pred[i] * pred[i];
    pr += pred[i] * residual[i];
    yy += y * y;
  }
  return {double(rr), double(pp), double(pr), double(yy)};
}

// Whether a chunk of this length can be worked on by a fused loop: an odd bfloat16 has no word.
RCGM_FN bool fits_words(const Formats& formats, int64_t length) {
  return formats.dtype != DType::kBFloat16 || formats.split(length);
}

// A chunk of a sample.
struct Chunk {
  int64_t b, offset, length;
};

// R of a chunk in `residual`, and its sums; with `pred`, those of products too.
template <typename T>
static Sums combine_chunk(const Formats& formats, const Combination<T>& c, const Chunk& x, const Array* pred, T* residual) {
  alignas(64) T anchor[kChunk], term[kChunk];
  const bool split = formats.split(x.length);
  residual_chunk(c, x.b, x.offset, x.length, split, anchor, term, residual);
  if (pred) load_chunk(*pred, x.b, x.offset, x.length, split, anchor);
  return sums_of(residual, pred ? anchor : nullptr, x.length);
}

static Sums residual_of_chunk(const Formats& formats, const Combination<float>& c, const Chunk& x, const Array* pred,
                              float* residual) {
  const FusedChunk fused = fused_chunk_for(formats, c);
  if (!fused || !fits_words(formats, x.length)) return combine_chunk(formats, c, x, pred, residual);
  return fused(c, x.b, x.offset, x.length, 0, nullptr, residual, pred ? element(*pred, x.b, x.offset) : nullptr);
}
static Sums residual_of_chunk(const Formats& formats, const Combination<double>& c, const Chunk& x, const Array* pred,
                              double* residual) {
  return combine_chunk(formats, c, x, pred, residual);
}

// Writes the gradient of a chunk with `factor` where a fused loop can, and gives the sum of R^2.
static bool gradient_at_once(const Formats& formats, const Combination<float>& c, const Chunk& x, double factor, void* gradient,
                             double* rr) {
  const FusedChunk fused = fused_chunk_for(formats, c);
  if (!fused || !fits_words(formats, x.length)) return false;
  *rr = fused(c, x.b, x.offset, x.length, float(factor), gradient, nullptr, nullptr).rr;
  return true;
}
static bool gradient_at_once(const Formats&, const Combination<double>&, const Chunk&, double, void*, double*) { return false; }
