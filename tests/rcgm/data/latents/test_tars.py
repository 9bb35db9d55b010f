import json
import os
import tarfile

import pytest
import torch
from safetensors.torch import save

from rcgm.data import Latents
from rcgm.data.latents import tar_index
from tests.support.latent_files import TOTAL, npy, sample, write_tar, write_tars


def sample_members(key="0", **changes):
    members = {"latents.npy": npy(sample(0)), "cls": b"1"} | changes
    return {f"{key}.{suffix}": content for suffix, content in members.items() if content is not None}


def test_the_index_is_made_once_and_anew_when_the_file_changes(tmp_path, monkeypatch):
    folder = write_tars(tmp_path / "latents")
    Latents(folder)
    built = []
    build = tar_index._build
    monkeypatch.setattr(tar_index, "_build", lambda tar: built.append(tar.name) or build(tar))
    Latents(folder)
    assert built == []
    changed = folder / "latents-0001.tar"
    os.utime(changed, ns=(1, 1))
    (folder / f"latents-0002.tar{tar_index.INDEX_SUFFIX}").write_bytes(b"damaged")
    dataset = Latents(folder)
    assert built == ["latents-0001.tar", "latents-0002.tar"]
    assert all(torch.equal(dataset[index][0], sample(index)) for index in range(TOTAL))


def test_the_index_can_be_kept_elsewhere(tmp_path):
    folder = write_tars(tmp_path / "latents")
    Latents(folder, index_folder=tmp_path / "indices")
    assert not list(folder.glob("*index")) and len(list((tmp_path / "indices").iterdir())) == 3
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write the index .*give another index_folder"):
        Latents(folder, index_folder=tmp_path / "file")


@pytest.mark.parametrize("flips", [False, True])
def test_safetensors_members_and_json_labels(tmp_path, flips):
    members = {}
    for index in range(3):
        tensors = {"latents": sample(index).bfloat16()} | ({"latents_flip": sample(index, True)} if flips else {})
        members[f"{index}.safetensors"] = save(tensors)
        members[f"{index}.json"] = json.dumps({"label": 2 - index}).encode()
    write_tar(tmp_path / "a.tar", members)
    dataset = Latents(tmp_path)
    assert torch.equal(dataset[1][0], sample(1)) and [dataset[index][1] for index in range(3)] == [2, 1, 0]
    drawn = [dataset.augmented(1, torch.Generator().manual_seed(seed))[0] for seed in range(20)]
    assert any(torch.equal(latents, sample(1, True)) for latents in drawn) == flips


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no files"),
        (sample_members(**{"latents.npy": None}), "holds no latents"),
        (sample_members(**{"latents.npy": None, "pth": b"x"}), "pickled .pt and .pth are not read"),
        (sample_members() | sample_members("1", cls=None), r"sample '1' of .* lacks \['cls'\]"),
        (sample_members(cls=b"cat"), "0.cls of .* needs an integer"),
        (sample_members(cls=None, json=b'{"label": "cat"}'), '0.json of .* needs an integer under the key "label"'),
        (sample_members(cls=None, json=b"{}"), "KeyError"),
        (sample_members(**{"latents.npy": b"no array"}), "cannot read the sample at byte"),
        (
            sample_members(**{"latents.npy": npy(torch.zeros(2, 2))}),
            r"must be \[C, H, W\], none of them 0, got \[2, 2\]",
        ),
        (
            sample_members(**{"latents.npy": npy(torch.zeros(1, 2, 2).long())}),
            "must be float16, bfloat16, float32, got int64",
        ),
    ],
)
def test_names_what_is_wrong(tmp_path, members, message):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        Latents(tmp_path)


def test_a_later_sample_of_another_shape(tmp_path):
    write_tar(tmp_path / "a.tar", sample_members() | sample_members("1", **{"latents.npy": npy(torch.zeros(1, 2, 2))}))
    with pytest.raises(ValueError, match=r"shape \[1, 2, 2\] and the first \[4, 3, 2\]"):
        Latents(tmp_path)[1]


def test_a_tar_that_breaks_off_between_two_samples(tmp_path):
    write_tar(tmp_path / "a.tar", sample_members() | sample_members("1"))
    with tarfile.open(tmp_path / "a.tar") as archive:
        end = archive.getmembers()[2].offset
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:end])
    with pytest.raises(ValueError, match=r"cannot read .*a\.tar: it breaks off before its end marker"):
        Latents(tmp_path)


def test_compressed_tars(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="as an uncompressed tar file"):
        Latents(tmp_path)


def test_tars_of_different_members(tmp_path):
    write_tar(tmp_path / "a.tar", sample_members())
    write_tar(tmp_path / "b.tar", sample_members(cls=None))
    with pytest.raises(ValueError, match="must all have members of the same kinds"):
        Latents(tmp_path)
