// rcgm_kernels._cuda: the CUDA kernels behind raw pointers. The Python side has checked every argument.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../common/fields.h"
#include "kernels.h"

namespace py = pybind11;
using namespace rcgm;
using namespace rcgm::gpu;

namespace {

// (device, stream)
Place place(const py::tuple& t) { return {int(integer(t, 0)), pointer(t, 1)}; }

// As loss_without_terms, and then: workspace, counter
LossArguments loss_arguments(const py::tuple& t) {
  const py::tuple terms = terms_of_loss(t);
  LossArguments a = loss_without_terms<LossArguments>(t);
  const bool pred_first = a.options.pred_in_residual;
  if (terms.size() + pred_first > size_t(kMaxTerms)) throw std::invalid_argument("more terms than kMaxTerms");
  if (pred_first) a.tensors[a.count++] = a.pred;
  for (size_t i = 0; i < terms.size(); ++i) a.tensors[a.count++] = array(fields_of(terms, i));
  a.workspace = pointer<double>(t, 13);
  a.counter = pointer<unsigned>(t, 14);
  return a;
}

std::vector<EmaTensor> ema_tensors(const py::list& entries) {
  std::vector<EmaTensor> tensors;
  tensors.reserve(entries.size());
  for (const py::handle& entry : entries) tensors.push_back(ema_tensor(entry.cast<py::tuple>()));
  return tensors;
}

py::tuple loss_description(const py::tuple& where, const py::tuple& loss) {
  const LossDescription d = describe_loss(loss_arguments(loss), place(where).device);
  return py::make_tuple(d.path, d.lanes, d.cluster, d.blocks, d.shared_bytes);
}

void residual_loss_of(const py::tuple& where, const py::tuple& loss) { residual_loss(loss_arguments(loss), place(where)); }

// batch, size, x, z, points, alpha, gamma, out
void interpolate_of(const py::tuple& where, const py::tuple& t) {
  interpolate({integer(t, 0), integer(t, 1), array(fields_of(t, 2)), array(fields_of(t, 3)), int(integer(t, 4)),
               scalars(fields_of(t, 5)), scalars(fields_of(t, 6)), mutable_array(fields_of(t, 7))},
              place(where));
}

// batch, size, x, velocity, t, r, out
void advance_of(const py::tuple& where, const py::tuple& t) {
  advance({integer(t, 0), integer(t, 1), array(fields_of(t, 2)), array(fields_of(t, 3)), scalars(fields_of(t, 4)),
           scalars(fields_of(t, 5)), mutable_array(fields_of(t, 6))},
          place(where));
}

// batch, size, gradient, upstream, scales
void scale_of(const py::tuple& where, const py::tuple& t) {
  scale({integer(t, 0), integer(t, 1), mutable_array(fields_of(t, 2)), scalars(fields_of(t, 3)), scalars(fields_of(t, 4))},
        place(where));
}

void ema_of(const py::tuple& where, const py::list& entries, double decay) { ema(ema_tensors(entries), decay, place(where)); }

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels of rcgm_kernels";
  module.def("problem", &problem, "Why no kernel can run here; empty if one can.");
  module.def("runs_on", &runs_on, "Whether this build has code for the device.");
  module.def("loss_workspace", &loss_workspace, "Doubles of workspace that residual_loss needs: (device, batch, size, positions).");
  module.def("describe_loss", &loss_description,
             "How residual_loss splits the work: path, threads a sample, blocks a cluster, blocks, shared bytes a block.");
  module.def("residual_loss", &residual_loss_of);
  module.def("interpolate", &interpolate_of);
  module.def("advance", &advance_of);
  module.def("scale", &scale_of);
  module.def("ema", &ema_of);
}
