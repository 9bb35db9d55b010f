"""Pairs and options that cannot be used are counted, named or refused."""

import json

import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from rcgm.cli import main
from rcgm.data import EncodedPairs
from rcgm.encoding.pairs import PairPlan
from tests.support.image_pairs import arguments, encode, write_images, write_list


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


def test_a_plan_refuses_what_is_out_of_range():
    with pytest.raises(ValueError, match="max_bad must be from 0 to 1, got nan"):
        PairPlan(None, None, None, None, [], max_bad=float("nan"))
    with pytest.raises(ValueError, match="text_dtype must be one of"):
        PairPlan(None, None, None, None, [], text_dtype="int8")
