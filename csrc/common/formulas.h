// The mathematics of the fused loss that host and device share; every formula stands here once.
//
// The including file defines RCGM_FN ("static inline", "__host__ __device__ __forceinline__", ...) and may wrap the
// include in a namespace of its own, inside `rcgm`, so that copies compiled for different instruction sets never merge at
// link time. It has included <math.h> and common/arrays.h.

// Sums over one sample. `rr`, `pp`, `pr`, `yy` are the squares and products of the residual R, the prediction p and the
// target y = p - R. Only `rr` is needed without the cosine term. With a cosine over the channels these products are of each
// position, and of the sample `pp` and `pr` are the sums over positions of Cosine::value and Cosine::steep.
struct Sums {
  double rr, pp, pr, yy;
};

// What is known of a sample before its sums.
struct Sample {
  double weight;           // 0 leaves it out, whatever it holds
  double normalize_scale;  // what a normalised residual is multiplied by
  double largest;          // bound of |R| by clamp and scale; infinite without a clamp
};

// loss of the sample; its gradient is residual_factor * R + pred_factor * p, element by element, which includes
// storage_scale: a power of two, 1 unless the gradient is stored in float16. With a cosine over the channels pred_factor
// multiplies the factors of each position (Cosine), and these are added to residual_factor.
struct Outcome {
  double loss, residual_factor, pred_factor, storage_scale;
};

// A clamp that is wider tells too little of the size of the residual to choose the scale of a float16 gradient by.
constexpr double kTightClip = 1024;

// The loss of a sample is known only after its sums are. With plain L2 the factor of the gradient does not depend on
// them, so the gradient can be written while the residual is still in a register.
RCGM_FN bool gradient_needs_sums(const LossOptions& o) {
  const bool bounded = o.clip <= kTightClip && o.cosine == 0;
  return o.metric != Metric::kL2 || (o.cosine != 0 && o.positions == 0) || o.normalize >= 0 || o.power != 0 ||
         (o.scaled && !bounded);
}

// The power of two that brings numbers up to `bound` below 2^15, so that float16 holds them and what is much smaller. It
// stays within the range of float32, in which it is kept, and so does its inverse.
RCGM_FN double storage_scale_of(double bound) {
  if (!(bound < INFINITY)) return 1;
  int exponent;
  frexp(bound, &exponent);
  exponent = 15 - exponent;
  return ldexp(1.0, exponent < -100 ? -100 : exponent > 100 ? 100 : exponent);
}

RCGM_FN double power_of(double base, double exponent) { return exponent == -1 ? 1 / base : pow(base, exponent); }

// rho(m) and its derivative, m = mean or sum of R^2. Barron 2019, "A general and adaptive robust loss function", eq. 1.
RCGM_FN void metric_value(const LossOptions& o, double m, double* value, double* slope) {
  const double c = o.metric_c;
  if (o.metric == Metric::kL2) {
    *value = m;
    *slope = 1;
  } else if (o.metric == Metric::kPseudoHuber) {
    const double root = sqrt(m + c * c);
    *value = root > 0 || root != root ? m / (root + c) : 0;  // sqrt(m + c^2) - c without its cancellation
    *slope = root > 0 || root != root ? 0.5 / root : 0;
  } else if (o.metric == Metric::kBarronReweighting) {  // a weight without gradient
    const double alpha = o.metric_alpha, x = m / (c * c + 1e-8);
    const double weight = alpha == 2 ? 1 : alpha < -1e30 ? exp(-0.5 * x) : exp((0.5 * alpha - 1) * log1p(x / fabs(alpha - 2)));
    *value = weight * m / c;
    *slope = weight / c;
  } else {
    const double alpha = o.metric_alpha, x = m / (c * c), half = 0.5 / (c * c);
    if (alpha == 2) {
      *value = 0.5 * x;
      *slope = half;
    } else if (alpha == 0) {
      *value = log1p(0.5 * x);
      *slope = half / (1 + 0.5 * x);
    } else if (alpha < -1e30) {  // minus infinity: Welsch
      *value = -expm1(-0.5 * x);
      *slope = half * exp(-0.5 * x);
    } else {
      const double beta = fabs(alpha - 2), log_base = log1p(x / beta);
      *value = beta / alpha * expm1(0.5 * alpha * log_base);
      *slope = half * exp((0.5 * alpha - 1) * log_base);
    }
  }
}

RCGM_FN float square_root(float value) { return sqrtf(value); }
RCGM_FN double square_root(double value) { return sqrt(value); }

// 1 - cos(p, y), and the factors of R and p in its gradient, whose square is at most `steep`.
template <typename T>
struct Cosine {
  T value, residual_factor, pred_factor, steep;
};

