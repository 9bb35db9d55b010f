// Small samples: each vector holds one element of several samples. Included by kernels.cpp inside the namespace of one
// instruction set.
//
// A pack of kLanes samples is read in transposed order [element][sample]. Then the numbers of the samples are vectors too, and
// no lane of a vector meets another.

// Samples of more elements fill vectors of their own.
constexpr int64_t kPackedSize = 16;

// Whether samples are small, and lie one after the other.
static bool is_packed(const LossArguments& a) {
  bool dense = a.pred.stride == a.size;
  for (int k = 0; k < a.count; ++k) dense = dense && a.terms[k].stride == a.size;
  return dense && a.size <= kPackedSize && a.options.positions == 0;
}

// kSize: elements of a sample where the compiler shall know them, else 0.
template <int kSize, typename T, typename Storage>
RCGM_FN void load_transposed(const Storage* data, int64_t given, int64_t count, T* values) {
  const int64_t size = kSize ? kSize : given;
  if (kSize && count == kLanes) {
    for (int64_t s = 0; s < kLanes; ++s) {
      for (int64_t d = 0; d < kSize; ++d) values[d * kLanes + s] = load<T>(data, s * kSize + d);
    }
    return;
  }
  for (int64_t d = 0; d < size; ++d) {
    for (int64_t s = 0; s < count; ++s) values[d * kLanes + s] = load<T>(data, s * size + d);
  }
}

template <int kSize, typename T, typename Storage>
RCGM_FN void store_transposed(Storage* data, int64_t given, int64_t count, const T* values) {
  const int64_t size = kSize ? kSize : given;
  if (kSize && count == kLanes) {
    for (int64_t s = 0; s < kLanes; ++s) {
      for (int64_t d = 0; d < kSize; ++d) store<T>(data, s * kSize + d, values[d * kLanes + s]);
    }
    return;
  }
  for (int64_t d = 0; d < size; ++d) {
    for (int64_t s = 0; s < count; ++s) store<T>(data, s * size + d, values[d * kLanes + s]);
  }
}

template <typename T, typename Storage>
RCGM_FN void load_samples(const Storage* data, int64_t size, int64_t count, T* values) {
  switch (size) {
    case 1: return load_transposed<1>(data, size, count, values);
    case 2: return load_transposed<2>(data, size, count, values);
    case 3: return load_transposed<3>(data, size, count, values);
    case 4: return load_transposed<4>(data, size, count, values);
    default: return load_transposed<0>(data, size, count, values);
  }
}

template <typename T, typename Storage>
RCGM_FN void store_samples(Storage* data, int64_t size, int64_t count, const T* values) {
  switch (size) {
    case 1: return store_transposed<1>(data, size, count, values);
    case 2: return store_transposed<2>(data, size, count, values);
    case 3: return store_transposed<3>(data, size, count, values);
    case 4: return store_transposed<4>(data, size, count, values);
    default: return store_transposed<0>(data, size, count, values);
  }
}

// The elements of `count` samples from sample `b`.
template <typename T>
static void load_pack(const Array& array, int64_t b, int64_t size, int64_t count, T* values) {
  with_type(array.dtype, element(array, b, 0), [&](auto* data) { load_samples(data, size, count, values); });
}
template <typename T>
static void store_pack(const MutableArray& array, int64_t b, int64_t size, int64_t count, const T* values) {
  with_type(array.dtype, element(array, b, 0), [&](auto* data) { store_samples(data, size, count, values); });
}

// The numbers of a pack. Lanes without a sample have numbers too, and what they give is not stored.
template <typename T>
struct Pack {
  int64_t b, count, size;
  alignas(64) double weight[kLanes], normalize_scale[kLanes], scale[kLanes], own[kLanes], total[kLanes];
  alignas(64) T coeffs[kMaxTerms][kLanes];
  alignas(64) T residual[kPackedSize * kLanes], anchor[kPackedSize * kLanes], term[kPackedSize * kLanes];
  alignas(64) double rr[kLanes], pp[kLanes], pr[kLanes], yy[kLanes];
  alignas(64) double loss[kLanes], residual_factor[kLanes], pred_factor[kLanes], storage_scale[kLanes];
};

