// How the bindings of both extensions read the tuples that rcgm_kernels/backends/native.py makes.
#pragma once

#include <pybind11/pybind11.h>

#include "arrays.h"

namespace rcgm {

// Structs arrive as tuples of their fields.
inline int64_t integer(const pybind11::tuple& fields, size_t i) { return fields[i].cast<int64_t>(); }
inline double number(const pybind11::tuple& fields, size_t i) { return fields[i].cast<double>(); }
inline pybind11::tuple fields_of(const pybind11::tuple& fields, size_t i) { return fields[i].cast<pybind11::tuple>(); }

template <typename T = void>
T* pointer(const pybind11::tuple& fields, size_t i) {
  return reinterpret_cast<T*>(fields[i].cast<uintptr_t>());
}

// (address, distance between samples in elements, dtype); address 0 stands for no tensor.
inline Array array(const pybind11::tuple& t) { return {pointer<const void>(t, 0), integer(t, 1), DType(integer(t, 2))}; }
inline MutableArray mutable_array(const pybind11::tuple& t) { return {pointer(t, 0), integer(t, 1), DType(integer(t, 2))}; }

// (address, strides of rows and samples in elements, whether float64); address 0 stands for ones.
inline Scalars scalars(const pybind11::tuple& t) {
  return {pointer<const void>(t, 0), integer(t, 1), integer(t, 2), integer(t, 3) != 0};
}

inline LossOptions loss_options(const pybind11::tuple& fields) {
  return loss_options([&](int i) { return number(fields, size_t(i)); });
}

// What the LossArguments of both extensions share, of (batch, size, pred, terms, scalars, pred_coeff, scale, weight,
// normalize_scale, options, loss, gradient, storage_scales, ...); terms, and what comes after these, are read by each.
template <typename LossArguments>
LossArguments loss_without_terms(const pybind11::tuple& t) {
  LossArguments a = {};
  a.batch = integer(t, 0);
  a.size = integer(t, 1);
  a.pred = array(fields_of(t, 2));
  a.scalars = scalars(fields_of(t, 4));
  a.pred_coeff = scalars(fields_of(t, 5));
  a.scale = scalars(fields_of(t, 6));
  a.weight = scalars(fields_of(t, 7));
  a.normalize_scale = scalars(fields_of(t, 8));
  a.options = loss_options(fields_of(t, 9));
  a.loss = pointer(t, 10);
  a.gradient = mutable_array(fields_of(t, 11));
  a.storage_scales = pointer<float>(t, 12);
  return a;
}

inline pybind11::tuple terms_of_loss(const pybind11::tuple& t) { return fields_of(t, 3); }

// (average, param, copy, elements, dtypes of the three)
inline EmaTensor ema_tensor(const pybind11::tuple& t) {
  return {pointer(t, 0),         pointer<const void>(t, 1), pointer(t, 2),        integer(t, 3),
          DType(integer(t, 4)), DType(integer(t, 5)),      DType(integer(t, 6))};
}

}  // namespace rcgm
