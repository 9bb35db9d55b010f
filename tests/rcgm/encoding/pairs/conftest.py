"""Small images with captions, encoded once for the tests of a file."""

import pytest
import torch

from tests.support.image_pairs import encode, write_images


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums have another order with another number of threads, and shards are compared byte by byte."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    from tests.support.tiny_pipelines import tiny_pipeline  # needs diffusers, without which the tests are left out

    root = tmp_path_factory.mktemp("pipelines")
    for name in ("sana", "sd3", "hunyuan_image"):
        tiny_pipeline(name).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def encoded(pipelines, tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_images(root / "images")
    encode(pipelines, root / "images", root / "out")
    return root
