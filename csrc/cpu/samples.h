// What is known of one sample, and what is written for it. Included by kernels.cpp inside the namespace of one instruction set.

static Sample sample_of(const LossArguments& a, int64_t b) {
  return {number(a.weight, 0, b), number(a.normalize_scale, 0, b), a.options.clip * fabs(number(a.scale, 0, b))};
}

// The loss of a sample: to the result, or to `losses` where the batch is reduced.
RCGM_FN void store_loss(const LossArguments& a, int64_t b, double loss, double* losses) {
  if (losses) {
    losses[b] = loss;
  } else if (a.float64) {
    static_cast<double*>(a.loss)[b] = loss;
  } else {
    static_cast<float*>(a.loss)[b] = float(loss);
  }
}

// The same for `count` samples from sample `b` on.
RCGM_FN void store_losses(const LossArguments& a, int64_t b, int64_t count, const double* values, double* losses) {
  if (losses || a.float64) {
    double* out = (losses ? losses : static_cast<double*>(a.loss)) + b;
    for (int64_t s = 0; s < count; ++s) out[s] = values[s];
  } else {
    float* out = static_cast<float*>(a.loss) + b;
    for (int64_t s = 0; s < count; ++s) out[s] = float(values[s]);
  }
}

static void store_outcome(const LossArguments& a, int64_t b, const Outcome& outcome, double* losses) {
  store_loss(a, b, outcome.loss, losses);
  if (a.storage_scales) a.storage_scales[b] = float(outcome.storage_scale);
}

// A sample of weight 0 is not read: it may hold anything.
static bool left_out(const LossArguments& a, int64_t b, double* losses) {
  if (number(a.weight, 0, b) != 0) return false;
  store_outcome(a, b, {0, 0, 0, 1}, losses);
  if (a.gradient.data) memset(element(a.gradient, b, 0), 0, size_t(a.size * bytes_of(a.gradient.dtype)));
  return true;
}

// out = r * R + p * pred, without the last if there is no `pred`. `r` and `p` give the factor of an element.
template <typename T, typename Storage, typename Factor>
RCGM_FN void gradient_values(Storage* out, const T* residual, const Storage* pred, int64_t length, bool, const Factor& r,
                             const Factor& p) {
  if (pred) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) store<T>(out, i, r(i) * residual[i] + p(i) * load<T>(pred, i));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) store<T>(out, i, r(i) * residual[i]);
  }
}

// In split order: `low` and `high` give the halves of the prediction.
template <typename Low, typename High, typename Factor>
RCGM_FN void split_gradient(BFloat16* out, const float* residual, int64_t half, const Low& low, const High& high, const Factor& r,
                            const Factor& p) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    store_word(out, i, r(i) * residual[i] + p(i) * low(i), r(half + i) * residual[half + i] + p(half + i) * high(i));
  }
}
template <typename Factor>
RCGM_FN void gradient_values(BFloat16* out, const float* residual, const BFloat16* pred, int64_t length, bool split,
                             const Factor& r, const Factor& p) {
  if (!split) return gradient_values<float, BFloat16>(out, residual, pred, length, split, r, p);
  const int64_t half = length / 2;
  if (pred) {
    const auto low = [pred](int64_t i) { return low_of(pred, i); }, high = [pred](int64_t i) { return high_of(pred, i); };
    split_gradient(out, residual, half, low, high, r, p);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) store_word(out, i, r(i) * residual[i], r(half + i) * residual[half + i]);
  }
}

// The gradient of a chunk: of R and, with a cosine, of the prediction. `r` and `p` give their factors.
template <typename T, typename Factor>
static void write_gradient(const LossArguments& a, int64_t b, int64_t offset, int64_t length, bool split, const T* residual,
                           const Factor& r, const Factor& p) {
  with_type(a.gradient.dtype, element(a.gradient, b, offset), [&](auto* out) {
    const auto* pred = a.options.cosine == 0 ? nullptr : static_cast<decltype(out)>(const_cast<void*>(element(a.pred, b, offset)));
    gradient_values(out, residual, pred, length, split, r, p);
  });
}

// The same with the factors of the whole sample.
template <typename T>
static void write_gradient(const LossArguments& a, const Outcome& outcome, int64_t b, int64_t offset, int64_t length,
                           bool split, const T* residual) {
  const auto factor = [](T value) { return [value](int64_t) { return value; }; };
  write_gradient(a, b, offset, length, split, residual, factor(T(outcome.residual_factor)), factor(T(outcome.pred_factor)));
}
