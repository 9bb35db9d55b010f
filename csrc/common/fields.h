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

// (average, param, copy, elements, dtypes of the three)
inline EmaTensor ema_tensor(const pybind11::tuple& t) {
  return {pointer(t, 0),         pointer<const void>(t, 1), pointer(t, 2),        integer(t, 3),
          DType(integer(t, 4)), DType(integer(t, 5)),      DType(integer(t, 6))};
}

}  // namespace rcgm
