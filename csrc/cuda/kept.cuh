// Vectors that threads keep in shared memory.
#pragma once

#include "elements.cuh"

namespace rcgm {
namespace gpu {

// `vectors` vectors in shared memory, in 16-byte pieces: a piece of a thread lies beside those of the other threads, so that
// no two of them meet in a bank.
template <typename T, int V>
struct Kept {
  static constexpr int kPiece = V * int(sizeof(T)) < 16 ? V : 16 / int(sizeof(T));
  using Piece = Bits<kPiece * int(sizeof(T))>;

  T* data;
  int64_t vectors;

  __device__ __forceinline__ void put(int64_t vector, const T (&value)[V]) const {
#pragma unroll
    for (int j = 0; j < V / kPiece; ++j) {
      T part[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) part[i] = value[j * kPiece + i];
      Piece bits;
      Codec<T>::put(part, bits.word);
      write_bits<kPiece * int(sizeof(T))>(data + (j * vectors + vector) * kPiece, bits.word);
    }
  }
  __device__ __forceinline__ void get(int64_t vector, T (&value)[V]) const {
#pragma unroll
    for (int j = 0; j < V / kPiece; ++j) {
      Piece bits;
      read_bits<kPiece * int(sizeof(T)), false>(data + (j * vectors + vector) * kPiece, bits.word);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) value[j * kPiece + i] = Codec<T>::template get<T>(bits.word, i);
    }
  }
};

}  // namespace gpu
}  // namespace rcgm
