"""Every file in configs/ starts: two steps at a reduced size, on small data in place of latents."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.own_images import write_digits
from rcgm.config import TrainConfig, load_config
from rcgm.training import train

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from tests.support.tiny_text import text_words

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

SHORT = (
    *("steps=2", "batch_size=8", "accumulate=1", "workers=0", "device=cpu", "precision=float32", "compile=false"),
    *("optimizer.warmup_steps=0", "checkpoint.every=2", "logging.every=1", "logging.tensorboard=false"),
    *("sample.every=0", "sample.decoder=null", "evaluate.at_end=false", "evaluate.every=0"),
    *("evaluate.features=null", "evaluate.reference=null"),
)
SMALL = {
    "dit": ("model.hidden_size=16", "model.depth=1", "model.num_heads=2", "model.frequency_size=16"),
    "mlp": ("model.width=8", "model.depth=1", "model.frequency_size=4"),
    "text_dit": ("model.hidden_size=16", "model.depth=1", "model.num_heads=2", "model.frequency_size=16"),
}


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "latents.npz"
    random = np.random.default_rng(0)
    samples = random.standard_normal((24, 4, 8, 8), dtype=np.float32)
    np.savez(path, samples=samples, labels=np.arange(24) % 5)
    return path


def reduced(name: str, latents: Path, folder: Path) -> TrainConfig:
    path = CONFIGS / f"{name}.yaml"
    published = load_config(path)
    words = [*SHORT, *SMALL.get(published.model.name, ())]
    if published.data.name == "latents":
        words.append(f"data={{name: arrays, path: {latents}}}")
    if published.data.name == "image_folder":
        write_digits(folder / "images")
        words.append(f"data.root={folder / 'images'}")
    if published.data.name == "encoded_pairs":
        words += text_words(published, folder)
    if published.teacher is not None and published.teacher.run is not None:
        teacher = Path(published.teacher.run).name  # the run of another file, by its default folder
        train(reduced(teacher, latents, folder), folder / teacher, show_progress=False)
        words.append(f"teacher.run={folder / teacher}")
    return load_config(path, words)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts(tmp_path, latents, name):
    torch.manual_seed(0)
    summary = train(reduced(name, latents, tmp_path), tmp_path / name, show_progress=False)
    assert summary["steps"] == 2
    assert np.isfinite(summary["final"]["loss"]) and summary["final"]["grad_norm"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_how_it_is_run(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert len(head) >= 2
    assert any(f"train configs/{name}.yaml" in line for line in head)


@pytest.mark.parametrize(
    ("name", "shape", "tokens"),
    [
        ("imagenet256_sd_vae", (4, 32, 32), 256),
        ("imagenet256_va_vae", (32, 16, 16), 256),
        ("imagenet512_dc_ae", (32, 16, 16), 256),
        ("imagenet256_mean_flow_b4", (4, 32, 32), 64),
    ],
)
def test_networks_have_the_published_size(name, shape, tokens):
    from rcgm.config import build_model_from, fit_to_data
    from rcgm.data import DataInfo

    config = fit_to_data(load_config(CONFIGS / f"{name}.yaml"), DataInfo(shape, 1000, "images"))
    with torch.device("meta"):
        network = build_model_from(config)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(131 if name.endswith("b4") else 675, rel=0.02)
    height, width = network.input_size
    assert (height // network.patch_size) * (width // network.patch_size) == tokens
