// Numbers per sample on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

// Samples whose numbers are worked on together, one in each lane of a vector.
constexpr int64_t kLanes = 64;

RCGM_FN double number(const Scalars& s, int row, int64_t b) {
  if (!s.data) return 1;
  const int64_t i = row * s.row_stride + b * s.stride;
  return s.float64 ? static_cast<const double*>(s.data)[i] : double(static_cast<const float*>(s.data)[i]);
}

// Asks for memory that will be read soon.
RCGM_FN void fetch(const void* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(data) + uintptr_t(i)));
}

template <typename Storage>
RCGM_FN void read_numbers(const Storage* data, int64_t stride, int64_t count, double* values) {
  if (stride == 1 && count == kLanes) {
    fetch(data + 2 * kLanes, kLanes * int64_t(sizeof(Storage)));  // many short rows: too many for the hardware to foresee
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

// The first of `count` samples that has a weight and whose knots are out of order, or -1. They must be finite and fall from
// t_0 to t_{N+1}, with t_0 above t_1 unless all are equal.
static int64_t unordered_lane(const double (*knots)[kLanes], int rows, const double* weight, int64_t count) {
  alignas(64) int64_t wrong[kLanes];
  const double *first = knots[0], *second = knots[1], *last = knots[rows - 1];
  for (int64_t s = 0; s < kLanes; ++s) {
    wrong[s] = !(fabs(first[s]) < INFINITY) | !(fabs(last[s]) < INFINITY) | !((first[s] > second[s]) | (second[s] == last[s]));
  }
  for (int i = 1; i < rows; ++i) {
    for (int64_t s = 0; s < kLanes; ++s) wrong[s] |= !(knots[i - 1][s] >= knots[i][s]);
  }
  int64_t any = 0;
  for (int64_t s = 0; s < kLanes; ++s) any |= wrong[s] &= weight[s] != 0;
  for (int64_t s = 0; any && s < count; ++s) {
    if (wrong[s]) return s;
  }
  return -1;
}

static int64_t first_unordered(const LossArguments& a) {
  if (!a.options.times) return -1;
  alignas(64) double knots[kMaxTerms + 2][kLanes], weight[kLanes];
  const int rows = knots_of(a);
  for (int64_t b = 0; b < a.batch; b += kLanes) {
    const int64_t count = a.batch - b < kLanes ? a.batch - b : kLanes;
    for (int i = 0; i < rows; ++i) numbers(a.scalars, i, b, count, knots[i]);
    numbers(a.weight, 0, b, count, weight);
    const int64_t lane = unordered_lane(knots, rows, weight, count);
    if (lane >= 0) return b + lane;
  }
  return -1;
}
