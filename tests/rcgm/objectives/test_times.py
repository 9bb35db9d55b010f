import math

import pytest
import torch
from scipy import stats

from rcgm.objectives.times import DISTRIBUTIONS, INTERVALS, TimeSampler
from tests.support.rounding import assert_rounded

MANY = 20_000

# (name, sampler settings, distribution of t)
SIZE = stats.lognorm(s=1.4, scale=math.exp(-1.0))  # of sCM's noise
DRAWS = [
    ("uniform", {}, stats.uniform()),
    ("arctan", {"a": -1.0, "b": 1.4}, None),
    ("logit_normal", {"a": -0.4, "b": 1.0}, None),
    ("logit_normal", {"a": 0.8, "b": 0.5}, None),
    ("beta", {"a": 0.8, "b": 1.0}, stats.beta(0.8, 1.0)),
    ("beta", {"a": 2.4, "b": 2.4}, stats.beta(2.4, 2.4)),
    ("beta", {"a": 5.0, "b": 0.7}, stats.beta(5.0, 0.7)),
]


def sample(batch=MANY, seed=0, **settings_):
    return TimeSampler(**settings_).sample(batch, generator=torch.Generator().manual_seed(seed), device="cpu")


def fits(values, cdf):
    """Kolmogorov-Smirnov; the seeds are fixed, so this is no lottery."""
    return stats.kstest(values.double().numpy(), cdf).pvalue > 0.01


@pytest.mark.parametrize(("distribution", "parameters", "expected"), DRAWS)
def test_distribution_of_t(distribution, parameters, expected):
    times = sample(distribution=distribution, **parameters)
    assert times.t.dtype == times.r.dtype == torch.float32
    assert times.t.shape == times.r.shape == (MANY,)
    if distribution == "arctan":
        assert fits(torch.tan(math.pi / 2 * times.t.double()), SIZE.cdf)
    elif expected is None:
        assert fits(torch.logit(times.t.double()), stats.norm(parameters["a"], parameters["b"]).cdf)
    else:
        assert fits(times.t, expected.cdf)


def test_hierarchical_r_is_uniform_below_t():
    times = sample()
    share = times.r / times.t
    assert fits(share, stats.uniform().cdf)
    assert abs(stats.spearmanr(share, times.t).statistic) < 0.02
    assert fits(times.r, lambda r: r - r * torch.log(torch.as_tensor(r)).numpy())
    # The share is as uniform where t is not.
    times = sample(distribution="beta", a=2.4, b=2.4)
    assert fits(times.r / times.t, stats.uniform().cdf)


def test_sorted_times_are_the_larger_and_the_smaller_of_two_draws():
    times = sample(interval="sorted")
    assert fits(times.t, lambda t: t**2)
    assert fits(times.r, lambda r: 1 - (1 - r) ** 2)


def test_independent_r_is_a_draw_of_its_own_cut_at_t():
    times = sample(interval="independent", r_distribution="beta", r_a=2.0, r_b=3.0)
    assert fits(times.t, stats.uniform().cdf)
    beta = stats.beta(2.0, 3.0)
    # P(r <= c) = 1 - P(t > c) P(draw > c)
    assert fits(times.r, lambda c: 1 - (1 - c) * (1 - beta.cdf(c)))
    equal = (times.r == times.t).double().mean().item()
    # 6 standard deviations of the mean of 20,000
    assert abs(equal - beta.mean()) < 0.02  # t is uniform, so that a draw d is not below it with probability d
    plain = sample(interval="independent")
    assert fits(plain.t, stats.uniform().cdf)
    assert fits(plain.r, lambda c: 1 - (1 - c) ** 2)


def test_sorted_times_of_two_distributions():
    times = sample(interval="sorted", r_distribution="beta", r_a=2.0, r_b=3.0)
    beta = stats.beta(2.0, 3.0)
    assert fits(times.t, lambda c: c * beta.cdf(c))
    assert fits(times.r, lambda c: 1 - (1 - c) * (1 - beta.cdf(c)))


