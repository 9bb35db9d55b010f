import pytest
import torch

from rcgm.models.autoencoders import load_autoencoder
from tests.support.autoencoder_files import change_config, save_dc, save_kl

CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_kl(tmp_path):
    from diffusers import AutoencoderKL

    autoencoder = load_autoencoder(save_kl(tmp_path, latent_channels=32), device=CPU)
    assert (autoencoder.kind, autoencoder.factor, autoencoder.latent_channels) == ("AutoencoderKL", 2, 32)
    moments = autoencoder.encode(IMAGES)
    assert autoencoder.has_moments and moments.shape == (2, 64, 4, 6) and not moments.requires_grad
    network = AutoencoderKL.from_pretrained(tmp_path)
    assert torch.equal(moments[:, :32], network.encode(IMAGES).latent_dist.mean)
    images = autoencoder.decode(moments[:, :32])
    assert images.shape == IMAGES.shape and torch.equal(images, network.decode(moments[:, :32]).sample)


def test_dc(tmp_path):
    from diffusers import AutoencoderDC

    autoencoder = load_autoencoder(save_dc(tmp_path), device=CPU)
    latents = autoencoder.encode(IMAGES)
    assert not autoencoder.has_moments and autoencoder.factor == 2 and latents.shape == (2, 8, 4, 6)
    network = AutoencoderDC.from_pretrained(tmp_path)
    assert torch.equal(latents, network.encode(IMAGES).latent)
    assert torch.equal(autoencoder.decode(latents), network.decode(latents).sample)


def test_computes_in_bfloat16_and_answers_in_float32(tmp_path):
    exact = load_autoencoder(save_kl(tmp_path), device=CPU)
    rough = load_autoencoder(tmp_path, device=CPU, dtype=torch.bfloat16)
    moments = rough.encode(IMAGES)
    assert moments.dtype == torch.float32
    torch.testing.assert_close(moments, exact.encode(IMAGES), rtol=0.1, atol=0.1)


def test_the_hash_is_of_the_weights(tmp_path):
    one, other = save_kl(tmp_path / "a"), save_kl(tmp_path / "b", scale=2.0)
    again = save_kl(tmp_path / "c")
    hashes = [load_autoencoder(path, device=CPU).weights_hash() for path in (one, other, again)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_shapes(tmp_path):
    autoencoder = load_autoencoder(save_kl(tmp_path), device=CPU)
    with pytest.raises(ValueError, match=r"\[2, 1, 8, 12\]; .* needs \[B, 3, H, W\], H and W multiples of 2"):
        autoencoder.encode(IMAGES[:, :1])
    with pytest.raises(ValueError, match="multiples of 2"):
        autoencoder.encode(IMAGES[..., :-1])
    with pytest.raises(ValueError, match=r"latents have shape \[1, 3, 2, 2\]; .* needs \[B, 4, h, w\]"):
        autoencoder.decode(torch.zeros(1, 3, 2, 2))


def test_folders(tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder must be a folder with a config\.json and \*\.safetensors, got"):
        load_autoencoder(tmp_path, device=CPU)
    weights = save_kl(tmp_path / "a") / "diffusion_pytorch_model.safetensors"
    change_config(tmp_path / "a", latent_channels=8)
    with pytest.raises(ValueError, match="cannot load the AutoencoderKL in"):
        load_autoencoder(tmp_path / "a", device=CPU)
    change_config(tmp_path / "a", latent_channels=4)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="cannot load the AutoencoderKL in"):
        load_autoencoder(tmp_path / "a", device=CPU)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="pickled weights are not read"):
        load_autoencoder(tmp_path / "a", device=CPU)
    weights.with_suffix(".bin").rename(weights)
    change_config(tmp_path / "a", _class_name="UNet2DModel")
    with pytest.raises(ValueError, match=r"must be of one of .*, got 'UNet2DModel'"):
        load_autoencoder(tmp_path / "a", device=CPU)
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot read the class"):
        load_autoencoder(tmp_path / "a", device=CPU)
