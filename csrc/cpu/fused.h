// The residual of a chunk whose tensors are all of one dtype: only the gradient, or the residual, leaves the registers.
//
// Included by kernels.cpp inside the namespace of one instruction set.

// What stands in for a tensor of zeros of any dtype.
alignas(64) static const float kZeros[kChunk] = {};

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

// The sum of R^2. kStore: writes factor * R to `out`, else R to `kept`.
template <int kCount, bool kStore, typename Storage>
static double fused_loop(const FewTerms<Storage> f, int64_t length, float factor, Storage* out, float* kept) {
  float rr = 0;
#pragma omp simd reduction(+ : rr)
  for (int64_t i = 0; i < length; ++i) {
    const float residual = residual_of<kCount>(f, [i](const Storage* data) { return load<float>(data, i); });
    rr += residual * residual;
    if (kStore) {
      store<float>(out, i, factor * residual);
    } else {
      kept[i] = residual;
    }
  }
  return double(rr);
}

// Two bfloat16 lie in a word: the halves are widened and narrowed in place by shifts and masks, with no shuffle. What is kept
// is in split order.
template <int kCount, bool kStore>
static double fused_loop(const FewTerms<BFloat16> f, int64_t length, float factor, BFloat16* out, float* kept) {
  const int64_t words = length / 2;
  float rr_low = 0, rr_high = 0;
#pragma omp simd reduction(+ : rr_low, rr_high)
  for (int64_t i = 0; i < words; ++i) {
    const float low = residual_of<kCount>(f, [i](const BFloat16* data) {
      return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits << 16);
    });
    const float high = residual_of<kCount>(f, [i](const BFloat16* data) {
      return bits_of<float>(reinterpret_cast<const Word*>(data)[i].bits & 0xffff0000u);
    });
    rr_low += low * low;
    rr_high += high * high;
    if (kStore) {
      const uint32_t high_bits = rounded_bfloat16(factor * high) & 0xffff0000u;
      reinterpret_cast<Word*>(out)[i].bits = high_bits | (rounded_bfloat16(factor * low) >> 16);
    } else {
      kept[i] = low;
      kept[words + i] = high;
    }
  }
  return double(rr_low) + double(rr_high);
}

template <typename Storage, int kCount>
static double fused_chunk(const Combination<float>& c, int64_t b, int64_t offset, int64_t length, float factor, void* gradient,
                          float* kept) {
  const FewTerms<Storage> f(c, b, offset);
  Storage* out = static_cast<Storage*>(gradient);
  return out ? fused_loop<kCount, true>(f, length, factor, out, kept) : fused_loop<kCount, false>(f, length, factor, out, kept);
}

// Arguments: combination, sample, offset, length, factor, and where to write: the gradient, or else the residual.
typedef double (*FusedChunk)(const Combination<float>&, int64_t, int64_t, int64_t, float, void*, float*);

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

template <typename T>
static double squares_of(const T* residual, int64_t length) {
  T rr = 0;
#pragma omp simd reduction(+ : rr)
  for (int64_t i = 0; i < length; ++i) rr += residual[i] * residual[i];
  return double(rr);
}

// Whether a chunk of this length can be worked on by a fused loop: an odd bfloat16 has no word.
RCGM_FN bool fits_words(const Formats& formats, int64_t length) {
  return formats.dtype != DType::kBFloat16 || formats.split(length);
}

// R of a chunk in `residual`, and the sum of its squares; `anchor` and `term` are scratch.
static double squares_of_residual(const Formats& formats, const Combination<float>& c, int64_t b, int64_t offset,
                                  int64_t length, float* anchor, float* term, float* residual) {
  const FusedChunk fused = fused_chunk_for(formats, c);
  if (fused && fits_words(formats, length)) return fused(c, b, offset, length, 0, nullptr, residual);
  residual_chunk(c, b, offset, length, formats.split(length), anchor, term, residual);
  return squares_of(residual, length);
}
static double squares_of_residual(const Formats& formats, const Combination<double>& c, int64_t b, int64_t offset,
                                  int64_t length, double* anchor, double* term, double* residual) {
  residual_chunk(c, b, offset, length, formats.split(length), anchor, term, residual);
  return squares_of(residual, length);
}

// Writes the gradient of a chunk with `factor` where a fused loop can, and gives the sum of R^2.
static bool gradient_at_once(const Formats& formats, const Combination<float>& c, int64_t b, int64_t offset, int64_t length,
                             double factor, void* gradient, double* rr) {
  const FusedChunk fused = fused_chunk_for(formats, c);
  if (!fused || !fits_words(formats, length)) return false;
  *rr = fused(c, b, offset, length, float(factor), gradient, nullptr);
  return true;
}
static bool gradient_at_once(const Formats&, const Combination<double>&, int64_t, int64_t, int64_t, double, void*, double*) {
  return false;
}
