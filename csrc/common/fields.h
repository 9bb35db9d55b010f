// How the bindings of both extensions read the arguments of a loss and of an average.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "arrays.h"
#include "tensors.h"

namespace rcgm {

// The numbers of LossPlan.numbers.
inline LossOptions loss_options(const pybind11::tuple& numbers) {
  return loss_options([&](int i) { return pybind11::object(numbers[size_t(i)]).cast<double>(); });
}

// What the LossArguments of both extensions share; the terms are read by each. `inputs` are the fields of LossInputs with
// dense samples, `numbers` those of LossPlan, `results` the loss, its gradient and the scales, or None for what is not wanted.
template <typename LossArguments>
LossArguments loss_without_terms(const pybind11::tuple& inputs, const pybind11::tuple& numbers,
                                 const pybind11::tuple& results) {
  const Extent extent = extent_of(inputs[0]);
  LossArguments a = {};
  a.batch = extent.batch;
  a.size = extent.size;
  a.pred = array(inputs[0]);
  a.scalars = scalars(inputs[2]);
  a.pred_coeff = scalars(inputs[3]);
  a.scale = scalars(inputs[4]);
  a.weight = scalars(inputs[5]);
  a.normalize_scale = scalars(inputs[6]);
  a.options = loss_options(numbers);
  a.loss = address(results[0]);
  a.gradient = mutable_array(results[1]);
  a.storage_scales = address<float>(results[2]);
  return a;
}

inline pybind11::list terms_of_loss(const pybind11::tuple& inputs) { return pybind11::list(pybind11::object(inputs[1])); }

// The tensors of a model, the averages first; `copies` may be empty.
inline std::vector<EmaTensor> ema_tensors(const pybind11::list& averages, const pybind11::list& params,
                                          const pybind11::list& copies) {
  std::vector<EmaTensor> tensors;
  tensors.reserve(averages.size());
  for (size_t i = 0; i < averages.size(); ++i) {
    const TensorView average = view_of(averages[i]), param = view_of(params[i]);
    EmaTensor e = {average.data,      param.data,      nullptr,          elements_of(average),
                   dtype_of(average), dtype_of(param), DType::kFloat32};
    if (copies.size()) {
      const TensorView copy = view_of(copies[i]);
      e.copy = copy.data, e.copy_dtype = dtype_of(copy);
    }
    tensors.push_back(e);
  }
  return tensors;
}

}  // namespace rcgm
