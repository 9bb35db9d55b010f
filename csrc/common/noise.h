// Noise that is drawn where it is used, for host and device: counters to random words to standard normal numbers.
//
// The including file defines RCGM_FN and RCGM_FMA(a, b, c), a*b + c in float, and includes common/bits.h before. With a fused
// RCGM_FMA the numbers are the same on every machine, bit for bit: there is no rounding left to a compiler's or a library's
// choice.

struct Four {
  uint32_t x, y, z, w;
};

template <uint32_t kRound>
RCGM_FN Four philox_round(Four c, uint32_t low, uint32_t high) {
  const uint64_t first = uint64_t(0xD2511F53u) * c.x, second = uint64_t(0xCD9E8D57u) * c.z;
  return {uint32_t(second >> 32) ^ c.y ^ (low + kRound * 0x9E3779B9u), uint32_t(second),
          uint32_t(first >> 32) ^ c.w ^ (high + kRound * 0xBB67AE85u), uint32_t(first)};
}

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"). A loop over the rounds would
// keep the compiler from running several blocks in the lanes of a vector.
RCGM_FN Four philox(Four c, uint64_t key) {
  const uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
  c = philox_round<0>(c, low, high);
  c = philox_round<1>(c, low, high);
  c = philox_round<2>(c, low, high);
  c = philox_round<3>(c, low, high);
  c = philox_round<4>(c, low, high);
  c = philox_round<5>(c, low, high);
  c = philox_round<6>(c, low, high);
  c = philox_round<7>(c, low, high);
  c = philox_round<8>(c, low, high);
  return philox_round<9>(c, low, high);
}

// log(u) for normal u > 0, to an ulp: u = 2^e m with m in [sqrt(1/2), sqrt(2)), a polynomial in m - 1 (Cephes, logf).
RCGM_FN float log_of(float u) {
  const uint32_t shifted = bits_of<uint32_t>(u) - 0x3f3504f3u;
  const float e = float(int32_t(shifted) >> 23), f = bits_of<float>((shifted & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  const float square = f * f;
  float p = 7.0376836292e-2f;
  p = RCGM_FMA(p, f, -1.1514610310e-1f);
  p = RCGM_FMA(p, f, 1.1676998740e-1f);
  p = RCGM_FMA(p, f, -1.2420140846e-1f);
  p = RCGM_FMA(p, f, 1.4249322787e-1f);
  p = RCGM_FMA(p, f, -1.6668057665e-1f);
  p = RCGM_FMA(p, f, 2.0000714765e-1f);
  p = RCGM_FMA(p, f, -2.4999993993e-1f);
  p = RCGM_FMA(p, f, 3.3333331174e-1f);
  p = RCGM_FMA(p * f, square, e * -2.12194440e-4f);  // log(2) in two parts, the larger exact
  p = RCGM_FMA(-0.5f, square, p) + f;
  return RCGM_FMA(e, 0.693359375f, p);
}

// Two standard normal numbers from two words: Box-Muller. The radius takes u = (radial + 1/2) / 2^32, in (0, 1]; the angle is
// `angular` / 2^32 of a turn, brought within an eighth of a turn of an axis by whole numbers, so exactly (Cephes, sinf, cosf).
RCGM_FN void normal_pair(uint32_t radial, uint32_t angular, float* first, float* second) {
  const float radius = sqrtf(-2.0f * log_of(RCGM_FMA(float(radial), 0x1p-32f, 0x1p-33f)));
  const uint32_t quarter = (angular + 0x20000000u) >> 30;
  const float angle = float(int32_t(angular - (quarter << 30))) * 1.4629180792671596e-9f;  // 2 pi / 2^32
  const float square = angle * angle;
  float s = RCGM_FMA(-1.9515295891e-4f, square, 8.3321608736e-3f), c = RCGM_FMA(2.443315711809948e-5f, square, -1.388731625493765e-3f);
  s = RCGM_FMA(s, square, -1.6666654611e-1f);
  s = RCGM_FMA(s * square, angle, angle);
  c = RCGM_FMA(c, square, 4.166664568298827e-2f);
  c = RCGM_FMA(c, square, -0.5f);
  c = RCGM_FMA(c, square, 1.0f);
  const bool swapped = quarter & 1u;
  const uint32_t cosine = bits_of<uint32_t>(swapped ? s : c) ^ (((quarter + 1u) & 2u) << 30);
  const uint32_t sine = bits_of<uint32_t>(swapped ? c : s) ^ ((quarter & 2u) << 30);
  *first = radius * bits_of<float>(cosine);
  *second = radius * bits_of<float>(sine);
}

struct FourNormals {
  float x, y, z, w;
};

// Elements 4 block to 4 block + 3 of a sample, of the sample that has this number in the whole batch of all processes.
RCGM_FN FourNormals normal_block(uint64_t seed, uint64_t sample, uint32_t stream, uint32_t block) {
  const Four words = philox({block, stream, uint32_t(sample), uint32_t(sample >> 32)}, seed);
  FourNormals drawn;
  normal_pair(words.x, words.y, &drawn.x, &drawn.y);
  normal_pair(words.z, words.w, &drawn.z, &drawn.w);
  return drawn;
}
