import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.data import (
    Arrays,
    Digits,
    ImageFolder,
    Latents,
    TwoMoons,
    data_fingerprint,
    fingerprint_differences,
)
from tests.support.latent_files import write_shards


def differences(one, other):
    return fingerprint_differences(data_fingerprint(one), data_fingerprint(other))


def write_folder(root, classes=("ant", "cat"), count=3, value=0):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((4, 4, 3), number * 40 + value, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_it_is_plain_and_survives_json(tmp_path):
    for dataset in (Digits(), TwoMoons(100, labels=True), ImageFolder(write_folder(tmp_path), 4)):
        found = data_fingerprint(dataset)
        assert json.loads(json.dumps(found)) == found
        assert found["samples"] == len(dataset) and found["shape"] == list(dataset.info.shape)


def test_a_moved_folder_is_the_same_data(tmp_path):
    write_folder(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "deep" / "there")
    assert differences(ImageFolder(tmp_path / "here", 4), ImageFolder(tmp_path / "deep" / "there", 4)) == []


def test_a_renamed_class_is_found(tmp_path):
    before = data_fingerprint(ImageFolder(write_folder(tmp_path), 4))
    (tmp_path / "ant").rename(tmp_path / "zebra")  # which moves every label by one
    found = fingerprint_differences(before, data_fingerprint(ImageFolder(tmp_path, 4)))
    assert found[0] == "class_names lack ['ant'] and hold ['zebra'] instead"
    assert "names of some files differ" in found


def test_fewer_and_replaced_images_are_found(tmp_path):
    write_folder(tmp_path)
    before = data_fingerprint(ImageFolder(tmp_path, 4))
    Image.fromarray(np.full((4, 4, 3), 99, dtype=np.uint8)).save(tmp_path / "cat" / "1.png")
    found = fingerprint_differences(before, data_fingerprint(ImageFolder(tmp_path, 4)))
    assert "content of some samples differs" in found
    (tmp_path / "cat" / "1.png").unlink()
    found = fingerprint_differences(before, data_fingerprint(ImageFolder(tmp_path, 4)))
    assert "samples was 6 and is 5" in found and "labels of some samples differ" in found


def test_one_replaced_image_of_many_is_found_by_its_size(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.png").write_bytes(b"x" * 10)
    before = data_fingerprint(ImageFolder(tmp_path, 4))
    (tmp_path / "101.png").write_bytes(b"x" * 11)  # not one of those whose content is read
    found = fingerprint_differences(before, data_fingerprint(ImageFolder(tmp_path, 4)))
    assert found == ["sizes of some files differ"]


def test_reordered_rows_are_found(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows[::-1])
    np.savez(tmp_path / "a.npz", x=rows)
    assert differences(Arrays(tmp_path / "a.npy"), Arrays(tmp_path / "b.npy")) == ["content of some samples differs"]
    assert differences(Arrays(tmp_path / "a.npy"), Arrays(tmp_path / "a.npz")) == []


def test_latents_with_other_statistics_are_found(tmp_path):
    folder = write_shards(tmp_path)
    assert differences(Latents(folder), Latents(folder)) == []
    (found,) = differences(Latents(folder), Latents(folder, mean=0.0, std=2.0))
    assert found.startswith("normalisation was ")


def test_points_are_known_by_what_they_are_drawn_from():
    assert differences(TwoMoons(100), TwoMoons(100)) == []
    assert differences(TwoMoons(100), TwoMoons(100, seed=1))[0].startswith("drawn was ")


@pytest.mark.parametrize("changed", [0, 19])
def test_a_data_set_of_ones_own_needs_no_method(changed):
    class Own:
        info = TwoMoons(20).info

        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return self.samples[index], -1

    samples = torch.zeros(20, 2)
    other = samples.clone()
    other[changed] = 1
    assert differences(Own(samples), Own(samples)) == []
    assert differences(Own(samples), Own(other)) == ["content of some samples differs"]


def test_entries_of_one_side_are_not_compared():
    assert fingerprint_differences({"samples": 3, "old": 1}, {"samples": 3, "new": 2}) == []
