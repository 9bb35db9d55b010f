// ema_update_ on the CPU. Included by kernels.cpp inside the namespace of one instruction set.

template <typename T>
static void ema_chunk(const EmaEntry& e, double decay, int64_t offset, int64_t length) {
  alignas(64) T average[kChunk], param[kChunk];
  load_chunk(Array{e.average, 0, e.average_dtype}, 0, offset, length, average);
  load_chunk(Array{e.param, 0, e.param_dtype}, 0, offset, length, param);
  const T keep = T(decay), take = T(1 - decay);
  if (take < T(0.5)) {  // each form is exact at its own end: decay 1 keeps, decay 0 copies
    for (int64_t i = 0; i < length; ++i) average[i] += take * (param[i] - average[i]);
  } else {
    for (int64_t i = 0; i < length; ++i) average[i] = param[i] - keep * (param[i] - average[i]);
  }
  const auto write = [&](void* data, DType dtype) {
    with_type(dtype, element(MutableArray{data, 0, dtype}, 0, offset), [&](auto* out) {
      for (int64_t i = 0; i < length; ++i) store<T>(out, i, average[i]);
    });
  };
  write(e.average, e.average_dtype);
  if (e.copy) write(e.copy, e.copy_dtype);
}

static void ema(const EmaArguments& a) {
  int64_t total = 0;
  for (int64_t k = 0; k < a.count; ++k) total += a.entries[k].size;
#pragma omp parallel num_threads(total > 2 * kChunk ? a.threads : 1)
  for (int64_t k = 0; k < a.count; ++k) {
    const EmaEntry& e = a.entries[k];
    const int64_t chunks = (e.size + kChunk - 1) / kChunk;
#pragma omp for schedule(static) nowait
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t offset = chunk * kChunk, length = e.size - offset < kChunk ? e.size - offset : kChunk;
      if (e.average_dtype == DType::kFloat64) {
        ema_chunk<double>(e, a.decay, offset, length);
      } else {
        ema_chunk<float>(e, a.decay, offset, length);
      }
    }
  }
}
