// ema_update_ on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

// Two forms of one formula. The first is exact for decay 1 (the average stays), the second for decay 0 (it becomes the parameter).
template <typename T>
RCGM_FN T moved(T average, T param, T keep, T take) {
  return take < T(0.5) ? average + take * (param - average) : param - keep * (param - average);
}

template <typename T, typename Param>
static void ema_chunk(const EmaTensor& e, double decay, int64_t offset, int64_t length, const Param* param) {
  T* average = static_cast<T*>(e.average) + offset;
  const T keep = T(decay), take = T(1 - decay);
  if (!e.copy) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) average[i] = moved(average[i], load<T>(param, i), keep, take);
    return;
  }
  with_type(e.copy_dtype, element(MutableArray{e.copy, 0, e.copy_dtype}, 0, offset), [&](auto* copy) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const T value = moved(average[i], load<T>(param, i), keep, take);
      average[i] = value;
      store<T>(copy, i, value);
    }
  });
}

static void ema(const EmaArguments& a) {
  int64_t total = 0;
  for (int64_t k = 0; k < a.count; ++k) total += a.tensors[k].size;
#pragma omp parallel num_threads(total > kFewElements ? a.threads : 1)
  for (int64_t k = 0; k < a.count; ++k) {
    const EmaTensor& e = a.tensors[k];
    const int64_t chunks = (e.size + kChunk - 1) / kChunk;
#pragma omp for schedule(static) nowait
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t offset = chunk * kChunk, length = e.size - offset < kChunk ? e.size - offset : kChunk;
      with_type(e.param_dtype, element(Array{e.param, 0, e.param_dtype}, 0, offset), [&](auto* param) {
        if (e.average_dtype == DType::kFloat64) {
          ema_chunk<double>(e, a.decay, offset, length, param);
        } else {
          ema_chunk<float>(e, a.decay, offset, length, param);
        }
      });
    }
  }
}
