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
Place place(const py::tuple& t) { return {t[0].cast<int>(), reinterpret_cast<void*>(t[1].cast<uintptr_t>())}; }

LossArguments loss_arguments(const py::tuple& inputs, const py::tuple& numbers, const py::tuple& results,
                             py::handle workspace) {
  LossArguments a = loss_without_terms<LossArguments>(inputs, numbers, results);
  const py::list terms = terms_of_loss(inputs);
  const bool pred_first = a.options.pred_in_residual;
  if (terms.size() + pred_first > size_t(kMaxTerms)) throw std::invalid_argument("more terms than kMaxTerms");
  if (pred_first) a.tensors[a.count++] = a.pred;
  for (const py::handle& term : terms) a.tensors[a.count++] = array(term);
  a.workspace = address<double>(workspace);
  return a;
}

py::tuple loss_description(const py::tuple& where, const py::tuple& inputs, const py::tuple& numbers, const py::tuple& results,
                           py::handle workspace) {
  const LossDescription d = describe_loss(loss_arguments(inputs, numbers, results, workspace), place(where).device);
  return py::make_tuple(d.path, d.lanes, d.cluster, d.blocks, d.shared_bytes);
}

void residual_loss_of(const py::tuple& where, const py::tuple& inputs, const py::tuple& numbers, const py::tuple& results,
                      py::handle workspace) {
  residual_loss(loss_arguments(inputs, numbers, results, workspace), place(where));
}

void interpolate_of(const py::tuple& where, py::handle x, py::handle z, py::handle alpha, py::handle gamma, py::handle out) {
  const Extent extent = extent_of(x);
  const int points = int(extent_of(out).batch);
  interpolate({extent.batch, extent.size, array(x), array(z), points, scalars(alpha), scalars(gamma), mutable_array(out, 1)},
              place(where));
}

void advance_of(const py::tuple& where, py::handle x, py::handle velocity, py::handle t, py::handle r, py::handle out) {
  const Extent extent = extent_of(x);
  advance({extent.batch, extent.size, array(x), array(velocity), scalars(t), scalars(r), mutable_array(out)}, place(where));
}

void scale_of(const py::tuple& where, py::handle gradient, py::handle upstream, py::handle scales) {
  const Extent extent = extent_of(gradient);
  scale({extent.batch, extent.size, mutable_array(gradient), scalars(upstream), scalars(scales)}, place(where));
}

void ema_of(const py::tuple& where, const py::list& averages, const py::list& params, const py::list& copies, double decay) {
  ema(ema_tensors(averages, params, copies), decay, place(where));
}

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