// As combination_of: the coefficient of the anchor is `own`, and 0 has it left out.
template <typename T>
static void read_coefficients(const LossArguments& a, Pack<T>& p) {
  alignas(64) double rows[kMaxTerms + 2][kLanes];
  const int first = a.options.pred_in_residual ? 0 : 1, count = a.options.times ? knots_of(a) : a.count;
  for (int i = 0; i < count; ++i) numbers(a.scalars, i, p.b, p.count, rows[i]);
  if (a.options.times) {
    for (int64_t s = 0; s < kLanes; ++s) p.own[s] = 1, p.total[s] = 0;
    for (int k = first; k < a.count; ++k) {
      T* coeffs = p.coeffs[k];
      const int segment = k - first + 1;
      const bool velocity = k == a.count - 1;
      for (int64_t s = 0; s < kLanes; ++s) {
        const auto knot = [&](int i) { return rows[i][s]; };
        coeffs[s] = T(velocity ? velocity_coefficient(knot) : segment_coefficient(knot, segment));
      }
    }
    return;
  }
  if (a.options.pred_in_residual) {
    numbers(a.pred_coeff, 0, p.b, p.count, p.own);
  } else {
    for (int64_t s = 0; s < kLanes; ++s) p.own[s] = rows[0][s];
  }
  for (int64_t s = 0; s < kLanes; ++s) p.total[s] = p.own[s];
  for (int k = first; k < a.count; ++k) {
    for (int64_t s = 0; s < kLanes; ++s) p.total[s] += rows[k][s], p.coeffs[k][s] = T(rows[k][s]);
  }
}

template <typename T>
static void combine_pack(const LossArguments& a, Pack<T>& p) {
  const int first = a.options.pred_in_residual ? 0 : 1;
  const T clip = T(a.options.clip);
  load_pack(first ? a.terms[0] : a.pred, p.b, p.size, p.count, p.anchor);
  alignas(64) T total[kLanes], scale[kLanes];
  for (int64_t s = 0; s < kLanes; ++s) total[s] = T(p.total[s]), scale[s] = T(p.scale[s]);
  for (int64_t d = 0; d < p.size; ++d) {
    T *anchor = p.anchor + d * kLanes, *residual = p.residual + d * kLanes;
    for (int64_t s = 0; s < kLanes; ++s) {
      anchor[s] = p.own[s] == 0 ? 0 : anchor[s];
      residual[s] = total[s] == 0 ? 0 : total[s] * anchor[s];
    }
  }
  for (int k = first; k < a.count; ++k) {
    load_pack(a.terms[k], p.b, p.size, p.count, p.term);
    const T* coeffs = p.coeffs[k];
    for (int64_t d = 0; d < p.size; ++d) {
      const T *anchor = p.anchor + d * kLanes, *term = p.term + d * kLanes;
      T* residual = p.residual + d * kLanes;
      for (int64_t s = 0; s < kLanes; ++s) residual[s] += coeffs[s] == 0 ? 0 : coeffs[s] * (term[s] - anchor[s]);
    }
  }
  for (int64_t s = 0; s < kLanes; ++s) p.rr[s] = 0;
  for (int64_t d = 0; d < p.size; ++d) {
    T* residual = p.residual + d * kLanes;
    for (int64_t s = 0; s < kLanes; ++s) {
      residual[s] = scale[s] * clamp_residual(residual[s], clip);
      p.rr[s] += double(residual[s] * residual[s]);
    }
  }
}

// The products for a cosine over the sample; leaves the prediction in `term`.
template <typename T>
static void add_products_of_pack(const LossArguments& a, Pack<T>& p) {
  load_pack(a.pred, p.b, p.size, p.count, p.term);
  for (int64_t s = 0; s < kLanes; ++s) p.pp[s] = 0, p.pr[s] = 0, p.yy[s] = 0;
  for (int64_t d = 0; d < p.size; ++d) {
    const T *pred = p.term + d * kLanes, *residual = p.residual + d * kLanes;
    for (int64_t s = 0; s < kLanes; ++s) {
      const T y = pred[s] - residual[s];
      p.pp[s] += double(pred[s] * pred[s]);
      p.pr[s] += double(pred[s] * residual[s]);
      p.yy[s] += double(y * y);
    }
  }
}

