"""Images with captions of other shapes, for other families, and with a condition encoder of one's own."""

import json
import sys

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.cli import main
from rcgm.data import EncodedPairs
from rcgm.encoding.pairs import load_condition_encoder
from rcgm.networks.pipelines import TextPipeline
from tests.support.image_pairs import arguments, encode, write_images, write_list


def test_native_resolution(pipelines, tmp_path):
    images = tmp_path / "images"
    write_images(images, 6)
    encode(pipelines, images, tmp_path / "out", "--buckets", "native", "--size", "32", "--multiple", "8")
    assert {tuple(shape[1:]) for shape in shapes(tmp_path / "out")} == {(20, 12), (12, 20)}


def shapes(folder):
    return [tuple(entry["shape"]) for entry in json.loads((folder / "manifest.json").read_text())["shards"]]


def test_a_family_without_masks(pipelines, tmp_path):
    images = tmp_path / "images"
    lines = write_images(images, 4)
    encode(pipelines, images, tmp_path / "out", "--length", "12", family="sd3")
    dataset = EncodedPairs(tmp_path / "out")
    assert list(dataset.info.text.tensors) == ["text", "pooled"] and dataset.info.text.length == 12
    pipeline = TextPipeline.from_pretrained("sd3", pipelines / "sd3", length=12, parts=("text",))
    own = pipeline.encode_prompts(dataset.captions(torch.arange(4)))
    for name, tensor in dataset.conditions(torch.arange(4)).items():
        torch.testing.assert_close(tensor, own[name], rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["truncated"] == len(lines)


def test_a_family_of_two_texts_with_masks(pipelines, tmp_path):
    images = tmp_path / "images"
    lines = write_images(images, 4)
    lines[1]["text"] = 'a sign, "open"'  # quoted words go to the second text encoder
    write_list(images, lines)
    # a multiple of every factor; the images are 40 by 24 pixels
    encode(pipelines, images, tmp_path / "out", "--length", "40", "--max-upscale", "4", family="hunyuan_image")
    dataset = EncodedPairs(tmp_path / "out")
    assert list(dataset.info.text.tensors) == ["text", "mask", "text_2", "mask_2"]
    pipeline = TextPipeline.from_pretrained("hunyuan_image", pipelines / "hunyuan_image", length=40, parts=("text",))
    captions = dataset.captions(torch.arange(4))
    own = pipeline.encode_prompts(captions)
    found = dataset.conditions(torch.arange(4))
    for text, mask in (("text", "mask"), ("text_2", "mask_2")):
        known = own[mask].bool()
        assert torch.equal(found[mask], known)
        torch.testing.assert_close(found[text][known], own[text][known], rtol=1e-4, atol=1e-5)
    assert found["mask_2"].any(1).tolist() == ["open" in caption for caption in captions]


OWN_ENCODER = """
import torch

def encode(captions):
    lengths = torch.tensor([len(caption) for caption in captions]).clamp(1, 9)
    text = lengths[:, None, None] * torch.ones(len(captions), 9, 7)
    return {"text": text, "mask": torch.arange(9) < lengths[:, None]}

def wrong(captions):
    return {"states": torch.zeros(len(captions), 9, 7)}

number = 3
"""


def test_a_condition_encoder_of_ones_own(pipelines, tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    lines = write_images(images, 4)
    (tmp_path / "my_encoder.py").write_text(OWN_ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    encode(pipelines, images, tmp_path / "out", "--condition-encoder", "my_encoder:encode")
    dataset = EncodedPairs(tmp_path / "out")
    assert dataset.info.text.tensors == {"text": (9, 7), "mask": (9,)}
    assert dataset.info.text.encoder == "my_encoder:encode" and dataset.info.text.length is None
    lengths = [min(9, len(caption)) for caption in dataset.captions(torch.arange(4))]
    assert dataset.conditions(torch.arange(4))["mask"].sum(1).tolist() == lengths
    assert lengths == [9] * len(lines) and dataset.null_cond["mask"].sum() == 1
    (tmp_path / "my_encoder.py").write_text(OWN_ENCODER + "\n# another one\n")
    assert main(arguments(pipelines, images, tmp_path / "out", "--condition-encoder", "my_encoder:encode")) == 2
    assert "with other settings" in capsys.readouterr().err
    assert main(arguments(pipelines, images, tmp_path / "two", "--condition-encoder", "my_encoder:wrong")) == 2
    assert "the result of my_encoder:wrong must hold text" in capsys.readouterr().err
    for name in ("my_encoder", "nothing:encode", "my_encoder:nothing", "my_encoder:number"):
        with pytest.raises(ValueError, match="condition_encoder must"):
            load_condition_encoder(name)
