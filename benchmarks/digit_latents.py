"""Writes the digits as a folder of images with an autoencoder, and measures a network trained on its latents.

python -m benchmarks.digit_latents prepare     writes images/ and autoencoder/ into runs/digit_latents
python -m benchmarks.digit_latents measure     reads runs/digits_latent; configs/digits_latent.yaml has the commands
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks import environment
from rcgm.data import Digits
from rcgm.evaluation import DigitReference
from rcgm.models.autoencoders import load_autoencoder
from rcgm.runs import load_run
from rcgm.runs.decoding import Decoder
from rcgm.seeds import Purpose

FOLDER = Path("runs/digit_latents")
COUNT = 2000


def write_images(folder: Path) -> None:
    """The digits as grey PNG files, in one sub-folder a class."""
    digits = Digits()
    pixels = digits.samples.add(1).mul(127.5).round().byte().squeeze(1).numpy()
    for index, label in enumerate(digits.labels.tolist()):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(path)


def train_autoencoder(path: Path, *, steps: int = 600, seed: int = 0) -> float:
    """Train an AutoencoderKL from 8x8 pixels to 4x4 latents of 4 channels and save it in the layout of diffusers.

    Squared error, with as little of the KL divergence as keeps the latents' scale near 1.

    Returns:
        The root of the mean squared error of reconstructions, in units of the pixels' range of 2.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    network = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    images = Digits().samples
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        posterior = network.encode(batch).latent_dist
        reconstruction = network.decode(posterior.sample(generator)).sample
        loss = (reconstruction - batch).square().mean() + 1e-4 * posterior.kl().mean() / batch[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.save_pretrained(path, safe_serialization=True)
    return reconstruction_error(path, images)


def reconstruction_error(path: Path, images: Tensor) -> float:
    """The root of the mean squared error of images that an autoencoder encodes to means and decodes."""
    autoencoder = load_autoencoder(path, device=torch.device("cpu"))
    means = autoencoder.encode(images)[:, : autoencoder.latent_channels]
    return float((autoencoder.decode(means) - images).square().mean().sqrt())


def measure(run_folder: Path, autoencoder: Path) -> dict:
    """What samples of a run are like after decoding, in 1, 2 and 4 steps, and what the real digits are after it."""
    device = torch.device("cpu")
    run = load_run(run_folder, device=device)
    decode = Decoder(autoencoder, run.info, device)
    sampler = run.sampler(purpose=Purpose.EVALUATION)
    reference = DigitReference()
    report = {}
    for steps in (1, 2, 4):
        samples = sampler.draw(COUNT, steps=steps)
        report[str(steps)] = reference.evaluate(decode(samples), sampler.labels(range(COUNT)))
    digits = Digits()
    network = load_autoencoder(autoencoder, device=device)
    means = network.encode(digits.samples)[:, : network.latent_channels]
    report["reconstructions"] = reference.evaluate(network.decode(means), digits.labels)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "measure"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--run", type=Path, default=Path("runs/digits_latent"))
    options = parser.parse_args()
    if options.action == "prepare":
        write_images(options.folder / "images")
        error = train_autoencoder(options.folder / "autoencoder")
        print(f"images and autoencoder in {options.folder}; reconstructions differ by {error:.3f} (pixels span 2)")
        return
    summary = json.loads((options.run / "summary.json").read_text(encoding="utf-8"))
    result = {
        "environment": environment.describe(torch.device("cpu")),
        "steps": summary["steps"],
        "train_seconds": summary["wall_time_seconds"],
        "config": summary["config"],
        "metrics": measure(options.run, options.folder / "autoencoder"),
    }
    print(json.dumps(result["metrics"], indent=2))
    print(f"written to {environment.write('digit_latents', result)}")


if __name__ == "__main__":
    main()
