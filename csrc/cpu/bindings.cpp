// rcgm_kernels._cpu: the CPU kernels behind raw pointers. The Python side has checked every argument.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/fields.h"
#include "kernels.h"
#include "known_calls.h"

namespace py = pybind11;
using namespace rcgm;

namespace {

// The kernels for the instruction set that RCGM_CPU_ISA names, or else for the best one.
const Kernels& kernels() {
  const char* isa = std::getenv("RCGM_CPU_ISA");
  const Kernels* found = kernels_for(isa && *isa ? isa : nullptr);
  if (!found) throw std::invalid_argument("RCGM_CPU_ISA must be one of " + std::string(isa_names()) + ", got " + isa);
  return *found;
}

// Returns the first sample whose knots are out of order, or -1.
int64_t residual_loss(const py::tuple& inputs, const py::tuple& numbers, const py::tuple& results, int threads) {
  const Kernels& here = kernels();
  LossArguments a = loss_without_terms<LossArguments>(inputs, numbers, results);
  const py::list terms = terms_of_loss(inputs);
  if (terms.size() > size_t(kMaxTerms)) throw std::invalid_argument("more terms than kMaxTerms");
  a.float64 = a.pred.dtype == DType::kFloat64;
  for (const py::handle& term : terms) {
    const Array read = array(term);
    a.float64 |= read.dtype == DType::kFloat64;
    a.terms[a.count++] = read;
  }
  a.threads = threads;
  const py::gil_scoped_release release;
  return here.residual_loss(a);
}

void interpolate(py::handle x, py::handle z, py::handle alpha, py::handle gamma, py::handle out, int threads) {
  const Kernels& here = kernels();
  const Extent extent = extent_of(x);
  const int points = int(extent_of(out).batch);
  const InterpolateArguments a = {extent.batch,   extent.size,    array(x),              array(z), points,
                                  scalars(alpha), scalars(gamma), mutable_array(out, 1), threads};
  const py::gil_scoped_release release;
  here.interpolate(a);
}

void advance(py::handle x, py::handle velocity, py::handle t, py::handle r, py::handle out, int threads) {
  const Kernels& here = kernels();
  const Extent extent = extent_of(x);
  const AdvanceArguments a = {extent.batch, extent.size, array(x),           array(velocity),
                              scalars(t),   scalars(r),  mutable_array(out), threads};
  const py::gil_scoped_release release;
  here.advance(a);
}

void scale(py::handle gradient, py::handle upstream, py::handle scales, int threads) {
  const Kernels& here = kernels();
  const Extent extent = extent_of(gradient);
  const ScaleArguments a = {extent.batch, extent.size, mutable_array(gradient), scalars(upstream), scalars(scales), threads};
  const py::gil_scoped_release release;
  here.scale(a);
}

void ema(const py::list& averages, const py::list& params, const py::list& copies, double decay, int threads) {
  const Kernels& here = kernels();
  const std::vector<EmaTensor> tensors = ema_tensors(averages, params, copies);
  const EmaArguments a = {tensors.data(), int64_t(tensors.size()), decay, threads};
  const py::gil_scoped_release release;
  here.ema(a);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "CPU kernels of rcgm_kernels";
  module.def("isa_names", &isa_names, "Instruction sets that run here, best first, separated by commas.");
  module.def("residual_loss", &residual_loss, "Returns the first sample whose knots are out of order, or -1.");
  module.def("interpolate", &interpolate);
  module.def("advance", &advance);
  module.def("scale", &scale);
  module.def("ema", &ema);
  py::class_<KnownCalls>(module, "KnownCalls", "See rcgm_kernels/known.py.")
      .def(py::init<std::string, py::tuple>())
      .def("find", &KnownCalls::find)
      .def("remember", &KnownCalls::remember);
}
