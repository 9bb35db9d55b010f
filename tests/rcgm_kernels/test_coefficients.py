"""The coefficients of the recursive residual (math.md, section 2)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcgm_kernels import recursive_coefficients
from tests.support.cases import KNOTS, every, knots


@given(
    kinds=st.lists(st.sampled_from(KNOTS), min_size=1, max_size=6),
    order=st.integers(0, 16),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@every(100)
def test_they_are_the_formula_of_the_paper(kinds, order, seed, dtype):
    times = knots(kinds, order, len(kinds), torch.Generator().manual_seed(seed)).to(dtype)
    base, segments = recursive_coefficients(times)
    assert base.dtype == segments.dtype == torch.float64
    assert segments.shape == (order, len(kinds))
    for b, column in enumerate(times.double().T.tolist()):
        step = column[0] - column[1]
        if column[1] == column[-1]:
            assert base[b] == 1
            assert (segments[:, b] == 0).all()
        else:
            assert base[b].item() == pytest.approx((column[0] - column[-1]) / step, rel=1e-12)
            expected = [-(column[i] - column[i + 1]) / step for i in range(1, order + 1)]
            assert segments[:, b].tolist() == pytest.approx(expected, rel=1e-12)
    # A network that is constant in time has the velocity itself as its estimate.
    torch.testing.assert_close(base + segments.sum(0), torch.ones_like(base), rtol=0, atol=1e-9)


@pytest.mark.parametrize("column", [(0.5, 0.6, 0.1), (0.5, 0.4, 0.45), (0.5, 0.5, 0.1), (0.5, float("nan"), 0.1)])
def test_unordered_knots_are_nan_in_their_own_sample_alone(column):
    good = (0.8, 0.7, 0.2)
    base, segments = recursive_coefficients(torch.tensor([good, column, good]).T)
    assert torch.isnan(base + segments.sum(0)).tolist() == [False, True, False]
    alone = recursive_coefficients(torch.tensor([good]).T)
    assert (base[0], segments[0, 2]) == (alone[0], alone[1][0])
