"""Latents, lists and indices that somebody else has written, by mistake or to do harm."""

import io
import itertools
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rcgm.data import Arrays, BatchStream, Latents
from rcgm.data.latents.tar_index import INDEX_SUFFIX
from tests.support.latent_files import TOTAL, npy, sample, write_numpy, write_numpy_files, write_shards, write_tars


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/secret.npy", "00000/../../secret.npy", "C:\\secret.npy", ""])
def test_a_list_does_not_lead_out_of_its_folder(tmp_path, name):
    folder = write_numpy_files(tmp_path / "latents")
    np.save(tmp_path / "secret.npy", sample(0).numpy())
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, 0]]}))
    with pytest.raises(ValueError, match=r"files in .*dataset\.json must lie below its folder, got "):
        Latents(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"labels": [["00000/a.npy", 1e400]]}', '{"labels": 3}'])
def test_a_list_that_is_no_list_is_named(tmp_path, text):
    folder = write_numpy_files(tmp_path)
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        Latents(folder)


def test_labels_beyond_64_bits_are_named(tmp_path):
    folder = write_numpy_files(tmp_path)
    (folder / "dataset.json").write_text(json.dumps({"labels": [["00000/img-mean-std-00000000.npy", 10**30]]}))
    with pytest.raises(ValueError, match=r"labels must fit into 64 bits, got 1\.000e\+30 in .*dataset\.json"):
        Latents(folder)


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = write_numpy_files(tmp_path)
    os.mkfifo(folder / "00000" / "pipe.npy")
    (folder / "dataset.json").write_text(json.dumps({"labels": [["00000/pipe.npy", 0]]}))
    with pytest.raises(ValueError, match="it is no file that exists"):
        Latents(folder)


def forge(path, **changes):
    """Write an index that passes for the right one, with other content."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    tensors |= {name: value for name, value in changes.items() if isinstance(value, torch.Tensor)}
    metadata |= {name: value for name, value in changes.items() if isinstance(value, str)}
    save_file(tensors, path, metadata)


def table(offset, size, count=5):
    return torch.tensor([[offset, size]] * count)


@pytest.mark.parametrize(
    "changes",
    [
        {"latents": table(-1, 10)},
        {"latents": table(512, 2**62)},
        {"latents": table(2**62, 2**62)},
        {"latents": table(512, 0)},
        {"latents": table(512, 10).float()},
        {"latents": torch.zeros(5)},
        {"latents": torch.zeros(0, 2, dtype=torch.int64)},
        {"flips": table(2**40, 10)},
        {"labels": torch.zeros(7, dtype=torch.int64)},
        {"labels": torch.zeros(5)},
        {"suffix": "pth"},
    ],
)
def test_an_index_that_does_not_fit_its_tar_file_is_made_anew(tmp_path, changes):
    folder = write_tars(tmp_path)
    Latents(folder)
    forge(folder / f"latents-0000.tar{INDEX_SUFFIX}", **changes)
    dataset = Latents(folder)
    assert len(dataset) == TOTAL and all(torch.equal(dataset[index][0], sample(index)) for index in range(TOTAL))
    assert dataset.labels.tolist() == [index % 3 for index in range(TOTAL)]


def test_sparse_members_and_long_labels_are_refused(tmp_path):
    content = npy(sample(0))
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        header = tarfile.TarInfo("0.latents.npy")
        header.size = len(content)
        header.pax_headers = {"GNU.sparse.map": f"0,{len(content)}", "GNU.sparse.size": str(2**40)}
        archive.addfile(header, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"'0\.latents\.npy' is stored as a sparse file"):
        Latents(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, body in (("0.latents.npy", content), ("0.cls", b"1" + b" " * (1 << 20))):
            header = tarfile.TarInfo(name)
            header.size = len(body)
            archive.addfile(header, io.BytesIO(body))
    with pytest.raises(ValueError, match=r"0\.cls of .* needs an integer: .*it has 1048577 bytes"):
        Latents(tmp_path)


@pytest.mark.parametrize("change", [{"samples": "17"}, {"classes": [1, 2]}, {"classes": None}])
def test_a_manifest_of_other_types_is_named(tmp_path, change):
    folder = write_shards(tmp_path)
    manifest = {"moments": "none", "classes": [], "samples": TOTAL} | change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"cannot read the manifest .*manifest\.json"):
        Latents(folder)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("write", [write_shards, write_numpy])
def test_latents_that_are_cut_short_while_read_end_in_a_message(tmp_path, write):
    folder = write(tmp_path)
    dataset = Latents(folder)
    for path in folder.glob("latents*"):
        cut(path)
    with pytest.raises(ValueError, match=r"must stay whole while it is read, got \d+ bytes instead of \d+"):
        dataset[TOTAL - 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_arrays_that_are_cut_short_while_read_end_in_a_message(tmp_path, name, workers):
    rows = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / name
    np.save(path, rows.numpy()) if name == "x.npy" else save_file({"x": rows}, path)
    batches = iter(BatchStream(Arrays(path), 64, seed=0, workers=workers))
    next(batches)
    cut(path)
    with pytest.raises(ValueError, match="must stay whole while it is read"):
        list(itertools.islice(batches, 10))  # workers have read some batches ahead


def test_a_file_that_is_replaced_or_removed_is_read_on(tmp_path):
    path = tmp_path / "x.npy"
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.save(path, rows)
    dataset = Arrays(path)
    np.save(tmp_path / "new.npy", rows[:3])
    (tmp_path / "new.npy").replace(path)
    assert torch.equal(dataset[99][0], torch.from_numpy(rows[99]))
    path.unlink()
    assert torch.equal(dataset[98][0], torch.from_numpy(rows[98]))
