import pytest
import torch
from torch import nn

from rcgm.runs import latest_checkpoint
from rcgm.runs.checkpoint import read_checkpoint
from rcgm.runs.loading import load_run
from rcgm.training import train
from rcgm.training.ema import AutocastNetwork, Ema


class Scalar(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[value]]))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x, t, r, cond=None):
        return x @ self.weight


def test_warmup_follows_the_recursion_from_zero():
    student = Scalar(1.0)
    ema = Ema(student, 0.9)
    with torch.no_grad():
        student.weight.fill_(3.0)
    # d: 0, 0.45, 0.45 + 0.55 * 0.45 / 2 = 0.57375, 0.57375 + 0.42625 * 0.32625 / 2
    expected_decays = [0.0, 0.45, 0.57375, 0.64328203125]
    average = 1.0
    for decay in expected_decays:
        ema.step()
        average = decay * average + (1 - decay) * 3.0
        assert ema.current_decay == pytest.approx(decay, abs=1e-12)
        assert ema.network.weight.item() == pytest.approx(average, rel=1e-6)


def test_warmup_approaches_the_decay_from_below():
    ema = Ema(Scalar(0.0), 0.99)
    decays = []
    for _ in range(3000):
        ema.step()
        decays.append(ema.current_decay)
    assert decays == sorted(decays)
    assert decays[-1] < 0.99
    assert decays[-1] == pytest.approx(0.99, abs=1e-6)


def test_without_warmup_the_decay_holds_from_the_first_step():
    student = Scalar(0.0)
    ema = Ema(student, 0.75, warmup=False)
    with torch.no_grad():
        student.weight.fill_(4.0)
    ema.step()
    assert ema.network.weight.item() == 1.0


def test_decay_zero_is_the_student_itself():
    student = Scalar(2.0)
    ema = Ema(student, 0.0)
    ema.step()
    assert ema.network is student
    assert ema.target is student
    assert ema.is_student


def test_average_takes_no_gradient_and_does_not_share_memory():
    student = Scalar(2.0).train()
    ema = Ema(student, 0.9)
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert ema.network.weight.data_ptr() != student.weight.data_ptr()
    assert student.weight.requires_grad


@pytest.mark.parametrize("cast", [None, torch.bfloat16])
def test_the_average_is_in_the_mode_of_the_student(cast):
    student = Scalar(2.0).train()
    ema = Ema(student, 0.9, cast=cast)
    assert all(copy.training for copy in ema.copies)
    ema.network.eval()  # to sample from
    ema.step()
    assert all(copy.training for copy in ema.copies)
    student.eval()
    ema.step()
    assert not any(copy.training for copy in ema.copies)


def test_average_of_a_half_precision_student_is_float32():
    student = Scalar(1.0).bfloat16()
    ema = Ema(student, 0.9)
    ema.step()
    assert ema.network.weight.dtype == torch.float32
    assert student.weight.dtype == torch.bfloat16


def test_buffers_are_copied():
    student = Scalar(1.0)
    ema = Ema(student, 0.9, cast=torch.bfloat16)
    student.count.fill_(7.0)
    ema.step()
    assert ema.network.count.item() == 7.0
    assert ema.target.network.count.item() == 7.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast_copy_follows_the_average(dtype):
    student = Scalar(1.0)
    ema = Ema(student, 0.9, cast=dtype)
    with torch.no_grad():
        student.weight.fill_(2.0)
    ema.step()
    assert isinstance(ema.target, AutocastNetwork)
    copied = ema.target.network.weight
    assert copied.dtype == dtype
    assert torch.equal(copied, ema.network.weight.to(dtype))
    x, t = torch.ones(3, 1), torch.ones(3)
    assert ema.target(x, t, t).dtype == torch.float32
    assert torch.equal(ema.target(x, t, t), copied.float().expand(3, 1))


def test_load_restores_average_decay_and_cast_copy():
    student = Scalar(1.0)
    ema = Ema(student, 0.9, cast=torch.bfloat16)
    with torch.no_grad():
        student.weight.fill_(5.0)
    ema.step()
    restored = Ema(Scalar(0.0), 0.9, cast=torch.bfloat16)
    restored.load(ema.network.state_dict(), ema.current_decay)
    assert torch.equal(restored.network.weight, ema.network.weight)
    assert torch.equal(restored.target.network.weight, ema.target.network.weight)
    assert restored.current_decay == ema.current_decay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"decay": 0.9, "cast": torch.float64}, "cast"),
        ({"decay": 0.0, "cast": torch.bfloat16}, "cast must be left out"),
    ],
)
def test_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Ema(Scalar(1.0), **options)


@pytest.mark.parametrize("cast", [None, torch.bfloat16])
def test_the_target_may_be_an_average_of_its_own(cast):
    """Each follows its own decay; what is sampled from is the first."""
    student = Scalar(1.0)
    ema = Ema(student, 0.75, warmup=False, cast=cast, target_decay=0.5, target_warmup=False)
    with torch.no_grad():
        student.weight.fill_(5.0)
    ema.step()
    assert ema.network.weight.item() == 2.0
    x, t = torch.ones(1, 1), torch.ones(1)
    assert ema.target(x, t, t).item() == 3.0
    assert (ema.current_decay, ema.second.current_decay) == (0.75, 0.5)
    assert len(ema.copies) == (2 if cast is None else 3)
    assert ema.copies[0] is ema.network


def test_the_second_average_has_a_warmup_of_its_own():
    student = Scalar(1.0)
    ema = Ema(student, 0.99, warmup=False, target_decay=0.9)
    for _ in range(2):
        ema.step()
    assert (ema.current_decay, ema.second.current_decay) == (0.99, 0.45)


def test_the_target_may_be_the_student_beside_an_average_to_sample_from():
    student = Scalar(1.0)
    ema = Ema(student, 0.75, warmup=False, target_decay=0.0)
    with torch.no_grad():
        student.weight.fill_(5.0)
    ema.step()
    assert ema.target is student
    assert ema.network.weight.item() == 2.0
    assert ema.copies == [ema.network]


def test_a_target_average_beside_the_student():
    student = Scalar(1.0)
    ema = Ema(student, 0.0, target_decay=0.5, target_warmup=False)
    with torch.no_grad():
        student.weight.fill_(5.0)
    ema.step()
    assert ema.network is student
    assert ema.target.weight.item() == 3.0
    assert ema.copies == [ema.target]


def test_bad_second_average():
    with pytest.raises(ValueError, match=r"target_decay must be in \[0, 1\), got 1.0"):
        Ema(Scalar(0.0), 0.9, target_decay=1.0)
    with pytest.raises(ValueError, match="cast must be left out with decay 0"):
        Ema(Scalar(0.0), 0.9, target_decay=0.0, cast=torch.bfloat16)


def test_a_run_keeps_both_averages_and_is_loaded_by_the_first(tmp_path, tiny_config):
    words = ("ema.decay=0.9", "ema.warmup=false", "ema.target_decay=0.5", "ema.target_warmup=false")
    train(tiny_config(*words), tmp_path, show_progress=False)
    checkpoint = read_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    first, second, student = (checkpoint.read(group) for group in ("ema", "target_ema", "student"))
    assert (checkpoint.state["ema_decay"], checkpoint.state["target_ema_decay"]) == (0.9, 0.5)
    loaded = load_run(tmp_path, device=torch.device("cpu")).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in first.items())

    def distance(average):
        return sum((average[name] - student[name]).square().sum() for name in student)

    assert 0 < distance(second) < distance(first)
