"""From a run to a stock pipeline by `rcgm export`: its images are those of the samples of the run."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from rcgm.cli import main
from rcgm.networks import few_step
from rcgm.networks.pipelines import PIPELINES, TextPipeline
from rcgm.networks.stock import stock_class
from rcgm.runs import PromptCaptions, load_run
from rcgm.seeds import Purpose, seeded_generator
from tests.support.prompt_run import LENGTH, prompt_run
from tests.support.stock_images import stock_images

CPU = torch.device("cpu")
SIZE = 16, 16
"""Of latents: the stock pipeline of SANA takes sides of 32 pixels and their multiples."""
PROMPTS = ["a red three", "two blue nines"]
# steps so large that two of them are seen
FAST = {"optimizer": {"name": "adamw", "lr": 0.05}, "ema": {"decay": 0.1}}
LORA = {**FAST, "tune": "lora", "lora": {"rank": 2, "alpha": 3}}


def assert_same_images(root, family, pipeline, guidance=None):
    run = load_run(root / "run", device=CPU)
    text = TextPipeline.from_pretrained(family, root / family, length=LENGTH)
    captions = PromptCaptions(text, PROMPTS)
    generators = [seeded_generator(0, Purpose.SAMPLING, key) for key in captions.noise_keys(range(2))]
    noise = torch.stack([torch.randn(4, *SIZE, generator=generator) for generator in generators])
    pipeline.set_progress_bar_config(disable=True)
    options = {"max_sequence_length": LENGTH, **({} if guidance is None else {"guidance_scale": guidance})}
    seen = []
    for steps in (1, 2, 4):
        latents = run.sampler(captions=captions, guidance=guidance or 1.0, size=SIZE).draw(2, steps=steps)
        expected = (text.decode_latents(latents) / 2 + 0.5).clamp(0, 1)
        found = stock_images(family, pipeline, PROMPTS, noise, steps, **options)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        seen.append(found)
    assert (seen[0] - seen[2]).abs().max() > 0.01


@pytest.mark.parametrize("family", ["sana", "sd3"])
def test_adapters(tmp_path, family):
    prompt_run(tmp_path, family=family, **LORA)
    folder = tmp_path / "few_step"
    assert main(["export", str(tmp_path / "run"), "--output", str(folder), "--lora", "--device", "cpu"]) == 0
    pipeline = stock_class(PIPELINES[family].STOCK).from_pretrained(tmp_path / family)
    pipeline.load_lora_weights(folder)
    assert_same_images(tmp_path, family, few_step(pipeline, folder))
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "merged"), "--device", "cpu"]) == 0
    assert (tmp_path / "merged" / "transformer" / "config.json").is_file()
    assert not (tmp_path / "merged" / "model_index.json").exists()


@pytest.mark.parametrize("family", ["sana", "sd3"])
def test_all_weights_with_the_whole_pipeline_and_guidance(tmp_path, family):
    prompt_run(tmp_path, family=family, **FAST)
    folder = tmp_path / "few_step"
    assert main(["export", str(tmp_path / "run"), "--output", str(folder), "--whole", "--device", "cpu"]) == 0
    pipeline = few_step(stock_class(PIPELINES[family].STOCK).from_pretrained(folder), folder)
    assert_same_images(tmp_path, family, pipeline)
    assert_same_images(tmp_path, family, pipeline, guidance=3.0)


def test_what_does_not_fit_the_run_is_refused(tmp_path, capsys):
    prompt_run(tmp_path)
    export = ["export", str(tmp_path / "run"), "--device", "cpu", "--output"]
    for options, message in (
        ([str(tmp_path / "out"), "--lora"], "lora must be left out for a run with tune full"),
        ([str(tmp_path / "out.safetensors"), "--whole"], "whole needs a folder, got the file"),
    ):
        assert main([*export, *options]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_another_transport_is_not_for_diffusers(tmp_path, capsys):
    prompt_run(tmp_path, objective={"name": "rcgm", "order": 2, "transport": "trigflow"})
    assert main(["export", str(tmp_path / "run"), "--device", "cpu", "--output", str(tmp_path / "out")]) == 2
    assert "objective.transport must be linear for the pipelines of diffusers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
