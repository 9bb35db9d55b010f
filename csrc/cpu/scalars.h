// Numbers per sample on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

// Samples whose numbers are worked on together, one in each lane of a vector.
constexpr int64_t kLanes = 64;

RCGM_FN double number(const Scalars& s, int row, int64_t b) {
  if (!s.data) return 1;
  const int64_t i = row * s.row_stride + b * s.stride;
  return s.float64 ? static_cast<const double*>(s.data)[i] : double(static_cast<const float*>(s.data)[i]);
}

template <typename Storage>
RCGM_FN void read_numbers(const Storage* data, int64_t stride, int64_t count, double* values) {
  if (stride == 1 && count == kLanes) {
    for (int64_t s = 0; s < kLanes; ++s) values[s] = double(data[s]);
  } else {
    for (int64_t s = 0; s < count; ++s) values[s] = double(data[s * stride]);
  }
}

// The numbers of `count` samples from sample `b`; lanes without a sample get 1.
RCGM_FN void numbers(const Scalars& s, int row, int64_t b, int64_t count, double* values) {
  if (!s.data || count < kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) values[i] = 1;
  }
  const int64_t first = row * s.row_stride + b * s.stride;
  if (s.data && s.float64) {
    read_numbers(static_cast<const double*>(s.data) + first, s.stride, count, values);
  } else if (s.data) {
    read_numbers(static_cast<const float*>(s.data) + first, s.stride, count, values);
  }
}

// t_0 to t_{N+1}: the terms are [base], N segments and the velocity.
RCGM_FN int knots_of(const LossArguments& a) { return a.count + (a.options.pred_in_residual ? 1 : 0); }

// The knots of a sample must be finite and fall from t_0 to t_{N+1}, with t_0 above t_1 unless all are equal.
static int64_t first_unordered(const LossArguments& a) {
  if (!a.options.times) return -1;
  const int count = knots_of(a);
  for (int64_t b = 0; b < a.batch; b += kLanes) {
    alignas(64) double first[kLanes], second[kLanes], before[kLanes], knot[kLanes], weight[kLanes];
    alignas(64) int64_t wrong[kLanes];
    const int64_t samples = a.batch - b < kLanes ? a.batch - b : kLanes;
    numbers(a.scalars, 0, b, samples, first);
    numbers(a.scalars, 1, b, samples, second);
    numbers(a.weight, 0, b, samples, weight);
    for (int64_t s = 0; s < kLanes; ++s) before[s] = first[s], wrong[s] = !(fabs(first[s]) < INFINITY);
    for (int i = 1; i < count; ++i) {
      numbers(a.scalars, i, b, samples, knot);
      for (int64_t s = 0; s < kLanes; ++s) wrong[s] |= !(before[s] >= knot[s]), before[s] = knot[s];
    }
    int64_t any = 0;
    for (int64_t s = 0; s < kLanes; ++s) {
      wrong[s] |= !(fabs(before[s]) < INFINITY) | !((first[s] > second[s]) | (second[s] == before[s]));
      wrong[s] &= weight[s] != 0;
      any |= wrong[s];
    }
    for (int64_t s = 0; any && s < samples; ++s) {
      if (wrong[s]) return b + s;
    }
  }
  return -1;
}
