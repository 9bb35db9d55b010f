// Pieces of samples that the CPU kernels work through. Included by kernels.cpp inside the namespace of one instruction set.

// A chunk of all tensors stays in the first-level cache. A float32 lane adds up at most 64 squares of a chunk: were they all
// equal, and rounded the same way each time, 128 would be the limit for a relative error of 1e-5.
#if defined(__AVX512F__)
constexpr int64_t kChunk = 64 * 16;
#elif defined(__AVX2__)
constexpr int64_t kChunk = 64 * 8;
#else
constexpr int64_t kChunk = 64 * 4;
#endif
// Threads share large samples by blocks.
constexpr int64_t kBlock = 16384;
// Less than this is not worth a second thread.
constexpr int64_t kFewElements = 1024;

template <typename T>
static void load_chunk(const Array& array, int64_t b, int64_t offset, int64_t length, bool split, T* values) {
  with_type(array.dtype, element(array, b, offset), [&](auto* data) { load_values(data, length, split, values); });
}

template <typename T>
static void store_chunk(const MutableArray& array, int64_t b, int64_t offset, int64_t length, bool split, const T* values) {
  with_type(array.dtype, element(array, b, offset), [&](auto* data) { store_values(data, length, split, values); });
}
