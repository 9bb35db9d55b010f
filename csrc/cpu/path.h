// interpolate, advance and scale on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

// Call body(sample, offset, length) for every chunk of a [batch, size] tensor, over the threads.
template <typename Body>
static void for_each_chunk(int64_t batch, int64_t size, int threads, const Body& body) {
  const int64_t per_sample = (size + kBlock - 1) / kBlock, tasks = batch * per_sample;
#pragma omp parallel for num_threads(batch * size > kFewElements ? threads : 1) schedule(static)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t b = task / per_sample, start = task % per_sample * kBlock;
    const int64_t end = size < start + kBlock ? size : start + kBlock;
    for (int64_t offset = start; offset < end; offset += kChunk) {
      body(b, offset, end - offset < kChunk ? end - offset : kChunk);
    }
  }
}

// out[i] = combine(x[i], y[i]), from memory to memory, where all are of one dtype.
template <typename T, typename Storage, typename Combine>
RCGM_FN void combine_values(const Storage* x, const Storage* y, int64_t length, Storage* out, const Combine& combine) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) store<T>(out, i, combine(load<T>(x, i), load<T>(y, i)));
}
template <typename T, typename Combine>
RCGM_FN void combine_values(const BFloat16* x, const BFloat16* y, int64_t length, BFloat16* out, const Combine& combine) {
  const int64_t pairs = length / 2;
#pragma omp simd
  for (int64_t i = 0; i < pairs; ++i) {
    store_word(out, i, combine(low_of(x, i), low_of(y, i)), combine(high_of(x, i), high_of(y, i)));
  }
  if (length % 2) store<float>(out, length - 1, float(combine(widen(x[length - 1]), widen(y[length - 1]))));
}

template <typename Storage>
RCGM_FN Storage* as_typed(const Storage*, void* data) {
  return static_cast<Storage*>(data);
}

// The same for a chunk of any dtypes, into sample `row` of `out`.
template <typename T, typename Combine>
static void combine_chunk(const Array& x, const Array& y, int64_t b, int64_t offset, int64_t length, const MutableArray& out,
                          int64_t row, const Combine& combine) {
  if (x.dtype == y.dtype && x.dtype == out.dtype) {
    with_type(x.dtype, element(x, b, offset), [&](auto* data) {
      auto* other = static_cast<decltype(data)>(element(y, b, offset));
      combine_values<T>(data, other, length, as_typed(data, element(out, row, offset)), combine);
    });
    return;
  }
  alignas(64) T x_values[kChunk], y_values[kChunk], values[kChunk];
  load_chunk(x, b, offset, length, false, x_values);
  load_chunk(y, b, offset, length, false, y_values);
  for (int64_t i = 0; i < length; ++i) values[i] = combine(x_values[i], y_values[i]);
  store_chunk<T>(out, row, offset, length, false, values);
}

template <typename T>
static void interpolate_as(const InterpolateArguments& a) {
  for_each_chunk(a.batch, a.size, a.threads, [&](int64_t b, int64_t offset, int64_t length) {
    for (int point = 0; point < a.points; ++point) {  // the chunk is in the first-level cache still
      const T alpha = T(number(a.alpha, point, b)), gamma = T(number(a.gamma, point, b));
      combine_chunk<T>(a.x, a.z, b, offset, length, a.out, point * a.batch + b,
                       [=](T x, T z) { return alpha * z + gamma * x; });
    }
  });
}

static void interpolate(const InterpolateArguments& a) {
  if (a.x.dtype == DType::kFloat64 || a.z.dtype == DType::kFloat64) {
    interpolate_as<double>(a);
  } else {
    interpolate_as<float>(a);
  }
}

template <typename T>
static void advance_as(const AdvanceArguments& a) {
  for_each_chunk(a.batch, a.size, a.threads, [&](int64_t b, int64_t offset, int64_t length) {
    const T step = T(number(a.t, 0, b) - number(a.r, 0, b));
    combine_chunk<T>(a.x, a.velocity, b, offset, length, a.out, b, [=](T x, T velocity) { return x - step * velocity; });
  });
}

static void advance(const AdvanceArguments& a) {
  if (a.x.dtype == DType::kFloat64 || a.velocity.dtype == DType::kFloat64) {
    advance_as<double>(a);
  } else {
    advance_as<float>(a);
  }
}

template <typename T>
static void scale_as(const ScaleArguments& a) {
  const Array gradient = {a.gradient.data, a.gradient.stride, a.gradient.dtype};
  for_each_chunk(a.batch, a.size, a.threads, [&](int64_t b, int64_t offset, int64_t length) {
    const T factor = T(number(a.upstream, 0, b) / number(a.scales, 0, b));
    if (factor == 1) return;
    alignas(64) T values[kChunk];
    const bool split = a.gradient.dtype == DType::kBFloat16 && length % 2 == 0;
    load_chunk(gradient, b, offset, length, split, values);
    for (int64_t i = 0; i < length; ++i) values[i] *= factor;
    store_chunk<T>(a.gradient, b, offset, length, split, values);
  });
}

static void scale(const ScaleArguments& a) {
  if (!a.scales.data && a.upstream.stride == 0 && number(a.upstream, 0, 0) == 1) return;
  if (a.gradient.dtype == DType::kFloat64) {
    scale_as<double>(a);
  } else {
    scale_as<float>(a);
  }
}
