// The residual of one sample. Included by kernels.cpp inside the namespace of one instruction set.

// value = total * anchor + sum_k coeff[k] * (term[k] - anchor).
template <typename T>
struct Combination {
  Array anchor;  // null data: zeros
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

// The dtype of all tensors that a sample's chunk meets, if there is one: then the fused loops can be used.
struct Formats {
  bool same;
  DType dtype;

  explicit Formats(const LossArguments& a) : same(!a.float64), dtype(a.count ? a.terms[0].dtype : a.pred.dtype) {
    for (int k = 0; k < a.count; ++k) same = same && a.terms[k].dtype == dtype;
    same = same && a.pred.dtype == dtype && (!a.gradient.data || a.gradient.dtype == dtype);
  }

  // Whether a chunk of this length is held in split order.
  bool split(int64_t length) const { return same && dtype == DType::kBFloat16 && length % 2 == 0; }
};

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
