"""The objectives against the published training loops: value, gradient of the parameters and its scale."""

from pathlib import Path

import pytest

from rcgm.config import build_objective_from, load_config
from tests.support import published_loops as loops
from tests.support import published_tim, published_ucgm
from tests.support.published_cases import CASES, Case, compare

CONFIGS = Path(__file__).parents[3] / "configs"
# the loss that the authors of each published configuration train
PUBLISHED = {
    "imagenet256_tim": ("mixed", published_tim.tim("linear", guided=True)),
    "imagenet256_ucgm": ("equal", published_ucgm.ucgm(0, cosine=True, zeta=0.47)),
    "imagenet256_ucgm_tuned": ("zero", published_ucgm.ucgm(1, c=5, zeta=2.0)),
    "imagenet256_mean_flow_b4": ("mixed", loops.mean_flow()),
    "imagenet256_mean_flow_xl2": ("mixed", loops.mean_flow(omega=0.2, kappa=0.92, upper=0.75)),
}


def assert_same(case: Case) -> None:
    found = compare(case)
    assert found.value is None or found.value < case.bound
    assert found.gradient < case.bound
    assert abs(found.ratio - 1) < case.bound


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loop}, {case.options}")
def test_value_gradient_and_scale(case):
    assert_same(case)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_trains_the_loss_of_its_authors(name):
    times, loss = PUBLISHED[name]
    config = load_config(CONFIGS / f"{name}.yaml")
    assert_same(Case(name, "", loss, lambda: build_objective_from(config), times, drop=True))
