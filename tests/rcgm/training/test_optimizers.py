import pytest
import torch
from torch import nn

from rcgm.config import OptimizerConfig
from rcgm.training.optimizers import (
    build_optimizer,
    export_optimizer,
    import_optimizer,
    learning_rate,
    set_learning_rate,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_learning_rate_warms_up_linearly_to_its_last_warmup_step():
    config = OptimizerConfig(lr=0.4, warmup_steps=4)
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert learning_rate(OptimizerConfig(lr=0.4), 0) == 0.4


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        ("linear", {}, [0.2, 0.4, 0.4, 0.3, 0.2, 0.1]),
        ("linear", {"decay_steps": 2}, [0.2, 0.4, 0.4, 0.4, 0.4, 0.2]),
        ("linear", {"decay_steps": 100}, [0.2, 0.4, 0.4, 0.3, 0.2, 0.1]),
        ("linear", {"decay_steps": 2, "final_lr": 0.1}, [0.2, 0.4, 0.4, 0.4, 0.4, 0.25]),
        ("cosine", {}, [0.2, 0.4, 0.4, 0.2 + 0.1 * 2**0.5, 0.2, 0.2 - 0.1 * 2**0.5]),
    ],
)
def test_learning_rate_falls_at_the_end_of_the_run(schedule, options, expected):
    config = OptimizerConfig(lr=0.4, warmup_steps=2, schedule=schedule, **options)
    assert [learning_rate(config, step, 6) for step in range(6)] == pytest.approx(expected)
    assert learning_rate(config, 1000) == 0.4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_of_warm_up_alone_has_a_learning_rate(schedule):
    config = OptimizerConfig(lr=0.4, warmup_steps=4, schedule=schedule)
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"decay_steps": 5}, "decay_steps and final_lr must be left out"), ({"final_lr": 1e-5}, "must be left out"),
     ({"schedule": "cosine", "final_lr": 1.0}, "final_lr must be at most lr")],
)  # fmt: skip
def test_settings_of_the_schedule_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(lr=0.1, **options)


def test_set_learning_rate_reaches_every_group():
    optimizer = build_optimizer(OptimizerConfig(lr=1.0), network())
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_weight_decay_leaves_biases_alone():
    model = network()
    optimizer = build_optimizer(OptimizerConfig(lr=0.1, weight_decay=0.5), model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(model[0].weight, before["0.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model[0].bias, before["0.bias"])


@pytest.mark.parametrize("name", ["adamw", "radam"])
def test_exported_state_goes_on_exactly(name):
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.1)
    straight, stopped, resumed = network(), network(), network()
    optimizer = build_optimizer(config, straight)
    train(straight, optimizer, range(12))

    first = build_optimizer(config, stopped)
    train(stopped, first, range(7))
    tensors = export_optimizer(first, stopped)
    assert {"0.weight/exp_avg", "0.weight/exp_avg_sq", "0.weight/step"} <= set(tensors)

    resumed.load_state_dict(stopped.state_dict())
    second = build_optimizer(config, resumed)
    import_optimizer(second, resumed, tensors)
    train(resumed, second, range(7, 12))
    for expected, got in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_optimizers_are_the_ones_named():
    assert isinstance(build_optimizer(OptimizerConfig(name="adamw"), network()), torch.optim.AdamW)
    assert isinstance(build_optimizer(OptimizerConfig(name="radam"), network()), torch.optim.RAdam)


def test_state_of_an_unknown_parameter_is_refused():
    model = network()
    optimizer = build_optimizer(OptimizerConfig(), model)
    with pytest.raises(ValueError, match=r"'5\.weight'"):
        import_optimizer(optimizer, model, {"5.weight/exp_avg": torch.zeros(1)})
