// Small samples, many at a time. Included by kernels.cpp inside the namespace of one instruction set.
//
// The numbers of kLanes samples, a pack, are worked out together, one sample in each lane. The elements of some of them, a
// stretch, lie one after the other in memory and fill whole vectors; each number is repeated for every element of its sample.

// Larger samples are worked on one by one: then memory is what limits them.
constexpr int64_t kPackedSize = 32;
constexpr int64_t kStretch = 1024;
// A number is repeated in steps of so many elements, up to the next sample and beyond it.
constexpr int64_t kStep = 8;

// Whether samples are small, and lie one after the other.
static bool is_packed(const LossArguments& a) {
  bool dense = a.pred.stride == a.size;
  for (int k = 0; k < a.count; ++k) dense = dense && a.terms[k].stride == a.size;
  return dense && a.size <= kPackedSize && a.options.positions == 0;
}

template <typename T>
struct Pack {
  int64_t b, count;  // first sample, samples; the lanes without a sample have numbers too, and what they give is not stored
  alignas(64) double weight[kLanes], normalize_scale[kLanes], scale[kLanes], own[kLanes];
  alignas(64) T total[kLanes], coeffs[kMaxTerms][kLanes];
  alignas(64) double rr[kLanes], pp[kLanes], pr[kLanes], yy[kLanes];
  alignas(64) double loss[kLanes], residual_factor[kLanes], pred_factor[kLanes], storage_scale[kLanes];
  alignas(64) T residual[kPackedSize * kLanes];
};

// Some samples of a pack and their elements.
struct Stretch {
  int64_t first, samples;  // in the pack
  int64_t size, length;    // of a sample, of all
  bool split;

  Stretch(const LossArguments& a, const Formats& formats, int64_t start, int64_t count) : first(start), size(a.size) {
    const int64_t most = kStretch / size;
    samples = count - first < most ? count - first : most;
    length = samples * size;
    split = formats.split(size);
  }
};

template <int64_t kSize, typename T>
RCGM_FN void repeat_exactly(const T* values, int64_t samples, T* out) {
#pragma omp simd
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t d = 0; d < kSize; ++d) out[s * kSize + d] = values[s];
  }
}

template <typename T>
RCGM_FN void repeat_by(const T* values, int64_t samples, int64_t size, T* out) {
  switch (size) {  // in one store a vector: what is loaded soon must not come from several stores
    case 1: return repeat_exactly<1>(values, samples, out);
    case 2: return repeat_exactly<2>(values, samples, out);
    case 4: return repeat_exactly<4>(values, samples, out);
  }
  for (int64_t s = 0; s < samples; ++s) {
    const T value = values[s];
    for (int64_t d = 0; d < size; d += kStep) {
      for (int64_t i = 0; i < kStep; ++i) out[s * size + d + i] = value;
    }
  }
}

// out[i] = the value of the sample of element i; `out` has room for kStretch + kStep.
template <typename T>
static void repeat(const Stretch& x, const T* values, T* out) {
  values += x.first;
  if (x.split) {
    const int64_t half = x.length / 2;
    repeat_by(values, x.samples, x.size / 2, out);
    for (int64_t i = 0; i < half; ++i) out[half + i] = out[i];
  } else {
    repeat_by(values, x.samples, x.size, out);
  }
}

template <int64_t kSize, typename T>
RCGM_FN void add_rows_of(const T* values, int64_t samples, double* sums) {
  for (int64_t s = 0; s < samples; ++s) {
    double sum = 0;
    for (int64_t d = 0; d < kSize; ++d) sum += double(values[s * kSize + d]);
    sums[s] = sum;
  }
}

// The sum over each sample. Values in split order are changed.
template <typename T>
static void sum_samples(const Stretch& x, T* values, double* sums) {
  int64_t size = x.size;
  if (x.split) {
    size /= 2;
    const int64_t half = x.length / 2;
    for (int64_t i = 0; i < half; ++i) values[i] += values[half + i];
  }
  sums += x.first;
  switch (size) {
    case 1: return add_rows_of<1>(values, x.samples, sums);
    case 2: return add_rows_of<2>(values, x.samples, sums);
    case 3: return add_rows_of<3>(values, x.samples, sums);
    case 4: return add_rows_of<4>(values, x.samples, sums);
  }
  for (int64_t s = 0; s < x.samples; ++s) sums[s] = 0;
  for (int64_t d = 0; d < size; ++d) {
    for (int64_t s = 0; s < x.samples; ++s) sums[s] += double(values[s * size + d]);
  }
}

