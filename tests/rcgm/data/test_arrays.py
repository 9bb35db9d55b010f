import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from rcgm.data import Arrays, BatchStream

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (10, 3, 4, 5), dtype=np.uint8)
LATENTS = GENERATOR.normal(size=(10, 4, 2, 2))
POINTS = GENERATOR.normal(size=(10, 2)).astype(np.float32)
LABELS = np.arange(10) % 4


def write(folder, suffix, **arrays):
    path = folder / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_pixels_and_labels(tmp_path, suffix):
    data = Arrays(write(tmp_path, suffix, images=PIXELS, labels=LABELS))
    assert len(data) == 10 and data.info.shape == (3, 4, 5) and data.info.kind == "images"
    assert data.info.num_classes == 4 and data.info.value_range == (-1.0, 1.0)
    expected = torch.from_numpy(PIXELS).float() / 127.5 - 1
    x, labels = data.take(torch.tensor([9, 0, 3]))
    torch.testing.assert_close(x, expected[[9, 0, 3]])
    assert labels.tolist() == [1, 0, 3]
    image, label = data[-1]
    torch.testing.assert_close(image, expected[9])
    assert label == 1 and type(label) is int
    with pytest.raises(IndexError):
        data[10]


def test_the_range_of_pixels_is_reached_exactly(tmp_path):
    path = write(tmp_path, ".npz", images=np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    assert Arrays(path).take(torch.tensor([0, 1]))[0].flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_latents_are_taken_as_they_are(tmp_path, suffix):
    data = Arrays(write(tmp_path, suffix, latents=LATENTS))
    assert data.info.num_classes is None and data.info.value_range is None and data.info.shape == (4, 2, 2)
    torch.testing.assert_close(data.take(torch.arange(10))[0], torch.from_numpy(LATENTS).float())
    assert data[0][1] == -1


def test_half_precision_becomes_float32(tmp_path):
    latents = torch.from_numpy(LATENTS).bfloat16()
    save_torch_file({"latents": latents}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", LATENTS.astype(">f2"))
    for path, expected in (("a.safetensors", latents), ("a.npy", torch.from_numpy(LATENTS).half())):
        assert torch.equal(Arrays(tmp_path / path).take(torch.arange(10))[0], expected.float())


def test_npy_with_labels_beside_it(tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    np.save(tmp_path / "y.npy", LABELS.astype(np.int16))
    data = Arrays(tmp_path / "x.npy", labels_path=tmp_path / "y.npy", num_classes=7)
    assert data.info.kind == "points" and data.info.shape == (2,) and data.info.num_classes == 7
    x, labels = data.take(torch.arange(10))
    assert torch.equal(x, torch.from_numpy(POINTS)) and labels.tolist() == LABELS.tolist()


def test_what_is_mapped_is_not_pickled(tmp_path):
    rows = np.random.default_rng(1).normal(size=(1000, 100)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    save_file({"x": rows}, tmp_path / "x.safetensors")
    for name in ("x.npy", "x.safetensors"):
        data = Arrays(tmp_path / name)
        sent = pickle.dumps(data)
        assert not data.in_memory and len(sent) < 5000
        assert torch.equal(pickle.loads(sent).take(torch.arange(3))[0], torch.from_numpy(rows[:3]))


def test_workers_read_mapped_files(tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    data = Arrays(tmp_path / "x.npy")
    here, there = BatchStream(data, 3, seed=1), iter(BatchStream(data, 3, seed=1, workers=2))
    assert all(torch.equal(next(there)[0], here[step][0]) for step in range(5))


def test_channels_last(tmp_path):
    path = write(tmp_path, ".npz", arr_0=PIXELS.transpose(0, 2, 3, 1))
    data = Arrays(path, channels_last=True)
    assert data.info.shape == (3, 4, 5)
    torch.testing.assert_close(data.take(torch.arange(10))[0], torch.from_numpy(PIXELS).float() / 127.5 - 1)
    with pytest.raises(ValueError, match=r"with 9 on axis 1: set channels_last=True if axis 3 holds the channels"):
        Arrays(write(tmp_path, ".safetensors", x=np.zeros((10, 9, 5, 3), dtype=np.uint8)))
    with pytest.raises(ValueError, match="set channels_last=False if axis 1 holds the channels"):
        Arrays(write(tmp_path, ".npz", x=PIXELS), channels_last=True)


def test_keys_can_be_named(tmp_path):
    path = write(tmp_path, ".npz", images=PIXELS, other=LATENTS, classes=LABELS, labels=LABELS[:3])
    data = Arrays(path, samples_key="other", labels_key="classes")
    assert data.info.shape == (4, 2, 2) and data.labels.tolist() == LABELS.tolist()


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_pickled_npz_is_refused(tmp_path, key):
    np.savez(tmp_path / "a.npz", **{"images": PIXELS, key: np.array([Bomb()] * 10, dtype=object)})
    with pytest.raises(ValueError, match=rf"cannot read '{key}' of .*a\.npz.*allow_pickle=False"):
        Arrays(tmp_path / "a.npz")


def test_pickled_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb()] * 10, dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy", "c.npz"):
        with pytest.raises(ValueError, match=f"cannot read .*{name}"):
            Arrays(tmp_path / name)


def test_damaged_files_are_named(tmp_path):
    whole = write(tmp_path, ".npz", images=PIXELS).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:100])
    (tmp_path / "cut.safetensors").write_bytes(write(tmp_path, ".safetensors", images=PIXELS).read_bytes()[:100])
    np.save(tmp_path / "whole.npy", POINTS)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-8])
    for name in ("cut.npz", "cut.safetensors", "cut.npy"):
        with pytest.raises(ValueError, match=f"cannot read .*{name}"):
            Arrays(tmp_path / name)


