import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rcgm.models import MLP, CallSignature, ReversedTime, TimeAndInterval, TimeOnly

X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
T = torch.tensor([0.5, 1.0])
R = torch.tensor([0.25, 0.0])
COND = torch.tensor([10.0, 20.0])


class Recorder(nn.Module):
    """Remembers how it was called and answers with a fixed function of ``x``."""

    def __init__(self, answer=lambda x: 2 * x):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.answer = answer
        self.calls = []

    def forward(self, *positional, **keywords):
        self.calls.append((positional, keywords))
        return self.answer(positional[0] if positional else keywords["sample"])


def assert_called(network, *positional, **keywords):
    [(got_positional, got_keywords)] = network.calls
    torch.testing.assert_close(got_positional, positional, rtol=0, atol=0)
    assert got_keywords.keys() == keywords.keys()
    for name, value in keywords.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(got_keywords[name], value, rtol=0, atol=0)
        else:
            assert got_keywords[name] == value


def test_time_only_ignores_r():
    network = Recorder()
    torch.testing.assert_close(TimeOnly(network)(X, T, R, COND), 2 * X)
    assert_called(network, X, T, COND)
    unconditional = Recorder()
    TimeOnly(unconditional)(X, T, R)
    assert_called(unconditional, X, T)


def test_time_and_interval():
    network = Recorder()
    torch.testing.assert_close(TimeAndInterval(network)(X, T, R, COND), 2 * X)
    assert_called(network, X, T, torch.tensor([0.25, 1.0]), COND)
    unconditional = Recorder()
    TimeAndInterval(unconditional)(X, T, R)
    assert_called(unconditional, X, T, torch.tensor([0.25, 1.0]))


def test_reversed_time_turns_times_and_sign():
    network = Recorder()
    torch.testing.assert_close(ReversedTime(network)(X, T, R, COND), -2 * X)
    assert_called(network, X, torch.tensor([0.5, 0.0]), torch.tensor([0.75, 1.0]), COND)


def test_reversed_time_gives_the_velocity_of_the_turned_path():
    # With s = 1 - t, SiT walks from z at s = 0 to x at s = 1 and predicts dx/ds = x - z. Data at 3, noise at 5.
    def sit(x, s):
        return torch.full_like(x, 3.0 - 5.0)

    velocity = ReversedTime(TimeOnly(sit))(X, T, R)
    torch.testing.assert_close(velocity, torch.full_like(X, 5.0 - 3.0))


def test_diffusers_style_call():
    network = Recorder(lambda x: SimpleNamespace(sample=3 * x))
    adapter = CallSignature(
        network,
        positional=("x", "t"),
        keyword={"encoder_hidden_states": "cond.text", "pooled_projections": "cond.pooled"},
        constants={"return_dict": True},
        time_scale=1000,
    )
    text, pooled = torch.randn(2, 4, 8), torch.randn(2, 8)
    torch.testing.assert_close(adapter(X, T, R, {"text": text, "pooled": pooled}), 3 * X)
    timestep = torch.tensor([500.0, 1000.0])
    assert_called(network, X, timestep, encoder_hidden_states=text, pooled_projections=pooled, return_dict=True)


def test_all_values_in_another_order_by_keyword():
    network = Recorder()
    keyword = {"start": "t", "sample": "x", "label": "cond", "stop": "r", "gap": "interval"}
    CallSignature(network, positional=(), keyword=keyword, time_scale=10.0)(X, T, R, COND)
    gap = torch.tensor([2.5, 10.0])
    assert_called(network, start=10 * T, sample=X, label=COND, stop=10 * R, gap=gap)


def test_call_signature_passes_none_as_condition():
    network = Recorder()
    CallSignature(network)(X, T, R)
    [(positional, keywords)] = network.calls
    assert len(positional) == 4
    assert positional[3] is None
    assert keywords == {}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x, "rest"],
        lambda x: SimpleNamespace(sample=x),
    ],
)
def test_outputs_of_other_kinds(wrap):
    torch.testing.assert_close(CallSignature(Recorder(wrap))(X, T, R), X)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x: torch.cat([x, x], 1), ValueError, "network must return the shape of x, [2, 2], got [2, 4]"),
        (lambda x: {"sample": x}, TypeError, "network must return a tensor, a tuple or list"),
        (lambda x: (), TypeError, "network must return a tensor"),
        (lambda x: ("text", x), TypeError, "network must return a tensor"),
        (lambda x: SimpleNamespace(sample=None), TypeError, "as .sample, got NoneType"),
    ],
)
def test_outputs_that_are_refused(answer, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CallSignature(Recorder(answer))(X, T, R)


def test_missing_entries_of_the_condition():
    adapter = CallSignature(Recorder(), positional=("x", "cond.text"))
    with pytest.raises(TypeError, match="cond must be a mapping with the entry 'text', got Tensor"):
        adapter(X, T, R, COND)
    with pytest.raises(TypeError, match="cond must be a mapping with the entry 'text', got NoneType"):
        adapter(X, T, R)
    with pytest.raises(ValueError, match="cond must have the entry 'text', got image, mask"):
        adapter(X, T, R, {"image": COND, "mask": COND})
    with pytest.raises(ValueError, match="cond must have the entry 'text', got none"):
        adapter(X, T, R, {})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"positional": "x"}, TypeError, "positional must be a sequence of names, got 'x'"),
        ({"positional": {"x": 1}}, TypeError, "positional must be a sequence of names, got {'x': 1}"),
        ({"positional": ("x", "time")}, ValueError, "positional must name values among x, t, r, interval, cond"),
        ({"positional": ("x", 1)}, TypeError, "positional must name values by strings, got 1"),
        ({"keyword": ["x"]}, TypeError, "keyword must be a mapping, got list"),
        (
            {"keyword": {"y": "cond."}},
            ValueError,
            "keyword must name values among x, t, r, interval, cond and cond.NAME",
        ),
        ({"constants": "x"}, TypeError, "constants must be a mapping, got str"),
        ({"keyword": {"y": "cond"}, "constants": {"y": 1}}, ValueError, "must not share names, both have y"),
        ({"time_scale": 0}, ValueError, "time_scale must be positive and finite, got 0"),
        ({"time_scale": None}, TypeError, "time_scale must be a number, got None of type NoneType"),
    ],
)
def test_call_signature_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CallSignature(Recorder(), **arguments)


@pytest.mark.parametrize("adapter", [TimeOnly, TimeAndInterval, ReversedTime, CallSignature])
def test_adapters_are_modules_around_the_network(adapter):
    network = Recorder()
    wrapped = adapter(network)
    assert [parameter is network.weight for parameter in wrapped.parameters()] == [True]
    assert list(wrapped.state_dict()) == ["network.weight"]
    assert wrapped.num_classes is None
    network.num_classes = 7
    assert ReversedTime(adapter(network)).num_classes == 7
    with pytest.raises(TypeError, match="network must be callable, got int"):
        adapter(3)


def test_adapters_compose_and_compile():
    torch.compiler.reset()
    network = MLP(dim=2, width=16, depth=2, num_classes=3, frequency_size=8)
    nn.init.ones_(network.output.weight)
    by_name = CallSignature(network, positional=("x",), keyword={"r": "r", "t": "t", "cond": "cond.label"})
    adapter = ReversedTime(by_name)
    labels = torch.tensor([0, 3])
    expected = -network(X, 1 - T, 1 - R, labels)
    assert expected.abs().max() > 0
    torch.testing.assert_close(adapter(X, T, R, {"label": labels}), expected)
    compiled = torch.compile(adapter, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, T, R, {"label": labels}), expected)