// As combination_of: the coefficient of the anchor is `own`, and 0 has it left out. Returns the first lane whose knots are out
// of order, or -1.
template <typename T>
__attribute__((flatten)) static int64_t read_coefficients(const LossArguments& a, Pack<T>& p) {
  alignas(64) double total[kLanes];
  alignas(64) double rows[kMaxTerms + 2][kLanes];
  const int first = a.options.pred_in_residual ? 0 : 1, count = a.options.times ? knots_of(a) : a.count;
  for (int i = 0; i < count; ++i) numbers(a.scalars, i, p.b, p.count, rows[i]);
  if (a.options.times) {
    for (int64_t s = 0; s < kLanes; ++s) p.own[s] = 1, p.total[s] = 0;
    for (int k = first; k < a.count - 1; ++k) {
      for (int64_t s = 0; s < kLanes; ++s) {
        p.coeffs[k][s] = T(segment_coefficient([&](int i) { return rows[i][s]; }, k - first + 1));
      }
    }
    for (int64_t s = 0; s < kLanes; ++s) p.coeffs[a.count - 1][s] = T(velocity_coefficient([&](int i) { return rows[i][s]; }));
    return unordered_lane(rows, count, p.weight, p.count);
  }
  if (a.options.pred_in_residual) {
    numbers(a.pred_coeff, 0, p.b, p.count, p.own);
  } else {
    for (int64_t s = 0; s < kLanes; ++s) p.own[s] = rows[0][s];
  }
  for (int64_t s = 0; s < kLanes; ++s) total[s] = p.own[s];
  for (int k = first; k < a.count; ++k) {
    for (int64_t s = 0; s < kLanes; ++s) total[s] += rows[k][s], p.coeffs[k][s] = T(rows[k][s]);
  }
  for (int64_t s = 0; s < kLanes; ++s) p.total[s] = T(total[s]);
  return -1;
}

// R of a stretch and the sum of its squares.
template <typename T>
static void combine_stretch(const LossArguments& a, const Stretch& x, Pack<T>& p) {
  alignas(64) T anchor[kStretch], term[kStretch], numbers[kStretch + kStep];
  const int first = a.options.pred_in_residual ? 0 : 1;
  const int64_t b = p.b + x.first, length = x.length;
  T* residual = p.residual + x.first * x.size;
  load_chunk(first ? a.terms[0] : a.pred, b, 0, length, x.split, anchor);
  if (a.options.times) {
    for (int64_t i = 0; i < length; ++i) residual[i] = 0;
  } else {
    alignas(64) T own[kLanes];
    for (int64_t s = 0; s < kLanes; ++s) own[s] = T(p.own[s] != 0);
    repeat(x, own, numbers);
    for (int64_t i = 0; i < length; ++i) anchor[i] = numbers[i] == 0 ? 0 : anchor[i];  // it may hold anything
    repeat(x, p.total, numbers);
    for (int64_t i = 0; i < length; ++i) residual[i] = numbers[i] == 0 ? 0 : numbers[i] * anchor[i];
  }
  for (int k = first; k < a.count; ++k) {
    load_chunk(a.terms[k], b, 0, length, x.split, term);
    repeat(x, p.coeffs[k], numbers);
    for (int64_t i = 0; i < length; ++i) residual[i] += numbers[i] == 0 ? 0 : numbers[i] * (term[i] - anchor[i]);
  }
  const T clip = T(a.options.clip);
  for (int64_t i = 0; i < length; ++i) residual[i] = clamp_residual(residual[i], clip);
  if (a.scale.data) {
    alignas(64) T scale[kLanes];
    for (int64_t s = 0; s < kLanes; ++s) scale[s] = T(p.scale[s]);
    repeat(x, scale, numbers);
    for (int64_t i = 0; i < length; ++i) residual[i] *= numbers[i];
  }
  for (int64_t i = 0; i < length; ++i) term[i] = residual[i] * residual[i];
  sum_samples(x, term, p.rr);
  if (a.options.cosine == 0) return;
  alignas(64) T pred[kStretch];
  load_chunk(a.pred, b, 0, length, x.split, pred);
  for (int64_t i = 0; i < length; ++i) term[i] = pred[i] * pred[i];
  sum_samples(x, term, p.pp);
  for (int64_t i = 0; i < length; ++i) term[i] = pred[i] * residual[i];
  sum_samples(x, term, p.pr);
  for (int64_t i = 0; i < length; ++i) term[i] = (pred[i] - residual[i]) * (pred[i] - residual[i]);
  sum_samples(x, term, p.yy);
}

template <typename T>
static void finish_lanes(const LossOptions& o, int64_t size, Pack<T>& p) {
  for (int64_t s = 0; s < p.count; ++s) {
    const Sample sample = {p.weight[s], p.normalize_scale[s], o.clip * fabs(p.scale[s])};
    const Outcome outcome = finish_sample(o, Sums{p.rr[s], p.pp[s], p.pr[s], p.yy[s]}, double(size), sample);
    p.loss[s] = outcome.loss;
    p.residual_factor[s] = outcome.residual_factor;
    p.pred_factor[s] = outcome.pred_factor;
    p.storage_scale[s] = outcome.storage_scale;
  }
}

