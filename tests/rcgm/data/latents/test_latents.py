import itertools
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rcgm.data import BatchStream, Latents, build_dataset
from tests.support.latent_files import (
    CHANNELS,
    COUNTS,
    HEIGHT,
    TOTAL,
    WIDTH,
    WRITERS,
    label,
    sample,
    stack,
    write_shards,
)


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    return WRITERS[request.param](tmp_path / "latents")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_reads_every_layout(folder):
    dataset = build_dataset("latents", path=folder)
    assert len(dataset) == TOTAL
    assert dataset.info.shape == (CHANNELS, HEIGHT, WIDTH) and dataset.info.num_classes == 3
    for index in range(TOTAL):
        latents, number = dataset[index]
        assert latents.dtype == torch.float32 and torch.equal(latents, sample(index)) and number == label(index)
    assert torch.equal(dataset[-1][0], sample(TOTAL - 1))
    with pytest.raises(IndexError, match=f"index {TOTAL} of a data set of {TOTAL}"):
        dataset[TOTAL]


def test_a_pickled_copy_reads_the_same_and_carries_no_data(folder):
    dataset = Latents(folder)
    content = pickle.dumps(dataset)
    assert len(content) < 10_000
    assert torch.equal(pickle.loads(content)[7][0], sample(7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_storage_dtypes(tmp_path, dtype):
    dataset = Latents(write_shards(tmp_path / "a", dtype=dtype))
    assert dataset[9][0].dtype == torch.float32 and torch.equal(dataset[9][0], sample(9))


@pytest.mark.parametrize("layout", ["safetensors", "webdataset", "numpy"])
def test_both_flips_are_drawn_as_often(tmp_path, layout):
    folder = WRITERS[layout](tmp_path / "latents")
    dataset = Latents(folder)
    flipped = 0
    for seed in range(200):
        latents, _ = dataset.augmented(3, generator(seed))
        as_flipped = torch.equal(latents, sample(3, flipped=True))
        assert as_flipped or torch.equal(latents, sample(3))
        flipped += as_flipped
    assert 70 < flipped < 130
    unflipped = Latents(folder, flip=False)
    assert all(torch.equal(unflipped.augmented(3, generator(seed))[0], sample(3)) for seed in range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_exactly(tmp_path, workers):
    dataset = Latents(write_shards(tmp_path / "latents", make=moments), moments="log_variance")
    whole = list(itertools.islice(BatchStream(dataset, 4, seed=5), 12))
    rest = list(itertools.islice(BatchStream(dataset, 4, seed=5, start_step=7, workers=workers), 5))
    for (x, labels), (expected, expected_labels) in zip(rest, whole[7:], strict=True):
        assert torch.equal(x, expected) and torch.equal(labels, expected_labels)
    # The noise of a sample is drawn anew in every epoch.
    assert len({float(x.double().sum()) for x, _ in whole}) == 12


@given(world_size=st.integers(1, 5), share=st.integers(1, 3), step=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_share_a_batch_without_overlap(tmp_path, world_size, share, step, seed):
    if not (tmp_path / "latents").exists():
        write_shards(tmp_path / "latents")
    dataset = Latents(tmp_path / "latents")
    batch = world_size * share
    streams = [BatchStream(dataset, batch, seed, rank=rank, world_size=world_size) for rank in range(world_size)]
    indices = torch.cat([stream.indices(step) for stream in streams])
    assert len(set(indices.tolist())) == batch
    x, labels = BatchStream(dataset, batch, seed)[step]
    shares = [stream[step] for stream in streams]
    dealt_in_turn = [torch.stack(parts, 1).flatten(0, 1) for parts in zip(*shares, strict=True)]
    assert torch.equal(dealt_in_turn[0], x)
    assert torch.equal(dealt_in_turn[1], labels)


def moments(index, flipped=False):
    mean = sample(index, flipped)
    return torch.cat([mean[: CHANNELS // 2], torch.full_like(mean[: CHANNELS // 2], -2.0)])


@pytest.mark.parametrize(("kind", "spread"), [("log_variance", float(np.exp(-1.0))), ("std", 2.0)])
def test_latents_are_drawn_from_moments(tmp_path, kind, spread):
    def make(index, flipped=False):
        stored = moments(index, flipped)
        return stored if kind == "log_variance" else torch.cat([stored[: CHANNELS // 2], -stored[CHANNELS // 2 :]])

    dataset = Latents(write_shards(tmp_path / "latents", make=make, flips=False), moments=kind)
    mean = make(4)[: CHANNELS // 2]
    assert dataset.info.shape == (CHANNELS // 2, HEIGHT, WIDTH)
    assert torch.equal(dataset[4][0], mean)
    draws = torch.stack([dataset.augmented(4, generator(seed))[0] for seed in range(400)])
    noise = (draws - mean) / spread
    assert abs(float(noise.mean())) < 0.08 and abs(float(noise.std()) - 1) < 0.05
    assert torch.equal(dataset.augmented(4, generator(1))[0], draws[1])


def test_extreme_log_variances_stay_finite(tmp_path):
    def make(index, flipped=False):
        return torch.cat([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 1e4)])

    dataset = Latents(write_shards(tmp_path / "latents", make=make), moments="log_variance")
    assert torch.isfinite(dataset.augmented(0, generator())[0]).all()


@pytest.mark.parametrize("suffix", [".json", ".safetensors", ".pt", None])
def test_statistics_beside_the_latents_or_as_arguments(tmp_path, suffix):
    folder = write_shards(tmp_path / "latents")
    mean, std = [1.0, -2.0, 0.5, 0.0], [2.0, 0.5, 1.0, 4.0]
    arguments = {"scale": 0.5}
    tensors = {"mean": torch.tensor(mean).reshape(1, 4, 1, 1), "std": torch.tensor(std).reshape(1, 4, 1, 1)}
    if suffix == ".json":
        (folder / "latents_stats.json").write_text(json.dumps({"mean": mean, "std": std}))
    elif suffix == ".safetensors":
        save_file(tensors, folder / "latents_stats.safetensors")
    elif suffix == ".pt":
        torch.save(tensors, folder / "latents_stats.pt")
    else:
        arguments |= {"mean": mean, "std": std}
    dataset = Latents(folder, **arguments)
    column = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    torch.testing.assert_close(dataset[2][0], (sample(2) - column[0]) / column[1] * 0.5, rtol=0, atol=1e-6)
    torch.testing.assert_close(dataset.info.normalisation.undo(dataset[2][0]), sample(2), rtol=0, atol=1e-5)


def test_the_scale_of_sd_vae(tmp_path):
    folder = write_shards(tmp_path / "latents")
    (folder / "latents_stats.json").write_text('{"mean": [1, 1, 1, 1], "std": [2, 2, 2, 2]}')
    dataset = Latents(folder, mean=0.0, std=1.0, scale=0.18215)
    torch.testing.assert_close(dataset[1][0], sample(1) * 0.18215)


def test_without_labels(tmp_path):
    dataset = Latents(write_shards(tmp_path / "latents", labels=False))
    assert dataset[0][1] == -1 and dataset.info.num_classes is None
    assert BatchStream(dataset, 4, seed=0)[0][1] is None


def replace_shard(folder, **tensors):
    save_file(tensors, folder / "latents_rank00_shard001.safetensors")


def test_names_what_is_wrong_with_a_shard(tmp_path):
    folder = write_shards(tmp_path / "latents")
    good = {"latents": stack(0, 3), "latents_flip": stack(0, 3, True), "labels": torch.zeros(3, dtype=torch.int64)}
    cases = [
        ({"latents_flip": good["latents_flip"]}, "no 'latents'"),
        (
            {"latents": good["latents"], "labels": good["labels"]},
            "must hold .*, as the first shard does, got .'labels', 'latents'.",
        ),
        ({**good, "latents": good["latents"][:, :2].contiguous()}, r"samples of shape \[2, 3, 2\]"),
        ({**good, "latents": good["latents"][0]}, r"must be \[N, C, H, W\]"),
        ({**good, "latents": good["latents"].int()}, "must be float16, bfloat16, float32, got int32"),
        ({**good, "latents_flip": good["latents_flip"][:2]}, r"'latents_flip' of .* must be .* got \[2, 4, 3, 2\]"),
        ({**good, "labels": good["labels"][:2]}, r"must be integers \[3\], got int64 \[2\]"),
        ({**good, "labels": good["labels"].float()}, "must be integers .*, got float32"),
        ({**good, "labels": good["labels"] - 1}, "labels must be from 0 to 2, .* got -1 to 2"),
    ]
    for tensors, message in cases:
        replace_shard(folder, **tensors)
        with pytest.raises(ValueError, match=message):
            Latents(folder)


def test_truncated_files(folder):
    patterns = ("*.safetensors", "*.tar", "latents.npy", "00000/*0.npy")
    victim = min(path for pattern in patterns for path in folder.glob(pattern))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2 - 9])
    with pytest.raises(ValueError, match=f"cannot (read|use) .*{victim.name}"):
        Latents(folder)


def test_values_that_are_not_finite(tmp_path):
    def make(index, flipped=False):
        return sample(index) / (0.0 if index == 6 and flipped else 1.0)

    dataset = Latents(write_shards(tmp_path / "latents", make=make))
    with pytest.raises(ValueError, match=r"row 1 of .*shard001\.safetensors holds values that are not finite"):
        [dataset.augmented(6, generator(seed)) for seed in range(20)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "/nowhere"}, "must be a folder that exists"),
        ({"layout": "zarr"}, "layout must be one of .*, got 'zarr'"),
        ({"layout": "webdataset"}, "path must hold .* with .'safetensors'. and layout"),
        ({"moments": "variance"}, "moments must be one of .*, got 'variance'"),
        ({"num_classes": 2}, "labels must be from 0 to 1, with num_classes 2, got 0 to 2"),
        ({"mean": 0.0}, "mean and std must both be given, or neither"),
        ({"mean": [0.0, 1.0], "std": 1.0}, "mean must hold 4 numbers, .* got 2"),
        ({"mean": 0.0, "std": 0.0}, r"std\[0\] must be a finite number above 0, got 0.0"),
        ({"mean": 0.0, "std": 1.0, "scale": float("nan")}, "scale.0. must be a finite number above 0, got nan"),
        ({"statistics": "stats.npy"}, "must end in one of"),
        ({"statistics": "stats.json"}, "must be a file that exists"),
        ({"statistics": "stats.json", "mean": 0.0, "std": 1.0}, "statistics must be left out where mean is given"),
    ],
)
def test_refuses(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Latents(**{"path": write_shards(tmp_path / "latents"), **arguments})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"mean": [0, 0, 0, 0]}', "cannot read the statistics.*std"),
        ('{"mean": [0, 0, 0, NaN], "std": [1, 1, 1, 1]}', r"mean\[3\] must be a finite number, got nan"),
        ('{"mean": [0, 0, 0, 0], "std": [1, 1, 1, -1]}', r"std\[3\] must be .* got -1"),
        ('{"mean": [0, 0, 0], "std": [1, 1, 1]}', "mean must hold 4 numbers, .* got 3"),
        ('{"mean": [[0, 0], [0, 0]], "std": [1, 1, 1, 1]}', "one number a channel"),
        ("{", "cannot read the statistics"),
    ],
)
def test_refuses_statistics(tmp_path, content, message):
    folder = write_shards(tmp_path / "latents")
    (folder / "latents_stats.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Latents(folder)


def test_loads_no_pickled_statistics(tmp_path):
    folder = write_shards(tmp_path / "latents")
    torch.save({"mean": Fraction(1, 2), "std": torch.ones(4)}, folder / "latents_stats.pt")
    with pytest.raises(ValueError, match="cannot read the statistics"):
        Latents(folder)


def test_an_odd_number_of_channels_holds_no_moments(tmp_path):
    def make(index, flipped=False):
        return sample(index)[:3]

    with pytest.raises(ValueError, match="must have an even number of stored channels, got 3"):
        Latents(write_shards(tmp_path / "latents", make=make), moments="std")


def test_negative_standard_deviations(tmp_path):
    dataset = Latents(write_shards(tmp_path / "latents", make=moments), moments="std")
    with pytest.raises(ValueError, match="they may be log variances"):
        dataset[0]


def test_two_layouts_in_one_folder(tmp_path):
    folder = write_shards(tmp_path / "latents")
    WRITERS["numpy"](folder)
    with pytest.raises(ValueError, match=r"with \['safetensors', 'numpy'\] and layout"):
        Latents(folder)
    assert len(Latents(folder, layout="numpy")) == len(Latents(folder, layout="safetensors")) == sum(COUNTS)
