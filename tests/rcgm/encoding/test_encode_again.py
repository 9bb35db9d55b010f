"""What a second call of the encode command keeps, and what it encodes again."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rcgm.data import Latents


def replace(path, value):
    Image.fromarray(np.full((9, 9, 3), value, dtype=np.uint8)).save(path)


def test_a_replaced_image_is_encoded_again_and_the_others_are_kept(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    first = load_file(tmp_path / "out" / "latents_shard00000.safetensors")["latents"]
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    capsys.readouterr()
    replace(images / "cat" / "1.png", 200)
    assert encode(images, tmp_path / "out", kl) == 0
    assert "3 shards (1 of 3 written)" in capsys.readouterr().out
    again = load_file(tmp_path / "out" / "latents_shard00000.safetensors")["latents"]
    assert [torch.equal(one, other) for one, other in zip(first, again, strict=True)] == [True, False, True, True]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) != json.loads(manifest)
    assert encode(images, tmp_path / "out", kl) == 0
    assert "3 shards (0 of 3 written)" in capsys.readouterr().out


def test_the_same_size_at_another_time_is_another_image(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    os.utime(images / "cat" / "0.png", ns=(1, 1))
    capsys.readouterr()
    encode(images, tmp_path / "out", kl)
    assert "(1 of 3 written)" in capsys.readouterr().out


def test_records_of_earlier_versions_are_kept(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    for path in (tmp_path / "out").glob("latents_shard*.json"):
        record = json.loads(path.read_text())
        del record["images"]
        path.write_text(json.dumps(record))
    capsys.readouterr()
    assert encode(images, tmp_path / "out", kl) == 0
    assert "(0 of 3 written)" in capsys.readouterr().out


def test_force_encodes_all_again_with_other_settings(images, tmp_path, kl, capsys, encode):
    encode(images, tmp_path / "out", kl)
    assert encode(images, tmp_path / "out", kl, "--shard-size", "8", "--dtype", "bfloat16") == 2
    assert "choose another output folder, or encode all again with --force" in capsys.readouterr().err
    assert encode(images, tmp_path / "out", kl, "--shard-size", "8", "--dtype", "bfloat16", "--force") == 0
    assert "2 shards (2 of 2 written)" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    assert len(Latents(tmp_path / "out")) == 11


def test_broken_images_and_transparency(images, tmp_path, kl, capsys, encode):
    (images / "cat" / "1.png").write_bytes(b"no image")
    assert encode(images, tmp_path / "out", kl) == 2
    assert "or set data.broken=leave_out" in capsys.readouterr().err
    assert encode(images, tmp_path / "out", kl, "--broken", "leave_out") == 0
    told = capsys.readouterr()
    assert "10 images to moments" in told.out and "left out 1 broken images" in told.err
    assert "data: 10 images of 3 x 8 x 8" in told.err
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(images / "cat" / "1.png")
    for name, words in (("white", []), ("black", ["--background", "0,0,0"])):
        assert encode(images, tmp_path / name, kl, *words) == 0
    one, other = (
        load_file(tmp_path / name / "latents_shard00000.safetensors")["latents"] for name in ("white", "black")
    )
    assert [torch.equal(*rows) for rows in zip(one, other, strict=True)] == [True, False, True, True]
    assert encode(images, tmp_path / "white", kl, "--background", "0,0,0") == 2
    with pytest.raises(SystemExit):
        encode(images, tmp_path / "white", kl, "--background", "0,0,256")
    assert "needs three numbers from 0 to 255" in capsys.readouterr().err
