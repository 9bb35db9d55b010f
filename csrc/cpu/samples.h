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

// The gradient of a chunk: of R and, with a cosine over the sample, of the prediction.
template <typename T>
static void write_gradient(const LossArguments& a, const Outcome& outcome, int64_t b, int64_t offset, int64_t length,
                           bool split, const T* residual, const T* pred) {
  alignas(64) T values[kChunk];
  const T r = T(outcome.residual_factor), p = T(outcome.pred_factor);
  if (pred) {
    for (int64_t i = 0; i < length; ++i) values[i] = r * residual[i] + p * pred[i];
  } else {
    for (int64_t i = 0; i < length; ++i) values[i] = r * residual[i];
  }
  store_chunk(a.gradient, b, offset, length, split, values);
}