template <typename T>
static void finish_lanes(const LossOptions& o, int64_t lanes, Pack<T>& p) {
  for (int64_t s = 0; s < lanes; ++s) {
    const Sample sample = {p.weight[s], p.normalize_scale[s], o.clip * fabs(p.scale[s])};
    const Outcome outcome = finish_sample(o, Sums{p.rr[s], p.pp[s], p.pr[s], p.yy[s]}, double(p.size), sample);
    p.loss[s] = outcome.loss;
    p.residual_factor[s] = outcome.residual_factor;
    p.pred_factor[s] = outcome.pred_factor;
    p.storage_scale[s] = outcome.storage_scale;
  }
}

// The same with options that the compiler knows, so that it can use vectors.
template <Metric kMetric, bool kInverse, typename T>
static void finish_known(const LossOptions& given, Pack<T>& p) {
  LossOptions o = {};
  o.metric = kMetric;
  o.metric_c = given.metric_c;
  o.normalize = -1;
  o.power = kInverse ? 1 : 0;
  o.eps = given.eps;
  const double divisor = given.sum_of_elements ? 1 : double(p.size), share = given.share;
  o.adaptive_of_loss = false;
  for (int64_t s = 0; s < kLanes; ++s) {
    o.share = share;
    const Outcome outcome = finish_sample(o, Sums{p.rr[s], 0, 0, 0}, divisor, Sample{p.weight[s], 1, 0});
    p.loss[s] = outcome.loss;
    p.residual_factor[s] = outcome.residual_factor;
  }
}

template <typename T>
static void finish_pack(const LossOptions& o, Pack<T>& p) {
  const bool plain = o.cosine == 0 && o.normalize < 0 && !o.scaled;
  const bool inverse = o.power == 1 && !o.adaptive_of_loss, any = o.power != 0;
  if (plain && o.metric == Metric::kL2 && !any) return finish_known<Metric::kL2, false>(o, p);
  if (plain && o.metric == Metric::kL2 && inverse) return finish_known<Metric::kL2, true>(o, p);
  if (plain && o.metric == Metric::kPseudoHuber && !any) return finish_known<Metric::kPseudoHuber, false>(o, p);
  finish_lanes(o, p.count, p);
}

template <typename T>
static void write_pack(const LossArguments& a, Pack<T>& p) {
  const bool cosine = a.options.cosine != 0;
  alignas(64) T r[kLanes], of_pred[kLanes];
  for (int64_t s = 0; s < kLanes; ++s) r[s] = T(p.residual_factor[s]), of_pred[s] = cosine ? T(p.pred_factor[s]) : T(0);
  for (int64_t d = 0; d < p.size; ++d) {
    T* residual = p.residual + d * kLanes;
    const T* pred = p.term + d * kLanes;
    if (cosine) {
      for (int64_t s = 0; s < kLanes; ++s) residual[s] = r[s] * residual[s] + of_pred[s] * pred[s];
    } else {
      for (int64_t s = 0; s < kLanes; ++s) residual[s] = r[s] * residual[s];
    }
    for (int64_t s = 0; s < kLanes; ++s) residual[s] = p.weight[s] == 0 ? 0 : residual[s];  // which may hold anything
  }
  store_pack(a.gradient, p.b, p.size, p.count, p.residual);
}

template <typename T>
static void loss_of_pack(const LossArguments& a, int64_t b, double* losses) {
  Pack<T> p;
  p.b = b, p.count = a.batch - b < kLanes ? a.batch - b : kLanes, p.size = a.size;
  numbers(a.weight, 0, b, p.count, p.weight);
  numbers(a.scale, 0, b, p.count, p.scale);
  numbers(a.normalize_scale, 0, b, p.count, p.normalize_scale);
  read_coefficients(a, p);
  combine_pack(a, p);
  if (a.options.cosine != 0) add_products_of_pack(a, p);
  finish_pack(a.options, p);
  for (int64_t s = 0; s < p.count; ++s) store_loss(a, b + s, p.loss[s], losses);
  for (int64_t s = 0; a.storage_scales && s < p.count; ++s) a.storage_scales[b + s] = float(p.storage_scale[s]);
  if (a.gradient.data) write_pack(a, p);
}

// `losses` as for store_loss.
template <typename T>
static void losses_of_packs(const LossArguments& a, double* losses) {
  const int64_t packs = (a.batch + kLanes - 1) / kLanes;
#pragma omp parallel for num_threads(a.batch * a.size > kFewElements ? a.threads : 1) schedule(static)
  for (int64_t pack = 0; pack < packs; ++pack) loss_of_pack<T>(a, pack * kLanes, losses);
}
