// The CPU kernels for one instruction set. The build compiles this file once for each, with RCGM_ISA set to its name.
//
// No template of the standard library may be instantiated here: the linker would keep one copy for all instruction sets,
// perhaps one that this machine cannot run.
#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RCGM_FN static inline
#define RCGM_NAME_OF(isa) #isa
#define RCGM_STRING(isa) RCGM_NAME_OF(isa)
#define RCGM_JOIN_(a, b) a##b
#define RCGM_JOIN(a, b) RCGM_JOIN_(a, b)

namespace rcgm {
namespace RCGM_ISA {

#include "../common/formulas.h"
#include "../common/bits.h"
#include "scalars.h"
#include "elements.h"
#include "chunks.h"
#include "samples.h"
#include "combination.h"
#include "fused.h"
#include "channels.h"
#include "packs.h"
#include "loss.h"
#include "path.h"
#include "ema.h"

}  // namespace RCGM_ISA

extern const Kernels RCGM_JOIN(kernels_, RCGM_ISA);
const Kernels RCGM_JOIN(kernels_, RCGM_ISA) = {
    RCGM_STRING(RCGM_ISA), RCGM_ISA::residual_loss, RCGM_ISA::interpolate, RCGM_ISA::advance, RCGM_ISA::scale, RCGM_ISA::ema,
};

}  // namespace rcgm
