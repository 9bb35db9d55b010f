import pytest

from rcgm.cli import main
from tests.support.autoencoder_files import save_kl, write_images


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    return save_kl(tmp_path_factory.mktemp("kl"))


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def encode():
    """Runs the command on a folder of images with shards of 4; returns its exit code."""

    def run(images, output, autoencoder, *words):
        arguments = ["encode", str(images), str(output), "--autoencoder", str(autoencoder), "--size", "8"]
        return main([*arguments, "--batch-size", "3", "--shard-size", "4", *words])

    return run