def test_segments_are_drawn_alike():
    times = sample(distribution="segments", segments=8)
    ends, counts = torch.unique(times.t, return_counts=True)
    assert ends.tolist() == [end / 8 for end in range(1, 9)]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_dyadic_intervals():
    """Lengths are powers of two, all as frequent, and intervals begin at multiples of their length (Shortcut)."""
    times = sample(interval="dyadic", levels=3)
    length = times.t - times.r
    sizes, counts = torch.unique(length, return_counts=True)
    assert sizes.tolist() == [0.25, 0.5, 1]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    assert bool(((times.r / length) % 1 == 0).all())
    starts, counts = torch.unique(times.r[length == 0.25], return_counts=True)
    assert starts.tolist() == [0, 0.25, 0.5, 0.75]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    # samples without an interval have times of the distribution
    times = sample(interval="dyadic", levels=3, equal=0.5)
    assert fits(times.t[: MANY // 2], stats.uniform().cdf)


@pytest.mark.parametrize("shift", [0.1, 3.0])
def test_shift(shift):
    t = sample(shift=shift).t
    plain = sample().t.double()
    expected = shift * plain / (1 + (shift - 1) * plain)
    assert_rounded(t.double(), expected, roundings=5, dtype=torch.float32)  # of numbers up to 1
    assert (sample(distribution="segments", segments=1, shift=shift).t == 1).all()


def test_near_the_noise():
    times = sample(near=0.05)
    assert times.t.min() >= 0.95
    assert fits((times.t.double() - 0.95) / 0.05, stats.uniform().cdf)
    assert fits(times.r / times.t, stats.uniform().cdf)
    assert sample(near=0.5, distribution="segments", segments=2).t.unique().tolist() == [0.75, 1]


def test_uniform_times_are_never_those_of_the_data(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda batch, **_: torch.zeros(batch))
    assert bool((sample(4, interval="zero").t > 0).all())


def test_zero_and_equal_intervals():
    zero = sample(interval="zero")
    assert not zero.r.any()
    assert zero.equal == 0
    whole = sample(interval="equal")
    assert torch.equal(whole.r, whole.t)
    assert whole.equal == MANY
    assert fits(whole.t, stats.uniform().cdf)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_times_are_ordered(distribution, interval):
    for equal in (0.0, 0.3):
        times = sample(2_000, distribution=distribution, interval=interval, a=0.5, b=0.5, equal=equal)
        assert bool(((times.r >= 0) & (times.r <= times.t) & (times.t <= 1)).all())


@pytest.mark.parametrize("interval", ["hierarchical", "sorted", "zero"])  # independent draws have r = t as well
@pytest.mark.parametrize(
    ("equal", "batch", "count"), [(0.0, 10, 0), (0.75, 8, 6), (0.25, 12, 3), (0.29, 100, 29), (1.0, 7, 7)]
)
def test_equal_samples_lead_the_batch(interval, equal, batch, count):
    times = sample(batch, interval=interval, equal=equal)
    assert times.equal == count
    assert torch.equal(times.r[:count], times.t[:count])
    assert bool((times.r[count:] < times.t[count:]).all())


@pytest.mark.parametrize(
    ("equal", "zero", "batch", "counts"),
    [(0.5, 0.1, 10, (5, 1)), (0.0, 0.25, 8, (0, 2)), (0.5, 0.5, 6, (3, 3)), (0.7, 0.1, 10, (7, 1)), (0, 1, 3, (0, 3))],
)
@pytest.mark.parametrize("interval", ["hierarchical", "sorted", "dyadic"])
def test_zero_samples_follow_the_equal_ones(interval, equal, zero, batch, counts):
    """TiM's diffusion and consistency ratios."""
    times = sample(batch, interval=interval, equal=equal, zero=zero, levels=1 if zero == 1 else 8, seed=3)
    first, last = counts[0], sum(counts)
    assert times.equal == first
    assert torch.equal(times.r[:first], times.t[:first])
    assert not times.r[first:last].any()
    assert bool((times.t[first:last] > 0).all())
    if interval != "dyadic":  # whose intervals may begin at 0
        assert bool((times.r[last:] > 0).all())


@pytest.mark.parametrize(
    ("equal", "zero", "batch"), [(0.75, 0.0, 1), (0.5, 0.1, 1), (0.25, 0.75, 1), (0.3, 0.3, 2), (0.5, 0.1, 3)]
)
def test_fractions_hold_over_many_small_batches(equal, zero, batch):
    """A batch of one sample has r = t with the probability ``equal``, rather than never or always."""
    sampler, generator = TimeSampler(equal=equal, zero=zero), torch.Generator().manual_seed(0)
    steps = [sampler.sample(batch, generator=generator, device="cpu") for _ in range(2_000)]
    for fraction, counts in (
        (equal, [times.equal for times in steps]),
        (zero, [int((times.r[times.equal :] == 0).sum()) for times in steps]),
    ):
        expected = fraction * batch
        # a count lies within 1 of its mean, here the nearest whole numbers; 5 standard deviations of 2,000 of them
        assert all(abs(count - expected) < 1 + 1e-9 for count in counts)
        assert abs(sum(counts) / len(counts) - expected) < 5 * 0.5 / 2_000**0.5
    assert all(torch.equal(times.r[: times.equal], times.t[: times.equal]) for times in steps)


def test_the_same_generator_rounds_alike():
    """In every process and micro-batch, though nothing is drawn for it."""
    sampler = TimeSampler(interval="sorted", equal=0.5)
    for seed in range(20):
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        assert sampler.sample(5, generator=one, device="cpu").equal == sampler._numbers(5, other, "cpu")[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = {sampler.sample(5, generator=None, device="cpu").equal for _ in range(20)}
    assert counts == {2, 3}


def test_equal_samples_have_the_same_t():
    assert torch.equal(sample(equal=0.5).t, sample(equal=0.0).t)


def test_generator_decides():
    one, same, other = sample(50, seed=1), sample(50, seed=1), sample(50, seed=2)
    assert torch.equal(one.t, same.t)
    assert torch.equal(one.r, same.r)
    assert not torch.equal(one.t, other.t)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_global_randomness_is_left_alone(distribution):
    state = torch.get_rng_state()
    sample(50, distribution=distribution, a=1.0, b=1.0, interval="sorted")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (
            {"distribution": "normal"},
            "distribution must be one of uniform, logit_normal, beta, arctan, segments, got 'normal'",
        ),
        ({"interval": "none"}, "interval must be one of hierarchical, sorted, independent, zero, equal, dyadic, got"),
        ({"equal": 1.5}, "equal must be a fraction from 0 to 1, got 1.5"),
        ({"equal": -0.1}, "equal must be a fraction from 0 to 1, got -0.1"),
        ({"equal": math.nan}, "equal must be a fraction from 0 to 1, got nan"),
        ({"zero": 1.5}, "zero must be a fraction from 0 to 1, got 1.5"),
        ({"equal": 0.6, "zero": 0.5}, "equal, zero and short must not exceed 1 together, got 0.6, 0.5 and 0.0"),
        ({"interval": "equal", "zero": 0.1}, "zero must be 0 with interval equal, in which r = t everywhere, got 0.1"),
        ({"interval": "sorted", "near": 0.1}, "near must be 1 with interval sorted, which draws r too, got 0.1"),
        ({"interval": "dyadic", "near": 0.1}, "near must be 1 with interval dyadic, which draws r too, got 0.1"),
        ({"interval": "independent", "near": 0.1}, "near must be 1 with interval independent, which draws r too"),
        ({"r_distribution": "uniform"}, "r_distribution must be None with interval hierarchical, which draws no r"),
        ({"interval": "sorted", "r_distribution": "normal"}, "r_distribution must be one of uniform, logit_normal"),
        (
            {"interval": "sorted", "r_distribution": "arctan", "r_b": 0.0},
            "r_b, the standard deviation of arctan, must be > 0, got 0.0",
        ),
        (
            {"interval": "independent", "r_distribution": "beta"},
            "r_a and r_b of beta must be > 0, got 0.0 and 1.0",
        ),
        ({"near": 0.0}, "near must be above 0 and at most 1, got 0.0"),
        ({"shift": 0.0}, "shift must be a finite number > 0, got 0.0"),
        ({"shift": math.inf}, "shift must be a finite number > 0, got inf"),
        ({"segments": 0}, "segments must be a whole number >= 1, got 0"),
        ({"levels": 2.0}, "levels must be a whole number >= 1, got 2.0"),
        ({"distribution": "arctan", "b": -1.0}, "standard deviation of arctan, must be > 0, got -1.0"),
        ({"distribution": "logit_normal", "b": 0.0}, "standard deviation of logit_normal, must be > 0, got 0.0"),
        ({"distribution": "beta", "a": 0.0}, "a and b of beta must be > 0, got 0.0 and 1.0"),
        ({"distribution": "beta", "a": 1.0, "b": -1.0}, "a and b of beta must be > 0, got 1.0 and -1.0"),
        ({"distribution": "logit_normal", "a": math.nan}, "a and b must be finite, got nan and 1.0"),
        ({"distribution": "beta", "a": math.inf}, "a and b must be finite, got inf and 1.0"),
    ],
)
def test_bad_settings(settings_, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        TimeSampler(**settings_)


def test_short_intervals():
    times = sample(equal=0.1, zero=0.2, short=0.3)
    t, length = times.t, times.t - times.r
    short = slice(3 * MANY // 10, 6 * MANY // 10)
    assert bool((length[short] <= 0.05 * t[short] + 1e-6).all())
    assert fits((length / t / 0.05)[short].clamp(0, 1), stats.uniform().cdf)
    assert bool((times.r[MANY // 10 : 3 * MANY // 10] == 0).all())
    assert fits((times.r / t)[6 * MANY // 10 :], stats.uniform().cdf)
    with pytest.raises(ValueError, match=r"short must be a fraction from 0 to 1, got -0\.1"):
        TimeSampler(short=-0.1)