def test_values_that_are_not_finite_are_found_when_read(tmp_path):
    latents = LATENTS.copy()
    latents[6, 0, 0, 0] = np.inf
    data = Arrays(write(tmp_path, ".npz", latents=latents))
    data.take(torch.tensor([5, 7]))
    with pytest.raises(ValueError, match=r"sample 6 of .*data\.npz holds values that are not finite"):
        data.take(torch.tensor([5, 6, 7]))


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        (
            {"images": PIXELS, "latents": LATENTS},
            {},
            r"samples_key must be given, as .* holds \['images', 'latents'\]: name one",
        ),
        ({"a": PIXELS, "b": LATENTS}, {}, r"samples_key must be given, as .* holds \['a', 'b'\]: name one"),
        (
            {"x": PIXELS, "y": LABELS, "labels": LABELS},
            {},
            r"labels_key must be given, as .* holds \['labels', 'y'\]: name one",
        ),
        ({"x": PIXELS}, {"samples_key": "z"}, r"samples_key must be one of \['x'\], .* got 'z'"),
        ({"x": PIXELS}, {"labels_key": "z"}, r"labels_key must be one of \['x'\], .* got 'z'"),
        ({"x": PIXELS}, {"labels_key": "z", "labels_path": "z.npy"}, "labels_path must be left out with labels_key"),
        ({"x": PIXELS}, {"labels_path": "z.npz"}, r"labels_path must be a \.npy file, got 'z\.npz\'"),
        ({"x": PIXELS}, {"labels_path": "z.npy"}, r"z\.npy must be a file that exists"),
        ({"x": PIXELS}, {"num_classes": 3}, "labels and num_classes must both be given, or neither, got None and 3"),
        ({"x": PIXELS, "y": LABELS}, {"num_classes": 3}, "labels must be from 0 to 2, with num_classes 3, got 0 to 3"),
        ({"x": PIXELS, "y": LABELS}, {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"x": PIXELS, "y": LABELS - 1}, {}, "labels must be from 0 to 2, .* got -1 to 2"),
        ({"x": PIXELS, "y": LABELS - 10}, {}, "labels must be from 0 to 0, .* got -10 to -7"),
        ({"x": PIXELS, "y": LABELS[:9]}, {}, r"labels must be \[10\], one a sample, got \[9\]"),
        ({"x": PIXELS, "y": LABELS[:0]}, {}, r"labels must be \[10\], one a sample, got \[0\]"),
        ({"x": PIXELS, "y": LABELS / 2}, {}, r"labels in 'y' .* must be integers \[N\], got float64"),
        ({"x": PIXELS, "y": LABELS[:, None]}, {}, r"labels in 'y' .* must be integers \[N\], got int64 \[10, 1\]"),
        ({"x": PIXELS.astype(np.int32)}, {}, "samples must be uint8 or floating, got int32"),
        (
            {"x": LATENTS[:, 0]},
            {},
            r"must be \[N, D\] or \[N, C, H, W\], .* got float64 \[10, 2, 2\] .*: of pixels, set value_range",
        ),
        ({"x": LATENTS[:0]}, {}, r"none of them 0, got float64 \[0, 4, 2, 2\]"),
        ({"x": POINTS}, {"channels_last": True}, r"must be \[N, H, W, C\], .* got float32 \[10, 2\]"),
        ({"x": np.zeros((10, 7, 7, 7), dtype=np.uint8)}, {}, r"must have 1, 3 or 4 channels, .* with 7 on axis 1$"),
    ],
)
def test_refuses_arrays(tmp_path, monkeypatch, arrays, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Arrays(write(tmp_path, ".npz", **arrays), **arguments)


def test_refuses_paths(tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    for path, arguments, message in (
        ("x.pt", {}, r"must end in one of \.npy, \.npz, \.safetensors, got '\.pt\'"),
        ("z.npy", {}, "must be a file that exists"),
        ("x.npy", {"samples_key": "x"}, "must be left out for a .npy file"),
        ("x.npy", {"labels_key": "y"}, "must be left out for a .npy file"),
    ):
        with pytest.raises(ValueError, match=message):
            Arrays(tmp_path / path, **arguments)
    with pytest.raises(TypeError, match=r"num_classes must be an int, got 2\.0"):
        Arrays(tmp_path / "x.npy", num_classes=2.0)