// The same with options that the compiler knows, so that it can use vectors.
template <Metric kMetric, bool kInverse, typename T>
__attribute__((flatten)) static void finish_known(const LossOptions& given, int64_t size, Pack<T>& p) {
  LossOptions o = {};
  o.metric = kMetric;
  o.metric_c = given.metric_c;
  o.normalize = -1;
  o.power = kInverse ? 1 : 0;
  o.eps = given.eps;
  o.share = given.share;
  const double divisor = given.sum_of_elements ? 1 : double(size);
  for (int64_t s = 0; s < kLanes; ++s) {
    const Outcome outcome = finish_sample(o, Sums{p.rr[s], 0, 0, 0}, divisor, Sample{p.weight[s], 1, 0});
    p.loss[s] = outcome.loss;
    p.residual_factor[s] = outcome.residual_factor;
  }
}

template <typename T>
static void finish_pack(const LossOptions& o, int64_t size, Pack<T>& p) {
  const bool plain = o.cosine == 0 && o.normalize < 0 && !o.scaled;
  const bool inverse = o.power == 1 && !o.adaptive_of_loss, any = o.power != 0;
  if (plain && o.metric == Metric::kL2 && !any) return finish_known<Metric::kL2, false>(o, size, p);
  if (plain && o.metric == Metric::kL2 && inverse) return finish_known<Metric::kL2, true>(o, size, p);
  if (plain && o.metric == Metric::kPseudoHuber && !any) return finish_known<Metric::kPseudoHuber, false>(o, size, p);
  finish_lanes(o, size, p);
}

template <typename T>
static void write_stretch(const LossArguments& a, const Stretch& x, const T* r, const T* of_pred, Pack<T>& p) {
  alignas(64) T pred[kStretch], numbers[kStretch + kStep];
  const int64_t b = p.b + x.first;
  T* residual = p.residual + x.first * x.size;
  repeat(x, r, numbers);
  for (int64_t i = 0; i < x.length; ++i) residual[i] *= numbers[i];
  if (a.options.cosine != 0) {
    load_chunk(a.pred, b, 0, x.length, x.split, pred);
    repeat(x, of_pred, numbers);
    for (int64_t i = 0; i < x.length; ++i) residual[i] += numbers[i] * pred[i];
  }
  if (a.weight.data) {
    alignas(64) T given[kLanes];
    for (int64_t s = 0; s < kLanes; ++s) given[s] = T(p.weight[s] != 0);
    repeat(x, given, numbers);
    for (int64_t i = 0; i < x.length; ++i) residual[i] = numbers[i] == 0 ? 0 : residual[i];  // it may hold anything
  }
  store_chunk<T>(a.gradient, b, 0, x.length, x.split, residual);
}

// Asks for the tensors of the pack after the next.
RCGM_FN void fetch_pack(const LossArguments& a, int64_t b) {
  b += 2 * kLanes;
  if (b + kLanes > a.batch) return;
  fetch(element(a.pred, b, 0), kLanes * a.size * bytes_of(a.pred.dtype));
  for (int k = 0; k < a.count; ++k) fetch(element(a.terms[k], b, 0), kLanes * a.size * bytes_of(a.terms[k].dtype));
}

// Returns the first sample whose knots are out of order, or the size of the batch.
template <typename T>
static int64_t loss_of_pack(const LossArguments& a, const Formats& formats, int64_t b, double* losses) {
  fetch_pack(a, b);
  Pack<T> p;
  p.b = b, p.count = a.batch - b < kLanes ? a.batch - b : kLanes;
  numbers(a.weight, 0, b, p.count, p.weight);
  numbers(a.scale, 0, b, p.count, p.scale);
  numbers(a.normalize_scale, 0, b, p.count, p.normalize_scale);
  const int64_t unordered = read_coefficients(a, p);
  if (unordered >= 0) return b + unordered;
  for (int64_t s = 0; s < p.count; s += kStretch / a.size) combine_stretch(a, Stretch(a, formats, s, p.count), p);
  finish_pack(a.options, a.size, p);
  store_losses(a, b, p.count, p.loss, losses);
  for (int64_t s = 0; a.storage_scales && s < p.count; ++s) a.storage_scales[b + s] = float(p.storage_scale[s]);
  if (!a.gradient.data) return a.batch;
  alignas(64) T r[kLanes], of_pred[kLanes];
  for (int64_t s = 0; s < p.count; ++s) r[s] = T(p.residual_factor[s]);
  for (int64_t s = 0; s < p.count && a.options.cosine != 0; ++s) of_pred[s] = T(p.pred_factor[s]);
  for (int64_t s = 0; s < p.count; s += kStretch / a.size) write_stretch(a, Stretch(a, formats, s, p.count), r, of_pred, p);
  return a.batch;
}

// `losses` as for store_loss. Returns as residual_loss.
template <typename T>
static int64_t losses_of_packs(const LossArguments& a, const Formats& formats, double* losses) {
  const int64_t packs = (a.batch + kLanes - 1) / kLanes;
  int64_t unordered = a.batch;
#pragma omp parallel for num_threads(a.batch * a.size > kFewElements ? a.threads : 1) schedule(static) reduction(min : unordered)
  for (int64_t pack = 0; pack < packs; ++pack) {
    const int64_t found = loss_of_pack<T>(a, formats, pack * kLanes, losses);
    unordered = found < unordered ? found : unordered;
  }
  return unordered < a.batch ? unordered : -1;
}