template <typename T>
RCGM_FN Cosine<T> cosine_of(T rr, T pp, T pr, T yy) {
  const T p = square_root(pp), y = square_root(yy), smallest = T(1e-8);
  const bool undirected = p < smallest || y < smallest;  // a zero vector has no direction: the worst value, no gradient
  const T one = 1, inverse = one / (undirected ? one : p * y);
  // 1 - cos(p, y) = (|p - y|^2 - (|p| - |y|)^2) / (2 |p| |y|), which does not cancel when p and y agree.
  const T apart = (2 * pr - rr) / (undirected ? one : p + y), across = rr - apart * apart;
  const T inverse_p = y * inverse;
  Cosine<T> c;
  c.value = undirected ? one : (across < 0 ? 0 : across) * (T(0.5) * inverse);
  c.residual_factor = undirected ? 0 : inverse;
  c.pred_factor = undirected ? 0 : -(pr * inverse_p * inverse_p) * inverse;
  c.steep = undirected ? 0 : rr < yy ? rr * inverse * inverse : inverse_p * inverse_p;
  return c;
}

// Everything that follows the reduction over one sample of `size` elements. math.md sections 2 and 3.
RCGM_FN Outcome finish_sample(const LossOptions& o, Sums s, double size, const Sample& n) {
  Outcome out = {0, 0, 0, 1};
  if (n.weight == 0) return out;
  const double divisor = o.sum_of_elements ? 1 : size, length = sqrt(s.rr);
  double shrink = 1;
  if (o.normalize >= 0) {  // sCM: R <- R / (|R| + c); a zero residual has no direction, and stays 0
    shrink = length + o.normalize == 0 ? 0 : n.normalize_scale / (length + o.normalize);
    s.rr *= shrink * shrink;
  }
  double slope;
  metric_value(o, s.rr / divisor, &out.loss, &slope);
  out.residual_factor = slope * 2 / divisor * shrink;
  double steep = 0;
  if (o.cosine != 0 && o.positions > 0) {
    out.pred_factor = o.cosine / double(o.positions);
    out.loss += out.pred_factor * s.pp;
    steep = out.pred_factor * sqrt(s.pr);
  } else if (o.cosine != 0) {
    const Cosine<double> c = cosine_of(s.rr, s.pp, s.pr, s.yy);
    out.loss += o.cosine * c.value;
    out.residual_factor += o.cosine * c.residual_factor;
    out.pred_factor = o.cosine * c.pred_factor;
    steep = fabs(out.pred_factor) * sqrt(s.pp);
  }
  double weight = n.weight;
  if (o.power != 0) weight *= power_of((o.adaptive_of_loss ? out.loss : s.rr) + o.eps, -o.power);
  out.loss *= weight;
  weight *= o.share;
  if (o.scaled) {
    // No element exceeds `largest`, not even where its square is too small or too large for float32.
    const double largest = fmin(fmax(gradient_needs_sums(o) ? length : n.largest, 0x1p-60), 0x1p128);
    out.storage_scale = storage_scale_of(fabs(weight) * (fabs(out.residual_factor) * largest + steep));
    weight *= out.storage_scale;
  }
  out.residual_factor *= weight;
  out.pred_factor *= weight;
  return out;
}

// Coefficients of the N-th order residual from its knots, t_0 = t > t_1 >= ... >= t_{N+1} = r. In the anchored form
//     R = sum_i a_i (T_i - anchor) - (v - anchor),    a_i = -(t_i - t_{i+1}) / (t_0 - t_1)
// the coefficient of the anchor, (t - r) / dt = 1 - sum_i a_i, is implied, and nothing of size 1/dt is ever cancelled.
// `knot(i)` gives t_i. Where t_1 = r every a_i is 0: flow matching. Knots that are unordered or not finite give NaN, in this
// sample alone; where there are no segments that is for the coefficient of the velocity to say.
template <typename Knot>
RCGM_FN double segment_coefficient(const Knot& knot, int i) {
  const double dt = knot(0) - knot(1), length = knot(i) - knot(i + 1);
  if (length == 0 && dt >= 0) return 0;
  return length > 0 && length < INFINITY && dt > 0 ? -length / dt : NAN;
}

template <typename Knot>
RCGM_FN double velocity_coefficient(const Knot& knot) {
  const double dt = knot(0) - knot(1);
  return dt >= 0 && dt < INFINITY ? -1 : NAN;
}

template <typename T>
RCGM_FN T clamp_residual(T value, T clip) {  // NaN fails both comparisons; so written each is one min or max instruction
  value = -clip > value ? -clip : value;
  return clip < value ? clip : value;
}
