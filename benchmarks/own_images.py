"""configs/mnist.yaml on images of 28x28 pixels: scikit-learn's digits, scaled up.

    python -m benchmarks.own_images

Nothing is downloaded: MNIST itself is for the user to put into a folder. These digits are smoother than MNIST's and far
fewer; they are samples of 8x8 pixels, enlarged by a bicubic filter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import environment
from rcgm.config import load_config
from rcgm.training import train

CONFIG = Path(__file__).parents[1] / "configs" / "mnist.yaml"


def write_digits(folder: Path, size: int = 28) -> None:
    """Write scikit-learn's digits as images of ``size`` x ``size`` pixels, in a folder for each class."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        image.resize((size, size), Image.Resampling.BICUBIC).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=500, help="steps from one evaluation to the next (500)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "digits", Path(folder) / "run"
        write_digits(data)
        config = load_config(
            CONFIG, [f"data.root={data}", f"evaluate.every={options.every}", "logging.tensorboard=false"]
        )
        processor_seconds = -time.process_time()
        summary = train(config, run)
        processor_seconds += time.process_time()
        result = {
            "environment": environment.describe(torch.device("cpu")),
            "steps": summary["steps"],
            "train_seconds": summary["wall_time_seconds"],
            "processor_seconds": processor_seconds,
            "evaluations": json.loads((run / "evaluations.json").read_text(encoding="utf-8")),
        }
        print(f"written to {environment.write('own_images', result)}")
        shutil.copyfile(run / "training.png", environment.FIGURES / "own_images.png")


if __name__ == "__main__":
    main()
