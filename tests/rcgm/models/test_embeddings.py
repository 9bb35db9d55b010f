import math
import re

import pytest
import torch

from rcgm.models.embeddings import LabelEmbedder, TimeEmbedder, sinusoidal_embedding
from rcgm.models.positions import sincos_positions_2d

TIMES = torch.tensor([0.0, 1e-4, 0.37, 1.0], dtype=torch.float64)


def test_sinusoids_against_their_formula():
    got = sinusoidal_embedding(TIMES, 6, scale=10.0, max_period=100.0, dtype=torch.float64)
    frequencies = [100.0 ** (-k / 3) for k in range(3)]
    for time, row in zip(TIMES.tolist(), got.tolist(), strict=True):
        phases = [10.0 * time * frequency for frequency in frequencies]
        assert row == pytest.approx([math.cos(p) for p in phases] + [math.sin(p) for p in phases], abs=1e-14)


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_sinusoids_stay_in_float32_under_autocast(autocast):
    times = TIMES.float()
    expected = sinusoidal_embedding(times, 64, scale=10.0)
    with torch.autocast("cpu", dtype=autocast):
        got = sinusoidal_embedding(times, 64, scale=10.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    exact = sinusoidal_embedding(times.double(), 64, scale=10.0, dtype=torch.float64)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 7}, ValueError, "size must be even"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 8.0}, TypeError, "size must be an int, got 8.0 of type float"),
        ({"scale": 0.0}, ValueError, "scale must be positive and finite, got 0.0"),
        ({"max_period": 1.0}, ValueError, "max_period must be above 1, got 1.0"),
        ({"dtype": torch.bfloat16}, TypeError, "dtype must be torch.float32 or torch.float64, got torch.bfloat16"),
        ({"time": torch.zeros(2, 1)}, ValueError, "time must have shape [B], got [2, 1]"),
    ],
)
def test_sinusoids_refuse(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        sinusoidal_embedding(**{"time": torch.zeros(2), "size": 8, **arguments})


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (4, 2), (1, 7)])
def test_positions_against_their_formula(grid):
    rows, columns = grid
    got = sincos_positions_2d(8, grid)
    assert got.dtype == torch.float64
    assert got.shape == (rows * columns, 8)
    frequencies = [1.0, 0.01]
    for row in range(rows):
        for column in range(columns):
            parts = [f(p * w) for p in (column, row) for f in (math.sin, math.cos) for w in frequencies]
            assert got[row * columns + column].tolist() == pytest.approx(parts, abs=1e-14)
    assert len({tuple(cell) for cell in got.tolist()}) == rows * columns


@pytest.mark.parametrize(
    ("size", "grid", "error", "message"),
    [
        (6, (2, 2), ValueError, "size must be a multiple of 4"),
        (-4, (2, 2), ValueError, "size must be at least 1, got -4"),
        (8, (0, 2), ValueError, "grid[0] must be at least 1, got 0"),
        (8, (2, 2.5), TypeError, "grid[1] must be an int, got 2.5 of type float"),
    ],
)
def test_positions_refuse(size, grid, error, message):
    with pytest.raises(error, match=re.escape(message)):
        sincos_positions_2d(size, grid)


def test_time_embedder_is_an_mlp_of_the_sinusoids():
    embedder = TimeEmbedder(12, scale=3.0, frequency_size=16).double()
    first, _, last = embedder.mlp
    features = sinusoidal_embedding(TIMES, 16, scale=3.0, dtype=torch.float64)
    hidden = features @ first.weight.T + first.bias
    expected = (hidden * torch.sigmoid(hidden)) @ last.weight.T + last.bias
    torch.testing.assert_close(embedder(TIMES), expected)
    assert embedder(TIMES.float()).dtype == torch.float64


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_time_embedder_tells_near_times_apart_under_autocast(autocast):
    times = torch.tensor([0.5, 0.5 + 2.0**-14])
    embedder = TimeEmbedder(12)
    expected = embedder(times)
    with torch.autocast("cpu", dtype=autocast):
        got = embedder(times)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not torch.equal(got[0], got[1])


def test_time_embedder_with_weights_in_half_precision_computes_in_float32():
    embedder = TimeEmbedder(12).bfloat16()
    times = torch.tensor([0.5, 0.5 + 2.0**-14])
    got = embedder(times)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, embedder.float()(times), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1, got 0"),
        ({"scale": -1}, ValueError, "scale must be positive and finite, got -1"),
        ({"scale": float("nan")}, ValueError, "scale must be positive and finite, got nan"),
        ({"scale": "10"}, TypeError, "scale must be a number, got '10' of type str"),
        ({"scale": True}, TypeError, "scale must be a number, got True of type bool"),
        ({"frequency_size": 5}, ValueError, "frequency_size must be even"),
        ({"frequency_size": True}, TypeError, "frequency_size must be an int, got True of type bool"),
    ],
)
def test_time_embedder_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        TimeEmbedder(**{"hidden_size": 8, **arguments})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_label_embedder_has_a_row_for_the_null_class(dtype):
    embedder = LabelEmbedder(10, 6)
    assert embedder.embedding_table.weight.shape == (11, 6)
    labels = torch.tensor([0, 10, 3], dtype=dtype)
    torch.testing.assert_close(embedder(labels), embedder.embedding_table.weight[[0, 10, 3]])
    embedder(labels).sum().backward()
    touched = embedder.embedding_table.weight.grad.abs().sum(1).nonzero().flatten()
    assert touched.tolist() == [0, 3, 10]


def test_label_embedder_never_reads_the_labels_on_the_host():
    # The meta device has no values, so any look at one raises.
    embedder = LabelEmbedder(10, 6).to("meta")
    assert embedder(torch.empty(4, dtype=torch.int64, device="meta")).shape == (4, 6)


@pytest.mark.parametrize(
    ("num_classes", "hidden_size", "message"),
    [(0, 6, "num_classes must be at least 1, got 0"), (10, 0, "hidden_size must be at least 1, got 0")],
)
def test_label_embedder_refuses(num_classes, hidden_size, message):
    with pytest.raises(ValueError, match=message):
        LabelEmbedder(num_classes, hidden_size)
