"""Runs on encoded pairs of two shapes: resumed exactly, shared by two processes, drawn with their captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rcgm.cli import main
from rcgm.config import ConfigError, parse_config
from rcgm.config.registries import REGISTRIES, arguments_from_data
from rcgm.config.yaml_text import dump_yaml
from rcgm.data import EncodedPairs
from rcgm.engine import conditions
from rcgm.runs import load_run
from rcgm.runs.checkpoint import latest_checkpoint, read_checkpoint
from rcgm.runs.conditions import DataCaptions
from rcgm.runs.image_measure import ImageMeasure
from rcgm.training import train
from tests.support.launching import run_ranks
from tests.support.runs import train_in_turn
from tests.support.same_run import assert_same_run, losses
from tests.support.stopping import train_and_stop

pytest.importorskip("diffusers")

from tests.support.text_run import SHAPES, text_run


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return text_run(tmp_path_factory.mktemp("pairs"))


def test_a_run_that_is_killed_goes_on_exactly(tmp_path, values, monkeypatch, capsys):
    config = parse_config(values)
    summary = train(config, tmp_path / "straight")
    said = capsys.readouterr().err
    assert "data: 16 latents with captions of 4 x 4 x 6" in said
    assert "batches: 3 of 4 in an epoch, each of one shape; 4 samples are left out, others in each epoch" in said
    assert summary["evaluation"] == {}  # what measures there are need classes
    seen = []

    def look(step, x, cond):
        seen.append((tuple(x.shape[1:]), {name: tuple(tensor.shape[1:]) for name, tensor in cond.items()}))

    train_and_stop(config, tmp_path / "stopped", monkeypatch, at=6, look=look)
    assert {shape for shape, _ in seen} == set(SHAPES)
    assert all(cond == {"text": (5, 6), "mask": (5,)} for _, cond in seen)
    train(config, tmp_path / "stopped", resume=True, show_progress=False)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_dropped_captions_become_the_empty_one(tmp_path, values, monkeypatch):
    given = []
    original = conditions.dropped

    def watch(condition, null, drop):
        result = original(condition, null, drop)
        given.append((condition, null, drop, result))
        return result

    monkeypatch.setattr(conditions, "dropped", watch)
    train(parse_config({**values, "steps": 3, "sample": {"every": 0}}), tmp_path, show_progress=False)
    null = EncodedPairs(values["data"]["path"]).null_cond
    assert any(bool(drop.any()) for _, _, drop, _ in given)
    for condition, _, drop, result in given:
        for name, tensor in result.items():
            for row in range(4):
                assert torch.equal(tensor[row], null[name][0] if drop[row] else condition[name][row])


def test_two_processes_make_the_run_of_one(tmp_path, values):
    # with a large eps the step is proportional to the gradient, and rounding stays what it is
    optimizer = {"lr": 0.1, "eps": 1.0, "clip_grad_norm": 1.0}
    sample = {"every": 6, "count": 3, "steps": [1]}
    config = tmp_path / "text.yaml"
    config.write_text(dump_yaml({**values, "steps": 6, "optimizer": optimizer, "sample": sample}))
    assert main(["train", str(config), "--output", str(tmp_path / "one")]) == 0
    arguments = [str(config), "accumulate=2", "--output", str(tmp_path / "two")]
    run_ranks(train_in_turn, (arguments,), 2, tmp_path)
    for row, own in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert row["loss"] == pytest.approx(own["loss"], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(own["grad_norm"], rel=1e-4)
    one, two = (read_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("one", "two"))
    for key, tensor in one.tensors["student"].items():
        torch.testing.assert_close(tensor, two.tensors["student"][key], rtol=1e-4, atol=1e-5)
    assert (tmp_path / "two/samples/step_00000006.png").is_file()


def test_samples_have_the_first_captions_of_the_data(tmp_path, values, capsys):
    train(
        parse_config({**values, "steps": 2, "sample": {"every": 2, "count": 5, "steps": [1]}}),
        tmp_path,
        show_progress=False,
    )
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1
    run = load_run(tmp_path, device=torch.device("cpu"))
    dataset = EncodedPairs(values["data"]["path"])
    assert run.info == dataset.info
    captions = DataCaptions(dataset)
    sampler = run.sampler(captions=captions, guidance=2.0)
    assert sampler.texts(range(14, 18)) == ["caption 1.5", "caption 1.6", "caption 0.0", "caption 0.1"]
    whole = sampler.draw(5, steps=2)
    assert whole.shape == (5, *SHAPES[0])
    torch.testing.assert_close(sampler(range(3, 5), steps=2), whole[3:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run.sampler(captions=captions).draw(5, steps=2), whole)
    with pytest.raises(ValueError, match="captions must be given for a network that takes text"):
        run.sampler()
    output, arrays = tmp_path / "drawn.png", tmp_path / "drawn.npz"
    assert main(["sample", str(tmp_path), "--count", "5", "--steps", "2", "--guidance", "2", "--device", "cpu",
                 "--output", str(output), "--npz", str(arrays), "--data"]) == 0  # fmt: skip
    torch.testing.assert_close(torch.from_numpy(np.load(arrays)["steps_2"]), whole, rtol=1e-4, atol=1e-5)
    assert Image.open(output).width > 0
    assert main(["evaluate", str(tmp_path), "--device", "cpu"]) == 2
    assert "there is no measure for the data 'encoded_pairs'" in capsys.readouterr().err


def test_samples_with_captions_are_judged_as_images(values):
    dataset = EncodedPairs(values["data"]["path"])
    asked = []

    def sampler(rows, *, steps):
        asked.extend(rows)
        return torch.randn(len(rows), *dataset.info.shape, generator=torch.Generator().manual_seed(rows.start))

    def judge(images):
        features = images.float().mean((2, 3))
        return features, features

    measure = ImageMeasure(
        judge, dataset, device=torch.device("cpu"), batch_size=4, decode=lambda latents: latents[:, :3].tanh()
    )
    report = measure(sampler, 12, steps=1)
    assert asked == list(range(12))
    # those of the shape that the samples have
    assert report["samples"] == 12 and report["reference_samples"] == 9


def test_networks_and_data_that_do_not_fit_are_refused_before_the_first_step(tmp_path, values):
    for changes, message in (
        ({"data": {"name": "two_moons"}, "objective": {"name": "rcgm"}}, "model sana needs images with captions"),
        ({"model": {"name": "mlp", "width": 8}}, "model mlp takes no captions, and the data have some"),
        (
            {"model": {**values["model"], "name": "sd3"}},
            "model sd3 needs the conditions text, pooled, the data have text, mask",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            train(parse_config({**values, **changes}), tmp_path / "run", show_progress=False)


def test_damaged_text_in_a_checkpoint_is_named(tmp_path, values):
    from rcgm.runs.loading import data_info_from_plain, data_info_to_plain

    info = EncodedPairs(values["data"]["path"]).info
    plain = json.loads(json.dumps(data_info_to_plain(info)))
    assert data_info_from_plain(plain) == info
    assert arguments_from_data(REGISTRIES["model"]["text_dit"], info)["text_dim"] == 6
    del plain["text"]  # of an earlier version
    assert data_info_from_plain(plain).text is None
    assert arguments_from_data(REGISTRIES["model"]["text_dit"], data_info_from_plain(plain))["text_dim"] is None
    for text in (3, {}, {"family": "sana"}, {"family": "", "pipeline": "", "tensors": 3}, {**plain, "tensors": {}}):
        with pytest.raises((TypeError, ValueError)):
            data_info_from_plain({**plain, "text": text})
