// Calls that passed their checks: rcgm_kernels/known.py says what they are for.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../common/tensors.h"

namespace rcgm {

class KnownCalls {
 public:
  // Calls depend on `variable` of the environment, too, and none is known while one of `observers` returns something true.
  KnownCalls(std::string variable, const pybind11::tuple& observers) : variable_(std::move(variable)), observers_(observers) {}

  // What was remembered of a call that is equal in all that checks depend on, or None.
  pybind11::object find(const pybind11::tuple& tensors, const pybind11::tuple& options) const {
    std::string kind;
    if (is_observed() || !describe_call(tensors, &kind)) return pybind11::none();
    const auto found = calls_.find(kind);
    if (found == calls_.end()) return pybind11::none();
    for (const Call& call : found->second) {
      if (are_same(call.options, options)) return call.known;
    }
    const std::vector<Call> calls = found->second;  // a copy: comparing may run Python code, which may change the map
    for (const Call& call : calls) {
      if (are_equal(call.options, options)) return call.known;
    }
    return pybind11::none();
  }

  void remember(const pybind11::tuple& tensors, const pybind11::tuple& options, const pybind11::object& known) {
    constexpr size_t kMost = 1024;  // a training loop makes a few kinds of calls
    std::string kind;
    if (!describe_call(tensors, &kind)) return;
    if (count_ >= kMost) calls_.clear(), count_ = 0;
    calls_[kind].push_back({options, known});
    ++count_;
  }

 private:
  struct Call {
    pybind11::tuple options;
    pybind11::object known;
  };

  template <typename T>
  static void append(const T& value, std::string* kind) {
    kind->append(reinterpret_cast<const char*>(&value), sizeof(T));
  }

  // Names that are looked up often.
  struct Names {
    pybind11::object is_grad_enabled = pybind11::module_::import("torch").attr("is_grad_enabled");
    pybind11::object requires_grad = pybind11::str("requires_grad"), is_neg = pybind11::str("is_neg");

    static const Names& get() {
      static const Names* names = nullptr;
      if (!names) names = new Names();
      return *names;
    }
  };

  static bool is_true(PyObject* flag) {
    if (!flag) throw pybind11::error_already_set();
    Py_DECREF(flag);
    return flag == Py_True;
  }

  bool is_observed() const {
    for (size_t i = 0; i < observers_.size(); ++i) {
      PyObject* const state = PyObject_CallNoArgs(PyTuple_GET_ITEM(observers_.ptr(), i));
      const int observed = state ? PyObject_IsTrue(state) : -1;
      Py_XDECREF(state);
      if (observed < 0) throw pybind11::error_already_set();
      if (observed) return true;
    }
    return false;
  }

  bool describe_call(const pybind11::tuple& tensors, std::string* kind) const {
    kind->reserve(512);
    const char* setting = std::getenv(variable_.c_str());
    if (setting) kind->append(setting);
    kind->push_back('\0');
    kind->push_back(is_true(PyObject_CallNoArgs(Names::get().is_grad_enabled.ptr())));
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!describe(PyTuple_GET_ITEM(tensors.ptr(), i), kind)) return false;
    }
    return true;
  }

  // Adds what checks depend on of a tensor, None, or a list of these. False for anything else: for tensors of other classes,
  // and for those that have no memory or stand for other numbers than their memory holds.
  static bool describe(pybind11::handle value, std::string* kind) {
    const Torch& torch = Torch::get();
    PyObject* const object = value.ptr();
    if (value.is_none()) return kind->push_back('0'), true;
    if (PyList_CheckExact(object) || PyTuple_CheckExact(object)) {
      const Py_ssize_t count = PySequence_Fast_GET_SIZE(object);
      kind->push_back('[');
      append(count, kind);
      for (Py_ssize_t i = 0; i < count; ++i) {
        if (!describe(PySequence_Fast_GET_ITEM(object, i), kind)) return false;
      }
      return true;
    }
    const pybind11::handle type(reinterpret_cast<PyObject*>(Py_TYPE(object)));
    if (!type.is(torch.tensor) && !type.is(torch.parameter)) return false;
    TensorView view;
    if (torch.describe(object, &view) != 0) return PyErr_Clear(), false;
    if (!view.data && elements_of(view)) return false;
    if (is_true(PyObject_CallMethodNoArgs(object, Names::get().is_neg.ptr()))) return false;
    kind->push_back(type.is(torch.tensor) ? 't' : 'p');
    kind->push_back(is_true(PyObject_GetAttr(object, Names::get().requires_grad.ptr())));
    append(view.dtype, kind);
    append(view.device, kind);
    append(view.ndim, kind);
    kind->append(reinterpret_cast<const char*>(view.shape), size_t(view.ndim) * sizeof(int64_t));
    kind->append(reinterpret_cast<const char*>(view.strides), size_t(view.ndim) * sizeof(int64_t));
    return true;
  }

  static bool are_same(const pybind11::tuple& known, const pybind11::tuple& given) {
    bool same = known.size() == given.size();
    for (size_t i = 0; same && i < known.size(); ++i) {
      same = PyTuple_GET_ITEM(known.ptr(), i) == PyTuple_GET_ITEM(given.ptr(), i);
    }
    return same;
  }

  // True is equal to 1, but no number: the types have to be equal too.
  static bool are_equal(const pybind11::tuple& known, const pybind11::tuple& given) {
    if (known.size() != given.size()) return false;
    for (size_t i = 0; i < known.size(); ++i) {
      PyObject *const a = PyTuple_GET_ITEM(known.ptr(), i), *const b = PyTuple_GET_ITEM(given.ptr(), i);
      if (a == b) continue;
      if (Py_TYPE(a) != Py_TYPE(b)) return false;
      const int equal = PyObject_RichCompareBool(a, b, Py_EQ);
      if (equal < 0) throw pybind11::error_already_set();
      if (!equal) return false;
    }
    return true;
  }

  std::string variable_;
  pybind11::tuple observers_;
  std::unordered_map<std::string, std::vector<Call>> calls_;
  size_t count_ = 0;
};

}  // namespace rcgm
