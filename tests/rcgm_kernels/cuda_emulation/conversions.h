// 16-bit floating point for the emulation: the conversions of the CPU backend.
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/arrays.h"

namespace rcgm {
namespace emulated {
#pragma push_macro("RCGM_FN")
#undef RCGM_FN
#define RCGM_FN static inline
#include "common/bits.h"
#include "cpu/elements.h"
#pragma pop_macro("RCGM_FN")
}  // namespace emulated
}  // namespace rcgm
