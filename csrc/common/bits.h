// Reinterpretation, for host and device. Included like formulas.h.

template <typename To, typename From>
RCGM_FN To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}
