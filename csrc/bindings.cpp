// rcgm_kernels._cpu: the CPU kernels behind raw pointers. The Python side has checked every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;
using namespace rcgm;

namespace {

// (address, distance between samples in elements, dtype); address 0 stands for no tensor.
using Tensor = std::tuple<uintptr_t, int64_t, int>;

Array array(const Tensor& t) {
  return {reinterpret_cast<const void*>(std::get<0>(t)), std::get<1>(t), DType(std::get<2>(t))};
}

MutableArray mutable_array(const Tensor& t) {
  return {reinterpret_cast<void*>(std::get<0>(t)), std::get<1>(t), DType(std::get<2>(t))};
}

const double* doubles(uintptr_t address) { return reinterpret_cast<const double*>(address); }

const Kernels& kernels(const std::string& isa) {
  const Kernels* found = kernels_for(isa.empty() ? nullptr : isa.c_str());
  if (!found) throw std::invalid_argument("RCGM_CPU_ISA must be one of " + std::string(isa_names()) + ", got " + isa);
  return *found;
}

// Per-sample scalars as doubles, whatever they are stored as: (address, whether float64); address 0 stands for none.
using Scalars = std::tuple<uintptr_t, bool>;

std::vector<double> read_scalars(const Scalars& scalars, int64_t count) {
  const auto [address, float64] = scalars;
  if (!address) return {};
  if (float64) return std::vector<double>(doubles(address), doubles(address) + count);
  const float* values = reinterpret_cast<const float*>(address);
  return std::vector<double>(values, values + count);
}

// The first sample that has a weight and whose knots are not finite and falling from t_0 to t_{N+1}, t_0 above t_1 unless all
// are equal; -1 if there is none.
int64_t first_unordered(const std::vector<double>& knots, int64_t batch, const std::vector<double>& weight) {
  const int64_t count = batch ? int64_t(knots.size()) / batch : 0;
  for (int64_t b = 0; b < batch; ++b) {
    if (!weight.empty() && weight[b] == 0) continue;
    bool falling = std::isfinite(knots[b]) && std::isfinite(knots[(count - 1) * batch + b]);
    for (int64_t i = 1; i < count; ++i) falling &= knots[(i - 1) * batch + b] >= knots[i * batch + b];
    if (!falling || !(knots[b] > knots[batch + b] || knots[batch + b] == knots[(count - 1) * batch + b])) return b;
  }
  return -1;
}

// Returns the first sample with unordered knots, before any work, or -1.
int64_t residual_loss(const std::string& isa, int64_t batch, int64_t size, const Tensor& pred, const std::vector<Tensor>& terms,
                      bool float64, int64_t scalar_rows, const Scalars& scalars, const Scalars& pred_coeff,
                      const Scalars& scale, const Scalars& weight, const Scalars& normalize_scale,
                      const std::vector<double>& options, uintptr_t loss, const Tensor& gradient, uintptr_t storage_scales,
                      int threads) {
  const LossOptions wanted = loss_options([&](int i) { return options.at(i); });
  if (terms.size() > size_t(kMaxTerms)) throw std::invalid_argument("more terms than kMaxTerms");
  const std::vector<double> read[] = {read_scalars(scalars, scalar_rows * batch), read_scalars(pred_coeff, batch),
                                      read_scalars(scale, batch), read_scalars(weight, batch),
                                      read_scalars(normalize_scale, batch)};
  const auto given = [&](int i, const Scalars& s) { return std::get<0>(s) ? read[i].data() : nullptr; };
  if (wanted.times) {
    const int64_t unordered = first_unordered(read[0], batch, read[3]);
    if (unordered >= 0) return unordered;
  }
  std::vector<double> losses(batch);
  LossArguments a = {};
  a.batch = batch;
  a.size = size;
  a.pred = array(pred);
  for (const Tensor& term : terms) a.terms[a.count++] = array(term);
  a.float64 = float64;
  a.scalars = read[0].data();
  a.pred_coeff = given(1, pred_coeff);
  a.scale = given(2, scale);
  a.weight = given(3, weight);
  a.normalize_scale = given(4, normalize_scale);
  a.options = wanted;
  a.losses = losses.data();
  a.gradient = mutable_array(gradient);
  a.storage_scales = reinterpret_cast<float*>(storage_scales);
  a.threads = threads;
  const Kernels& chosen = kernels(isa);
  {
    py::gil_scoped_release release;
    chosen.residual_loss(a);
  }
  if (wanted.reduction != Reduction::kNone) {
    double total = 0;
    for (const double value : losses) total += value;
    losses.assign(1, wanted.reduction == Reduction::kMean ? total / double(batch) : total);
  }
  if (float64) {
    std::copy(losses.begin(), losses.end(), reinterpret_cast<double*>(loss));
  } else {
    std::copy(losses.begin(), losses.end(), reinterpret_cast<float*>(loss));
  }
  return -1;
}

void interpolate(const std::string& isa, int64_t batch, int64_t size, const Tensor& x, const Tensor& z,
                 int points, bool float64, uintptr_t alpha, uintptr_t gamma, uintptr_t out, int out_dtype, int threads) {
  const InterpolateArguments a = {batch, size, array(x), array(z), points, float64, doubles(alpha), doubles(gamma),
                                  reinterpret_cast<void*>(out), DType(out_dtype), threads};
  const Kernels& chosen = kernels(isa);
  py::gil_scoped_release release;
  chosen.interpolate(a);
}

void advance(const std::string& isa, int64_t batch, int64_t size, const Tensor& x, const Tensor& velocity, bool float64,
             uintptr_t t, uintptr_t r, const Tensor& out, int threads) {
  const AdvanceArguments a = {batch, size, array(x), array(velocity), float64, doubles(t), doubles(r), mutable_array(out),
                              threads};
  const Kernels& chosen = kernels(isa);
  py::gil_scoped_release release;
  chosen.advance(a);
}

void scale(const std::string& isa, int64_t batch, int64_t size, const Tensor& gradient, uintptr_t upstream, bool per_sample,
           uintptr_t scales, int threads) {
  const ScaleArguments a = {batch, size, mutable_array(gradient), doubles(upstream), per_sample,
                            reinterpret_cast<const float*>(scales), threads};
  const Kernels& chosen = kernels(isa);
  py::gil_scoped_release release;
  chosen.scale(a);
}

// entries: (average, param, copy, elements, dtype of each)
using Entry = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t, int, int, int>;

void ema(const std::string& isa, const std::vector<Entry>& tensors, double decay, int threads) {
  std::vector<EmaEntry> entries;
  entries.reserve(tensors.size());
  for (const auto& [average, param, copy, size, average_dtype, param_dtype, copy_dtype] : tensors) {
    entries.push_back({reinterpret_cast<void*>(average), reinterpret_cast<const void*>(param), reinterpret_cast<void*>(copy),
                       size, DType(average_dtype), DType(param_dtype), DType(copy_dtype)});
  }
  const EmaArguments a = {entries.data(), int64_t(entries.size()), decay, threads};
  const Kernels& chosen = kernels(isa);
  py::gil_scoped_release release;
  chosen.ema(a);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "CPU kernels of rcgm_kernels";
  module.def("isa_names", &isa_names, "Instruction sets that run here, best first, separated by commas.");
  module.def("residual_loss", &residual_loss);
  module.def("interpolate", &interpolate);
  module.def("advance", &advance);
  module.def("scale", &scale);
  module.def("ema", &ema);
}
