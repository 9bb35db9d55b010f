// How the bindings of both extensions read tensors, without torch's headers. Every class of tensors carries a table of C
// functions (`__dlpack_c_exchange_api__`, of DLPack 1), one of which describes a tensor.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "arrays.h"

namespace rcgm {

// DLPack's description of a tensor. The tensor owns what the pointers point to.
struct TensorView {
  void* data;
  struct {
    int32_t type, index;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  const int64_t *shape, *strides;  // `ndim` of each, in elements
  uint64_t byte_offset;
};

// DLPack's table, of which one function is used.
struct ExchangeTable {
  uint32_t major, minor;
  const ExchangeTable* older;
  void (*unused[3])();
  int (*describe)(void* tensor, TensorView* view);  // returns 0, or sets a Python error
};

// torch's classes, and what describes their tensors. Made at the first call, and kept for as long as the process lives.
struct Torch {
  pybind11::object tensor, parameter;
  int (*describe)(void*, TensorView*);

  static const Torch& get() {
    static const Torch* torch = nullptr;  // Python's lock guards it. C++'s own guard could deadlock: an import releases that lock
    if (!torch) torch = new Torch();
    return *torch;
  }

  bool has(pybind11::handle object) const {
    return PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(tensor.ptr()));
  }

 private:
  Torch() : describe(nullptr) {
    const pybind11::object module = pybind11::module_::import("torch");
    tensor = module.attr("Tensor");
    parameter = module.attr("nn").attr("Parameter");
    const pybind11::capsule capsule = tensor.attr("__dlpack_c_exchange_api__");
    const ExchangeTable* table = capsule.get_pointer<const ExchangeTable>();
    while (table && table->major != 1) table = table->older;
    if (!table || !table->describe) throw std::runtime_error("this torch has no DLPack 1 table: use torch 2.11 or later");
    describe = table->describe;
  }
};

inline TensorView view_of(pybind11::handle tensor) {
  const Torch& torch = Torch::get();
  if (!torch.has(tensor)) throw pybind11::type_error("a tensor is needed, got " + std::string(Py_TYPE(tensor.ptr())->tp_name));
  TensorView view;
  if (torch.describe(tensor.ptr(), &view) != 0) throw pybind11::error_already_set();
  view.data = static_cast<char*>(view.data) + view.byte_offset;
  return view;
}

inline DType dtype_of(const TensorView& view) {
  constexpr int kFloat = 2, kBFloat = 4;  // DLPack's numbers
  if (view.dtype.code == kBFloat && view.dtype.bits == 16) return DType::kBFloat16;
  if (view.dtype.code == kFloat && view.dtype.bits == 64) return DType::kFloat64;
  if (view.dtype.code == kFloat && view.dtype.bits == 32) return DType::kFloat32;
  if (view.dtype.code == kFloat && view.dtype.bits == 16) return DType::kFloat16;
  throw pybind11::type_error("a tensor of float64, float32, float16 or bfloat16 is needed");
}

// From dimension `first` on.
inline int64_t elements_of(const TensorView& view, int32_t first = 0) {
  int64_t count = 1;
  for (int32_t i = first; i < view.ndim; ++i) count *= view.shape[i];
  return count;
}

// Samples, and elements of a sample, of a tensor [batch, ...].
struct Extent {
  int64_t batch, size;
};
inline Extent extent_of(pybind11::handle tensor) {
  const TensorView view = view_of(tensor);
  if (view.ndim < 1) throw pybind11::value_error("a tensor with a batch dimension is needed");
  return {view.shape[0], elements_of(view, 1)};
}

// A tensor [batch, ...] with dense samples; with `dimension` 1, [rows, batch, ...].
inline MutableArray mutable_array(pybind11::handle tensor, int32_t dimension = 0) {
  if (tensor.is_none()) return {nullptr, 0, DType::kFloat32};
  const TensorView view = view_of(tensor);
  if (view.ndim <= dimension) throw pybind11::value_error("a tensor with a batch dimension is needed");
  return {view.data, view.strides[dimension], dtype_of(view)};
}
inline Array array(pybind11::handle tensor) {
  const MutableArray a = mutable_array(tensor);
  return {a.data, a.stride, a.dtype};
}

// Numbers per sample, [rows, batch] or [batch], or [] for all; None for ones.
inline Scalars scalars(pybind11::handle tensor) {
  if (tensor.is_none()) return {nullptr, 0, 0, false};
  const TensorView view = view_of(tensor);
  const DType dtype = dtype_of(view);
  if (dtype != DType::kFloat32 && dtype != DType::kFloat64) {
    throw pybind11::type_error("numbers in float32 or float64 are needed");
  }
  const int n = view.ndim;
  return {view.data, n > 1 ? view.strides[n - 2] : 0, n > 0 ? view.strides[n - 1] : 0, dtype == DType::kFloat64};
}

template <typename T = void>
T* address(pybind11::handle tensor) {
  return tensor.is_none() ? nullptr : static_cast<T*>(view_of(tensor).data);
}

}  // namespace rcgm
