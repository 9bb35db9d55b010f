#pragma once

#include "conversions.h"

struct __half {
  unsigned short bits;
};
struct __half2 {
  __half x, y;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return rcgm::emulated::widen(rcgm::emulated::Half(value.bits)); }
inline __half __float2half_rn(float value) { return {rcgm::emulated::narrow_half(value)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
