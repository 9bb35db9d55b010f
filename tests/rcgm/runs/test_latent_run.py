"""From a folder of images to samples: encode, train, resume, sample with decoding."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.cli import main
from rcgm.config import ConfigError
from rcgm.data import DataInfo, Latents, Normalisation
from rcgm.models.autoencoders import load_autoencoder
from rcgm.runs import load_run, measures
from rcgm.runs.decoding import Decoder
from tests.support.autoencoder_files import save_dc, save_kl, write_images

CPU = torch.device("cpu")

CONFIG = """
steps: 6
batch_size: 4
data: {{name: latents, path: {latents}}}
model: {{name: dit, preset: nano/2}}
objective: {{name: rcgm, order: 2}}
ema: {{decay: 0.9}}
checkpoint: {{every: 3, keep: 3}}
logging: {{every: 2, tensorboard: false}}
sample: {{every: 3, steps: [1], count: 6, decoder: {autoencoder}}}
evaluate: {{at_end: false}}
"""


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return save_kl(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory, autoencoder):
    """Eleven images of three classes, encoded by the command."""
    folder = tmp_path_factory.mktemp("latents")
    write_images(folder / "images")
    words = ["encode", folder / "images", folder / "out", "--autoencoder", autoencoder, "--size", 8, "--shard-size", 4]
    assert main(list(map(str, words))) == 0
    return folder / "out"


@pytest.fixture
def config(tmp_path, latents, autoencoder):
    path = tmp_path / "latent.yaml"
    path.write_text(CONFIG.format(latents=latents, autoencoder=autoencoder))
    return path


def train(config, output, *words):
    return main(["train", str(config), "--output", str(output), *words])


def tensors(run):
    return {
        f"{weights}/{name}": tensor
        for weights in ("student", "ema")
        for name, tensor in load_run(run, device=CPU, step=6, weights=weights).network.state_dict().items()
    }


def test_trains_resumes_exactly_and_samples_images(config, tmp_path, autoencoder, latents):
    assert train(config, tmp_path / "whole") == 0
    assert train(config, tmp_path / "parts", "steps=3") == 0
    assert train(config, tmp_path / "parts", "--resume", "workers=1") == 0
    losses = [(tmp_path / name / "summary.json").read_text() for name in ("whole", "parts")]
    assert json.loads(losses[0])["final"]["loss"] == json.loads(losses[1])["final"]["loss"]
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole and whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    picture, arrays = tmp_path / "samples.png", tmp_path / "samples.npz"
    words = ["--steps", "1,2", "--count", "5", "--output", picture, "--npz", arrays]
    assert main(list(map(str, ["sample", tmp_path / "whole", *words]))) == 0
    with Image.open(picture) as image:
        assert image.width > 100
    with np.load(arrays) as samples:
        assert sorted(samples) == ["images_1", "images_2", "labels", "steps_1", "steps_2"]
        assert samples["steps_1"].shape == (5, 4, 4, 4) and samples["labels"].tolist() == [0, 1, 2, 0, 1]
        decoded = load_autoencoder(autoencoder, device=CPU).decode(torch.from_numpy(samples["steps_2"])).clamp(-1, 1)
        np.testing.assert_allclose(samples["images_2"], decoded.numpy(), atol=1e-5)
        # The network's own coordinates have unit variance; these are the autoencoder's.
        assert samples["steps_1"].std() < 2 * max(Latents(latents).info.normalisation.std)


def test_without_a_decoder_three_channels_are_drawn(config, tmp_path):
    assert train(config, tmp_path / "run", "sample.decoder=null", "steps=3") == 0
    drawn = tmp_path / "run" / "samples" / "step_00000003.png"
    assert drawn.is_file()
    words = ["sample", tmp_path / "run", "--count", 3, "--output", tmp_path / "a.png", "--npz", tmp_path / "a.npz"]
    assert main(list(map(str, words))) == 0
    with np.load(tmp_path / "a.npz") as samples:
        assert "images_1" not in samples and samples["steps_1"].shape == (3, 4, 4, 4)


def test_decoded_images_are_judged(config, tmp_path, capsys, monkeypatch):
    seen = []

    def network(images):
        seen.append(images)
        features = images.float().flatten(1)[:, ::19] / 255
        return features, features[:, :4]

    monkeypatch.setattr(measures, "load_inception", lambda path, device: network)
    settings = "evaluate={features: inception.pth, at_end: true, steps: [1], count: 12}"
    assert train(config, tmp_path / "run", "steps=3", settings) == 0
    assert all(images.dtype == torch.uint8 and images.shape[1:] == (3, 8, 8) for images in seen)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "1", "--count", "12"]) == 0
    measured = json.loads(capsys.readouterr().out)["steps"]
    assert measured == json.loads((tmp_path / "run" / "summary.json").read_text())["evaluation"]
    assert train(config, tmp_path / "other", "steps=3", settings, "sample.decoder=null") == 2
    assert "of latents, set the decoder (sample.decoder)" in capsys.readouterr().err


def test_a_decoder_that_does_not_fit_ends_the_run_at_once(config, tmp_path, capsys):
    other = save_dc(tmp_path / "dc")
    assert train(config, tmp_path / "run", f"sample.decoder={other}") == 2
    assert "decodes latents of 8 channels, the data have 4" in capsys.readouterr().err
    assert train(config, tmp_path / "run", "sample.decoder=/nowhere") == 2
    assert "decoder: autoencoder must be a folder" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_decoding_undoes_the_normalisation(autoencoder):
    normalisation = Normalisation((1.0, -1.0, 0.0, 2.0), (0.5, 2.0, 1.0, 3.0), 0.5)
    info = DataInfo((4, 2, 2), None, "images", normalisation=normalisation)
    latents = torch.randn(40, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    images = Decoder(autoencoder, info, CPU)(normalisation.apply(latents))
    expected = load_autoencoder(autoencoder, device=CPU).decode(latents).clamp(-1, 1)
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="decoder must be left out for data that are no latents"):
        Decoder(autoencoder, DataInfo((4, 2, 2), None, "images"), CPU)
