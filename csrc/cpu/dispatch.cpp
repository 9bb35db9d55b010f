// The choice of instruction set at run time.
#include <cstring>

#include "kernels.h"

namespace rcgm {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

bool runs_here(const Kernels& kernels) {
#if defined(__x86_64__)
  if (&kernels == &kernels_avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
  if (&kernels == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &kernels == &kernels_baseline;
}

const Kernels* const kBestFirst[] = {
#if defined(__x86_64__)
    &kernels_avx512, &kernels_avx2,
#endif
    &kernels_baseline,
};

}  // namespace

const Kernels* kernels_for(const char* name) {
  for (const Kernels* kernels : kBestFirst) {
    if (runs_here(*kernels) && (!name || !std::strcmp(kernels->isa, name))) return kernels;
  }
  return nullptr;
}

const char* isa_names() {
#if defined(__x86_64__)
  if (runs_here(kernels_avx512)) return "avx512,avx2,baseline";
  if (runs_here(kernels_avx2)) return "avx2,baseline";
#endif
  return "baseline";
}

}  // namespace rcgm
