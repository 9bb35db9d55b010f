"""Autoencoders of random weights and folders of images, small, in the layouts that are met in practice."""

import json

import numpy as np
import torch
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def save_kl(path, *, in_channels=3, latent_channels=4, scale=1.0, shortcut=False):
    """SD-VAE's and VA-VAE's class; one downsampling."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        in_channels=in_channels,
        out_channels=in_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        network.quant_conv.weight *= scale
    network.save_pretrained(path, safe_serialization=True)
    return path


def save_dc(path):
    """DC-AE's class; one downsampling."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    ).save_pretrained(path, safe_serialization=True)
    return path


def write_images(folder, counts=(4, 2, 5), size=(10, 8)):
    """One sub-folder a class, of pictures of noise."""
    random = np.random.default_rng(0)
    for name, count in zip(CLASSES, counts, strict=False):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def change_config(path, **changes):
    """Overwrite keys of an autoencoder's config.json."""
    content = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(content))
