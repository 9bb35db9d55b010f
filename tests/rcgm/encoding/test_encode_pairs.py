"""Images with captions become shards that the data set reads: what is stored, what is left out, how it goes on."""

import json
import shutil
import sys

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
from rcgm.encoding.pairs import PairPlan, load_condition_encoder
from rcgm.networks.pipelines import TextPipeline
from rcgm.runs import load_run
from rcgm.runs.conditions import DataCaptions
from rcgm.runs.decoding import Decoder
from rcgm.training import train
from tests.support.launching import run_ranks
from tests.support.tiny_pipelines import tiny_pipeline

COUNT, SIZE = 12, 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums have another order with another number of threads, and shards are compared byte by byte."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    for name in ("sana", "sd3", "hunyuan_image"):
        tiny_pipeline(name).save_pretrained(root / name)
    return root


def write_images(root, count=COUNT):
    """Tall and wide images by turns, larger than their shapes, with captions of different lengths."""
    root.mkdir(parents=True)
    lines = []
    for number in range(count):
        size = (24, 40) if number % 3 else (40, 24)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
        lines.append({"file_name": f"{number:02d}.png", "text": f"picture {'very ' * (number % 4)}number {number}"})
    write_list(root, lines)
    return lines


def write_list(root, lines):
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def arguments(pipelines, images, output, *more, family="sana"):
    return [
        "encode", str(images), str(output), "--text", str(pipelines / family), "--family", family, "--size", str(SIZE),
        "--batch-size", "3", "--shard-size", "3", "--text-dtype", "float32", "--device", "cpu", *more,
    ]  # fmt: skip


def encode(*given, **options):
    assert main(arguments(*given, **options)) == 0


@pytest.fixture(scope="module")
def encoded(pipelines, tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_images(root / "images")
    encode(pipelines, root / "images", root / "out")
    return root


def copied(encoded, tmp_path):
    shutil.copytree(encoded, tmp_path / "copy")
    return tmp_path / "copy/images", tmp_path / "copy/out"


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("text_shard*.safetensors")}


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


@pytest.fixture
def with_bad_ones(tmp_path):
    """Of 16 pairs 4 are unusable and one is too small; of one the end is missing, which only decoding shows."""
    images = tmp_path / "images"
    lines = write_images(images, 16)
    content = (images / "03.png").read_bytes()
    (images / "03.png").write_bytes(content[: len(content) // 2])
    (images / "04.png").write_bytes(b"no image")
    (images / "05.png").unlink()
    Image.new("RGB", (8, 8)).save(images / "06.png")
    lines[7]["text"] = "  "
    lines[8]["text"] = "a" * 400  # more than SANA's 300 tokens
    write_list(images, lines)
    return images


def test_bad_pairs_are_counted_and_named(with_bad_ones, pipelines, tmp_path, capsys):
    encode(pipelines, with_bad_ones, tmp_path / "out", "--max-bad", "0.25")
    output = capsys.readouterr()
    assert "pairs: 16, 3 of them unusable and 1 with images that are too small" in output.err
    assert "11 pairs in" in output.out and "5 left out, 1 captions cut: see" in output.out
    report = [json.loads(line) for line in (tmp_path / "out/left_out.jsonl").read_text().splitlines()]
    assert [(line["pair"], line["reason"]) for line in report] == [
        ("03.png", "the image cannot be decoded"),
        ("04.png", "the image cannot be decoded"),
        ("05.png", "the image is missing"),
        ("06.png", "the image is too small"),
        ("07.png", "the caption is empty"),
        ("08.png", "the caption was cut"),
    ]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["left_out"] == {
        "the image cannot be decoded": 2, "the image is missing": 1, "the image is too small": 1,
        "the caption is empty": 1,
    } and manifest["truncated"] == 1  # fmt: skip
    dataset = EncodedPairs(tmp_path / "out")
    assert len(dataset) == 11
    assert "captions cut to what the encoder takes: 1" in dataset.notes
    encode(pipelines, with_bad_ones, tmp_path / "out", "--max-bad", "0.25")
    assert "(0 of" in capsys.readouterr().out


def test_more_bad_pairs_than_allowed_end_the_command(with_bad_ones, pipelines, tmp_path, capsys):
    assert main(arguments(pipelines, with_bad_ones, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "3 of 16 pairs cannot be used, and max_bad 0.01 allows 0" in error
    assert "04.png: the image cannot be decoded (cannot read the image 04.png" in error
    assert "05.png: the image is missing (no file" in error and "07.png: the caption is empty" in error
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert len((tmp_path / "out/left_out.jsonl").read_text().splitlines()) == 4
    # the one that only decoding shows
    assert main(arguments(pipelines, with_bad_ones, tmp_path / "out", "--max-bad", "0.2")) == 2
    error = capsys.readouterr().err
    assert "4 of 16 pairs cannot be used, and max_bad 0.2 allows 3" in error and "03.png" in error
    assert not (tmp_path / "out/manifest.json").exists()
    encode(pipelines, with_bad_ones, tmp_path / "out", "--max-bad", "0.25")


def test_nothing_that_is_left(pipelines, tmp_path, capsys):
    write_images(tmp_path / "images", 3)
    assert main(arguments(pipelines, tmp_path / "images", tmp_path / "out", "--size", "64")) == 2
    assert (
        "no pair is left of 3: 3 are left out, most of them because the image is too small" in capsys.readouterr().err
    )
    encode(pipelines, tmp_path / "images", tmp_path / "out", "--size", "64", "--max-upscale", "3")


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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--autoencoder", "x"], "--autoencoder must be left out with --text"),
        (["--no-flips"], "--no-flips must be left out with --text"),
        (["--multiple", "3"], "--multiple must be a multiple of 2"),
        (["--size", "15"], "size must be a multiple of 2"),
        (["--length", "0"], "--length"),
        (["--max-bad", "2"], "needs a number from 0 to 1"),
        (["--family", "nothing"], "family must be one of"),
        (["--family", "wan"], "family must be one of images, got 'wan', of videos"),
        (["--source", "webdataset"], "must hold files that end in"),
    ],
)
def test_options_that_do_not_fit_are_refused(encoded, pipelines, tmp_path, capsys, more, message):
    try:
        code = main(arguments(pipelines, encoded / "images", tmp_path / "out", *more))
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_options_of_captions_need_a_pipeline(tmp_path, capsys):
    assert main(["encode", str(tmp_path), str(tmp_path / "out"), "--size", "16", "--max-bad", "0.5"]) == 2
    assert "--max-bad must be left out with --autoencoder" in capsys.readouterr().err
    assert main(["encode", str(tmp_path), str(tmp_path / "out"), "--size", "16"]) == 2
    assert "--autoencoder must be given, or --text for images with captions" in capsys.readouterr().err
    assert main(["encode", str(tmp_path), str(tmp_path / "out"), "--size", "16", "--text", "x"]) == 2
    assert "--family must be given with --text" in capsys.readouterr().err


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


def test_a_plan_refuses_what_is_out_of_range():
    with pytest.raises(ValueError, match="max_bad must be from 0 to 1, got nan"):
        PairPlan(None, None, None, None, [], max_bad=float("nan"))
    with pytest.raises(ValueError, match="text_dtype must be one of"):
        PairPlan(None, None, None, None, [], text_dtype="int8")
