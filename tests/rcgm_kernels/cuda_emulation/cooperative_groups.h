#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {
struct cluster_group {
  unsigned block_rank() const { return emulation::rank_in_cluster(); }
  void sync() const { emulation::wait_for_cluster(); }
  template <typename T>
  T* map_shared_rank(T* mine, unsigned rank) const {
    return static_cast<T*>(emulation::in_block(mine, rank));
  }
};
inline cluster_group this_cluster() { return {}; }
}  // namespace cooperative_groups
