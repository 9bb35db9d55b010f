// rcgm_kernels._cpu: the CPU kernels behind raw pointers. The Python side has checked every argument.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../common/fields.h"
#include "kernels.h"

namespace py = pybind11;
using namespace rcgm;

namespace {

// (instruction set or an empty string for the best one, threads)
struct Place {
  const Kernels& kernels;
  int threads;
};

Place place(const py::tuple& t) {
  const std::string isa = t[0].cast<std::string>();
  const Kernels* found = kernels_for(isa.empty() ? nullptr : isa.c_str());
  if (!found) throw std::invalid_argument("RCGM_CPU_ISA must be one of " + std::string(isa_names()) + ", got " + isa);
  return {*found, int(integer(t, 1))};
}

LossArguments loss_arguments(const py::tuple& t) {
  const py::tuple terms = terms_of_loss(t);
  if (terms.size() > size_t(kMaxTerms)) throw std::invalid_argument("more terms than kMaxTerms");
  LossArguments a = loss_without_terms<LossArguments>(t);
  a.float64 = a.pred.dtype == DType::kFloat64;
  for (size_t i = 0; i < terms.size(); ++i) {
    const Array term = array(fields_of(terms, i));
    a.float64 |= term.dtype == DType::kFloat64;
    a.terms[a.count++] = term;
  }
  return a;
}

// Returns the first sample whose knots are out of order, or -1.
int64_t residual_loss(const py::tuple& where, const py::tuple& loss) {
  const Place here = place(where);
  LossArguments a = loss_arguments(loss);
  a.threads = here.threads;
  const py::gil_scoped_release release;
  return here.kernels.residual_loss(a);
}

// batch, size, x, z, points, alpha, gamma, out
void interpolate(const py::tuple& where, const py::tuple& t) {
  const Place here = place(where);
  const InterpolateArguments a = {integer(t, 0),           integer(t, 1),           array(fields_of(t, 2)),
                                  array(fields_of(t, 3)),   int(integer(t, 4)),      scalars(fields_of(t, 5)),
                                  scalars(fields_of(t, 6)), mutable_array(fields_of(t, 7)), here.threads};
  const py::gil_scoped_release release;
  here.kernels.interpolate(a);
}

// batch, size, x, velocity, t, r, out
void advance(const py::tuple& where, const py::tuple& t) {
  const Place here = place(where);
  const AdvanceArguments a = {integer(t, 0),           integer(t, 1),           array(fields_of(t, 2)),
                              array(fields_of(t, 3)),   scalars(fields_of(t, 4)), scalars(fields_of(t, 5)),
                              mutable_array(fields_of(t, 6)), here.threads};
  const py::gil_scoped_release release;
  here.kernels.advance(a);
}

// batch, size, gradient, upstream, scales
void scale(const py::tuple& where, const py::tuple& t) {
  const Place here = place(where);
  const ScaleArguments a = {integer(t, 0),           integer(t, 1), mutable_array(fields_of(t, 2)), scalars(fields_of(t, 3)),
                            scalars(fields_of(t, 4)), here.threads};
  const py::gil_scoped_release release;
  here.kernels.scale(a);
}

void ema(const py::tuple& where, const py::list& entries, double decay) {
  const Place here = place(where);
  std::vector<EmaTensor> tensors;
  tensors.reserve(entries.size());
  for (const py::handle& entry : entries) tensors.push_back(ema_tensor(entry.cast<py::tuple>()));
  const EmaArguments a = {tensors.data(), int64_t(tensors.size()), decay, here.threads};
  const py::gil_scoped_release release;
  here.kernels.ema(a);
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
}
