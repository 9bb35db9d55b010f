"""The algebra of residuals: what is written is what the fused loss is told."""

import pytest
import torch

from rcgm.engine.combination import PREDICTION, Combination, term

A, B = torch.arange(6.0).reshape(3, 2), torch.full((3, 2), 2.0)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5])


def test_arithmetic_is_that_of_the_tensors():
    combination = WEIGHTS * (term(A) - 3 * term(B)) + term(B) - term(A) * 0.5
    column = WEIGHTS[:, None]
    torch.testing.assert_close(combination.value(), column * (A - 3 * B) + B - 0.5 * A)


def test_a_tensor_that_comes_twice_is_one_term():
    combination = term(A) + WEIGHTS * term(B) - 2 * term(A)
    assert len(combination.terms) == 2
    assert combination.terms[0] is A
    torch.testing.assert_close(combination.stacked(WEIGHTS), torch.stack([-torch.ones(3), WEIGHTS]))


def test_prediction_keeps_its_coefficient():
    combination = WEIGHTS * (PREDICTION - term(A)) + 2 * PREDICTION
    torch.testing.assert_close(combination.pred_coeff, WEIGHTS + 2)
    assert (-PREDICTION).pred_coeff == -1
    with pytest.raises(ValueError, match="no value before the student has predicted"):
        combination.value()


def test_terms_with_coefficient_zero_may_hold_anything():
    broken = torch.tensor([[torch.nan, 1.0], [2.0, torch.inf], [3.0, 4.0]])
    value = (term(A) + torch.tensor([0.0, 0.0, 1.0]) * term(broken)).value()
    assert torch.equal(value[:2], A[:2])


def test_a_lone_term_is_not_copied():
    assert term(A).value() is A


def test_nothing_has_no_value_and_no_rows():
    assert Combination().stacked(WEIGHTS).shape == (0, 3)
    with pytest.raises(ValueError, match="without terms"):
        Combination().value()


@pytest.mark.parametrize("operation", [lambda: term(A) + 1, lambda: term(A) - A, lambda: term(A) * "2"])
def test_only_scalars_multiply_and_only_combinations_add(operation):
    with pytest.raises(TypeError):
        operation()
