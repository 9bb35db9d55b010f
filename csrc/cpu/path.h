// interpolate, advance and scale on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

// Call body(sample, offset, length) for every chunk of a [batch, size] tensor, over the threads.
template <typename Body>
static void for_each_chunk(int64_t batch, int64_t size, int threads, const Body& body) {
  const int64_t per_sample = (size + kBlock - 1) / kBlock, tasks = batch * per_sample;
  const bool worthwhile = batch * size > kFewElements;
#pragma omp parallel for num_threads(worthwhile ? threads : 1) schedule(static)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t b = task / per_sample, start = task % per_sample * kBlock;
    const int64_t end = size < start + kBlock ? size : start + kBlock;
    for (int64_t offset = start; offset < end; offset += kChunk) {
      body(b, offset, end - offset < kChunk ? end - offset : kChunk);
    }
  }
}

template <typename T>
static void interpolate_as(const InterpolateArguments& a) {
  const bool bfloat16 = a.x.dtype == DType::kBFloat16 && a.z.dtype == a.x.dtype && a.out.dtype == a.x.dtype;
  for_each_chunk(a.batch, a.size, a.threads, [&](int64_t b, int64_t offset, int64_t length) {
    alignas(64) T x_values[kChunk], z_values[kChunk];
    const T *x = x_values, *z = z_values;
    const bool split = bfloat16 && length % 2 == 0;
    load_chunk(a.x, b, offset, length, split, x_values);
    load_chunk(a.z, b, offset, length, split, z_values);
    for (int point = 0; point < a.points; ++point) {
      const T alpha = T(number(a.alpha, point, b)), gamma = T(number(a.gamma, point, b));
      store_chunk<T>(a.out, point * a.batch + b, offset, length, split,
                     [=](int64_t i) { return alpha * z[i] + gamma * x[i]; });
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
  const bool bfloat16 = a.x.dtype == DType::kBFloat16 && a.velocity.dtype == a.x.dtype && a.out.dtype == a.x.dtype;
  for_each_chunk(a.batch, a.size, a.threads, [&](int64_t b, int64_t offset, int64_t length) {
    alignas(64) T x_values[kChunk], velocity_values[kChunk];
    const T *x = x_values, *velocity = velocity_values;
    const bool split = bfloat16 && length % 2 == 0;
    load_chunk(a.x, b, offset, length, split, x_values);
    load_chunk(a.velocity, b, offset, length, split, velocity_values);
    const T step = T(number(a.t, 0, b) - number(a.r, 0, b));
    store_chunk<T>(a.out, b, offset, length, split, [=](int64_t i) { return x[i] - step * velocity[i]; });
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
    alignas(64) T buffer[kChunk];
    const T* values = buffer;
    const bool split = a.gradient.dtype == DType::kBFloat16 && length % 2 == 0;
    load_chunk(gradient, b, offset, length, split, buffer);
    store_chunk<T>(a.gradient, b, offset, length, split, [=](int64_t i) { return values[i] * factor; });
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
