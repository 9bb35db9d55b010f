import json

import numpy as np
import pytest
import torch

from rcgm.config import ConfigError
from rcgm.data import DataInfo
from rcgm.data.in_memory import InMemoryDataset
from rcgm.distributed.shares import Processes
from rcgm.evaluation import Reference, evaluate_images, read_reference, write_reference
from rcgm.runs.image_measure import ImageMeasure, as_pixels
from rcgm.runs.sampler import RunSampler
from tests.support.launching import run_ranks
from tests.support.measured import COUNT, CPU, INFO, STEPS, dataset, judge, measure, measure_together, network, sampler


@pytest.fixture
def published(tmp_path):
    """Statistics with images, as published ones are."""
    images = torch.randint(0, 256, (22, 4, 4, 3), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    known = Reference.of(judge(images.permute(0, 3, 1, 2))[0])
    np.savez(tmp_path / "real.npz", mu=known.mean, sigma=known.covariance, arr_0=images)
    return str(tmp_path / "real.npz")


def test_one_process_measures_what_is_generated():
    report = measure(Processes())(sampler(network()), COUNT, steps=STEPS)
    samples = torch.cat([sampler(network())(range(i, min(i + 4, COUNT)), steps=STEPS) for i in range(0, COUNT, 4)])
    pixels = ((samples.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).repeat(1, 3, 1, 1)
    real = dataset().samples[torch.arange(33) * 50 // 33]
    real = ((real + 1) * 127.5).round().to(torch.uint8).repeat(1, 3, 1, 1)
    expected = evaluate_images(*judge(pixels), Reference.of(judge(real)[0]))
    assert report == pytest.approx(expected, rel=1e-6)
    assert report["samples"] == COUNT and report["reference_samples"] == 33


@pytest.mark.parametrize("from_file", [False, True])
def test_two_processes_measure_what_one_does(tmp_path, published, from_file):
    reference = published if from_file else None
    run_ranks(measure_together, (str(tmp_path / "report.json"), reference), 2, tmp_path)
    together = json.loads((tmp_path / "report.json").read_text())
    alone = measure(Processes(), reference=reference)(sampler(network()), COUNT, steps=STEPS)
    assert together == [pytest.approx(alone, rel=1e-5)] * 2
    assert alone["reference_samples"] == (22 if from_file else 33)


@pytest.mark.parametrize(("total", "size", "count"), [(10, 3, 1), (10, 3, 2), (9, 3, 2), (2, 5, 3), (12, 4, 3)])
def test_every_process_has_as_many_batches_and_all_rows_are_there(total, size, count):
    dealt = [Processes(rank, count).deal(total, size) for rank in range(count)]
    assert len({len(batches) for batches in dealt}) == 1
    assert {row for batches in dealt for batch in batches for row in batch} == set(range(total))
    # those that come again are the last, in the last round
    assert len(dealt[0]) == len(range(0, len(range(0, total, size)), count))


def test_statistics_of_the_data_can_be_written_and_used_again(tmp_path):
    first = measure(Processes(), save_reference=tmp_path / "real.safetensors")
    assert first(sampler(network()), 20, steps=STEPS)
    again = measure(Processes(), reference=str(tmp_path / "real.safetensors"))
    assert torch.equal(again.reference().features, first.reference().features)
    assert again(sampler(network()), 20, steps=STEPS) == first(sampler(network()), 20, steps=STEPS)
    plain = Reference(first.reference().mean, first.reference().covariance)
    write_reference(tmp_path / "plain.safetensors", plain)
    without = measure(Processes(), reference=str(tmp_path / "plain.safetensors"))
    assert "recall" not in without(sampler(network()), 20, steps=STEPS)
    assert read_reference(tmp_path / "plain.safetensors")[0].features is None


def test_latents_are_decoded_or_refused():
    info = DataInfo((4, 2, 2), None, "images")
    with pytest.raises(ConfigError, match="of latents, set the decoder"):
        as_pixels(info, None)
    pixels = as_pixels(info, lambda latents: latents[:, :3].repeat(1, 1, 2, 2))
    images = pixels(torch.tensor([-1.0, 0.0, 2.0, 9.0]).view(1, 4, 1, 1).expand(2, 4, 2, 2))
    assert images.shape == (2, 3, 4, 4)
    assert images[1, :, 3, 3].tolist() == [0, 128, 255]
    latents = InMemoryDataset(torch.randn(20, 4, 2, 2), None, info)
    measured = ImageMeasure(judge, latents, device=CPU, decode=lambda x: x[:, :1].repeat(1, 1, 2, 2).clamp(-1, 1))
    assert measured(lambda rows, steps: latents.samples[rows.start : rows.stop], 20, steps=1)["frechet_distance"] < 1e-9


def test_a_network_that_has_diverged_is_not_measured():
    with pytest.raises(ValueError, match="has diverged"):
        measure(Processes())(lambda rows, steps: torch.full((len(rows), *INFO.shape), torch.nan), 20, steps=1)


def test_guidance_needs_classes():
    model = network()
    model.num_classes = None
    with pytest.raises(ValueError, match="guidance must be 1"):
        RunSampler(model, INFO, guidance=2.0)
