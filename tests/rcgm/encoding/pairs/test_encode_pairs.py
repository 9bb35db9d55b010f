"""Images with captions become shards that the data set reads: what is stored, what is left out, how it goes on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.cli import main
from rcgm.config import parse_config
from rcgm.data import EncodedPairs
from rcgm.networks.pipelines import TextPipeline
from rcgm.runs import load_run
from rcgm.runs.conditions import DataCaptions
from rcgm.runs.decoding import Decoder
from rcgm.training import train
from tests.support.image_pairs import COUNT, arguments, copied, encode, write_list, written
from tests.support.launching import run_ranks

CPU = torch.device("cpu")


def test_what_is_stored(encoded, pipelines, capsys):
    lines = [json.loads(line) for line in (encoded / "images/metadata.jsonl").read_text().splitlines()]
    dataset = EncodedPairs(encoded / "out")
    assert len(dataset) == COUNT
    assert len(dataset.buckets) == 2
    pipeline = TextPipeline.from_pretrained("sana", pipelines / "sana")
    captions = dataset.captions(torch.arange(COUNT))
    assert sorted(captions) == sorted(line["text"] for line in lines)
    for index, caption in enumerate(captions):
        name = next(line["file_name"] for line in lines if line["text"] == caption)
        latents, cond = dataset[index]
        height, width = latents.shape[1] * pipeline.factor, latents.shape[2] * pipeline.factor
        with Image.open(encoded / "images" / name) as image:
            assert (height > width) == (image.height > image.width)
            fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
        # other rows of a batch change the order of sums in convolutions and products
        torch.testing.assert_close(latents, pipeline.encode_images(pixels[None])[0], rtol=1e-4, atol=1e-5)
        own = pipeline.encode_prompts([caption])
        mask = own["mask"][0].bool()
        assert torch.equal(cond["mask"], mask)
        torch.testing.assert_close(cond["text"][mask], own["text"][0][mask], rtol=1e-4, atol=1e-5)
    null = pipeline.encode_null()
    assert torch.equal(dataset.null_cond["mask"], null["mask"].bool())
    torch.testing.assert_close(dataset.null_cond["text"], null["text"])
    manifest = json.loads((encoded / "out/manifest.json").read_text())
    assert manifest["samples"] == COUNT and manifest["left_out"] == {} and manifest["truncated"] == 0
    assert len(manifest["shards"]) == 5  # 4 wide ones in two, 8 tall ones in three
    assert dataset.info.text.family == "sana" and dataset.info.text.pipeline == str(pipelines / "sana")


def test_text_states_are_stored_at_their_true_length(encoded):
    stored = load_file(next((encoded / "out").glob("text_shard*.safetensors")))
    assert len(stored["text"]) == int(stored["mask"].sum()) < stored["mask"].numel()


def test_pairs_that_are_whole_are_not_encoded_again(encoded, pipelines, tmp_path, capsys):
    images, output = copied(encoded, tmp_path)
    before = written(output)
    encode(pipelines, images, output)
    assert "(0 of 5 written)" in capsys.readouterr().out
    assert written(output) == before
    content = [path.read_bytes() for path in sorted(output.glob("text_shard*.safetensors"))]
    (output / "text_shard00001.safetensors").write_bytes(content[1][:-1])
    (output / "text_shard00003.json").unlink()
    (output / "manifest.json").unlink()
    encode(pipelines, images, output)
    assert "(2 of 5 written)" in capsys.readouterr().out
    assert [path.read_bytes() for path in sorted(output.glob("text_shard*.safetensors"))] == content


def test_a_changed_image_or_caption_is_encoded_again(encoded, pipelines, tmp_path, capsys):
    images, output = copied(encoded, tmp_path)
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    lines[0]["text"] = "another caption"
    write_list(images, lines)
    encode(pipelines, images, output)
    assert "(1 of 5 written)" in capsys.readouterr().out
    assert "another caption" in EncodedPairs(output).captions(torch.arange(COUNT))
    Image.new("RGB", (40, 24)).save(images / "00.png")  # of the other shape: nearly all shards have other members
    encode(pipelines, images, output)
    assert [len(bucket) for bucket in EncodedPairs(output).buckets] == [9, 3]


def test_other_settings_are_refused_unless_forced(encoded, pipelines, tmp_path, capsys):
    images, output = copied(encoded, tmp_path)
    assert main(arguments(pipelines, images, output, "--dtype", "bfloat16")) == 2
    assert "was encoded from other images or with other settings" in capsys.readouterr().err
    encode(pipelines, images, output, "--dtype", "bfloat16", "--buckets", "square", "--shard-size", "7", "--force")
    assert len(written(output)) == 2  # of 12 pairs in sevens; those beyond are gone
    assert load_file(output / "text_shard00000.safetensors")["latents"].dtype == torch.bfloat16
    assert EncodedPairs(output).info.shape == (4, 8, 8)


def test_a_pipeline_may_move_but_not_change(encoded, pipelines, tmp_path, capsys):
    images, output = copied(encoded, tmp_path)
    shutil.copytree(pipelines / "sana", tmp_path / "moved/sana")
    encode(tmp_path / "moved", images, output)
    assert "(0 of 5 written)" in capsys.readouterr().out
    config = tmp_path / "moved/sana/vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.5}))
    assert main(arguments(tmp_path / "moved", images, output)) == 2
    assert "was encoded from other images or with other settings" in capsys.readouterr().err


def test_two_ranks_write_what_one_does(encoded, pipelines, tmp_path):
    run_ranks(main, (arguments(pipelines, encoded / "images", tmp_path / "out"),), 2, tmp_path)
    for path in sorted((encoded / "out").iterdir()):
        if path.suffix == ".safetensors":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    names = [sorted(path.name for path in folder.iterdir()) for folder in (encoded / "out", tmp_path / "out")]
    assert names[0] == names[1]
    one, two = (json.loads((folder / "out/manifest.json").read_text()) for folder in (encoded, tmp_path))
    assert one == two


def test_a_run_on_what_was_encoded(encoded, pipelines, tmp_path):
    config = parse_config({
        "steps": 2, "batch_size": 4, "device": "cpu",
        "data": {"name": "encoded_pairs", "path": str(encoded / "out")},
        "model": {"name": "sana", "path": str(pipelines / "sana")},
        "objective": {"name": "rcgm", "order": 1, "label_dropout": 0.1},
        "logging": {"tensorboard": False}, "evaluate": {"at_end": False},
        "sample": {"every": 2, "count": 3, "steps": [1], "decoder": str(pipelines / "sana")},
    })  # fmt: skip
    train(config, tmp_path, show_progress=False)
    run = load_run(tmp_path, device=CPU)
    decoder = Decoder(pipelines / "sana", run.info, CPU)
    images = decoder(run.sampler(captions=DataCaptions(EncodedPairs(encoded / "out"))).draw(2, steps=1))
    factor = TextPipeline.from_pretrained("sana", pipelines / "sana", parts=("vae",)).factor
    assert images.shape == (2, 3, *(factor * side for side in run.info.shape[1:]))
    assert images.abs().max() <= 1
