import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.data import DATASETS, DataInfo, build_dataset
from tests.support.encoded_pairs import write_pairs


@pytest.fixture
def arguments(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3, 2))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    (tmp_path / "latents").mkdir()
    np.save(tmp_path / "latents" / "latents.npy", np.zeros((3, 4, 2, 2), dtype=np.float32))
    write_pairs(tmp_path / "pairs")
    return {
        "two_moons": {"size": 10},
        "s_curve": {"size": 10},
        "swiss_roll": {"size": 10},
        "digits": {},
        "image_folder": {"root": str(tmp_path / "images"), "size": 2},
        "arrays": {"path": str(tmp_path / "x.npy")},
        "latents": {"path": str(tmp_path / "latents")},
        "encoded_pairs": {"path": str(tmp_path / "pairs")},
    }


@pytest.mark.parametrize("name", DATASETS)
def test_builds_every_kind(name, arguments):
    data = build_dataset(name, **arguments[name])
    assert isinstance(data, DATASETS[name]) and isinstance(data.info, DataInfo)
    sample, label = data[0]
    assert tuple(sample.shape) == data.info.shape and sample.dtype == torch.float32
    if data.info.text is None:
        assert type(label) is int and (label == -1) == (data.info.num_classes is None)
    else:
        assert {name: tuple(tensor.shape) for name, tensor in label.items()} == data.info.text.tensors


def test_refuses_names_and_arguments():
    with pytest.raises(ValueError, match=r"name must be one of two_moons, .* got 'moons'"):
        build_dataset("moons")
    with pytest.raises(TypeError, match=r"data set 'two_moons': .*'points'; it takes \['size', 'noise'"):
        build_dataset("two_moons", points=3)
    with pytest.raises(TypeError, match="data set 'image_folder': missing a required argument: 'root'"):
        build_dataset("image_folder", size=3)
