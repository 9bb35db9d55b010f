// Numbers per sample on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

RCGM_FN double number(const Scalars& s, int row, int64_t b) {
  if (!s.data) return 1;
  const int64_t i = row * s.row_stride + b * s.stride;
  return s.float64 ? static_cast<const double*>(s.data)[i] : double(static_cast<const float*>(s.data)[i]);
}

// t_0 to t_{N+1}: the terms are [base], N segments and the velocity.
RCGM_FN int knots_of(const LossArguments& a) { return a.count + (a.options.pred_in_residual ? 1 : 0); }

// Whether the knots of a sample are finite and fall from t_0 to t_{N+1}, with t_0 above t_1 unless all are equal.
RCGM_FN bool falling(const Scalars& knots, int count, int64_t b) {
  const double first = number(knots, 0, b), second = number(knots, 1, b), last = number(knots, count - 1, b);
  bool falls = fabs(first) < INFINITY && fabs(last) < INFINITY && (first > second || second == last);
  for (int i = 1; i < count; ++i) falls &= number(knots, i - 1, b) >= number(knots, i, b);
  return falls;
}

static int64_t first_unordered(const LossArguments& a) {
  if (!a.options.times) return -1;
  const int count = knots_of(a);
  for (int64_t b = 0; b < a.batch; ++b) {
    if (!falling(a.scalars, count, b) && number(a.weight, 0, b) != 0) return b;
  }
  return -1;
}
