"""What a file of encoded pairs claims wrongly is refused, with its name."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from rcgm.data import EncodedPairs, Latents
from tests.support.encoded_pairs import condition, write_manifest, write_pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(9, 4, 4)}, r"'latents' of .* must be \[N, C, H, W\]"),
        ({"latents": torch.zeros(8, 4, 4, 6)}, r"must be \[9, 4, 4, 6\], as the manifest says, got \[8, 4, 4, 6\]"),
        ({"latents": torch.zeros(9, 4, 4, 6).long()}, "float16, bfloat16, float32, got int64"),
        ({"text": None}, "must hold latents and text"),
        ({"mask": None}, "mask together with text and text_offsets"),
        ({"text_2_offsets": torch.zeros(10).long()}, "mask_2 together with text_2 and text_2_offsets"),
        ({"more": torch.zeros(9)}, "'more'"),
        ({"text": torch.zeros(3, 6)}, "'text_offsets' of .* must rise from 0 to 3"),
        ({"text": torch.zeros(24, 6).long()}, "'text' of .* must be float16"),
        ({"text": torch.zeros(24, 2, 3)}, r"'text' of .* must be \[T, C\]"),
        ({"mask": torch.ones(9, 5)}, "'mask' of .* must be bool, got float32"),
        ({"mask": torch.ones(8, 5, dtype=torch.bool)}, r"'mask' of .* must be \[9, L\]"),
        ({"text_offsets": torch.zeros(9, dtype=torch.int64)}, r"'text_offsets' of .* must be int64 \[10\]"),
        ({"text_offsets": torch.zeros(10)}, r"must be int64 \[10\], got float32"),
        ({"text_offsets": torch.tensor([0, 5, 3, 8, 10, 12, 14, 16, 20, 24])}, "must rise from 0"),
        ({"text_offsets": torch.tensor([0, 9, 10, 11, 12, 13, 14, 16, 20, 24])}, "by at most 5 a sample"),
        ({"text_offsets": torch.tensor([-1, 1, 3, 6, 10, 12, 14, 16, 20, 24])}, "must rise from 0"),
        (
            {
                "mask": torch.zeros(9, 2**15, dtype=torch.bool),
                "text": torch.zeros(1, 2**14),
                "text_offsets": torch.tensor([0] * 9 + [1]),
            },
            "'text' of .* must have at most 268435456 numbers a caption, got 32768 x 16384",
        ),
        ({"pooled": torch.zeros(9, 0)}, r"'pooled' of .* must be \[9, D\]"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, changes, message):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.safetensors"
    stored = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path)
    with pytest.raises(ValueError, match=message) as error:
        EncodedPairs(tmp_path)
    assert "text_shard00000" in str(error.value)


@pytest.mark.parametrize("name", ["latents", "text", "pooled"])
def test_values_that_are_not_finite_are_named_with_their_row(tmp_path, name):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00001.safetensors"
    stored = load_file(path)
    row = int(stored["text_offsets"][2]) if name == "text" else 2
    stored[name][row].view(-1)[1] = float("nan")
    save_file(stored, path)
    dataset = EncodedPairs(tmp_path)
    dataset.take(torch.tensor([13, 14, 16]))
    with pytest.raises(ValueError, match=rf"'{name}' of .*00001.* not finite in row 2"):
        dataset.take(torch.tensor([13, 15, 16]))


def test_a_mask_that_does_not_fit_the_text_is_named(tmp_path):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.safetensors"
    stored = load_file(path)
    stored["mask"][4] = ~stored["mask"][4]
    save_file(stored, path)
    with pytest.raises(ValueError, match=r"'mask' of .* does not fit 'text_offsets' in row 4"):
        EncodedPairs(tmp_path).take(torch.arange(9))


SHARD = {"file": "text_shard00000.safetensors", "samples": 9, "shape": [4, 4, 6]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": []}, "at least one"),
        ({"shards": [SHARD, SHARD]}, "different files"),
        (
            {"shards": [{**SHARD, "file": "../text_shard00000.safetensors"}]},
            "file must be text_shardNUMBER.safetensors",
        ),
        ({"shards": [{**SHARD, "file": "/etc/passwd"}]}, "file must be"),
        ({"shards": [{**SHARD, "file": "text_shard00009.safetensors"}]}, "must be a file that exists"),
        ({"shards": [{**SHARD, "samples": True}]}, "samples must be an int"),
        ({"shards": [{**SHARD, "samples": 2**70}]}, "as the manifest says"),
        ({"shards": [{**SHARD, "shape": [4, 4]}]}, r"shape must be \[C, H, W\]"),
        ({"shards": 3}, "cannot read the manifest"),
        ({"version": 2}, "of a later rcgm"),
        ({"family": 3}, "family must be a text"),
        ({"length": 0}, "length must be at least 1"),
        ({"left_out": {"broken": -1}}, "must be at least 0"),
        ({"format": None}, "set data.name to latents"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, changes, message):
    write_pairs(tmp_path)
    write_manifest(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        EncodedPairs(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{", '{"format": "encoded_pairs"}'])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    write_pairs(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="cannot read the manifest"):
        EncodedPairs(tmp_path)


def test_the_other_kind_of_latents_names_this_one(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match=r"of images with captions: set data\.name to encoded_pairs"):
        Latents(tmp_path)


def test_folders_that_are_not_ready_are_named(tmp_path):
    with pytest.raises(ValueError, match="rcgm encode --text"):
        EncodedPairs(tmp_path)
    write_pairs(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="run the encode command to its end"):
        EncodedPairs(tmp_path)


def test_other_conditions_in_one_shard_or_of_the_empty_caption_are_named(tmp_path):
    write_pairs(tmp_path / "one")
    write_pairs(tmp_path / "two", pooled=False)
    (tmp_path / "one" / "text_shard00001.safetensors").write_bytes(
        (tmp_path / "two" / "text_shard00001.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"00001.* holds conditions .*encode the pairs again"):
        EncodedPairs(tmp_path / "one")
    for content, message in (
        (condition(1, 0, masked=False), "null.safetensors must hold"),
        ({"text": torch.zeros(2, 5, 6)}, r"must be \[1, L, C\]"),
        ({"pooled": torch.zeros(1, 3)}, "must hold text"),
        ({**condition(1, 0, pooled=False), "text": torch.full((1, 5, 6), float("inf"))}, "not finite"),
    ):
        save_file(content, tmp_path / "two" / "null.safetensors")
        with pytest.raises(ValueError, match=message):
            EncodedPairs(tmp_path / "two")
    (tmp_path / "two" / "null.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read the conditions of the empty caption"):
        EncodedPairs(tmp_path / "two")


@pytest.mark.parametrize("content", [None, "[" * 100_000, '{"captions": [1, 2]}', '{"captions": ["one"]}', "[]"])
def test_damaged_captions_are_named(tmp_path, content):
    write_pairs(tmp_path)
    path = tmp_path / "text_shard00000.captions.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match='cannot read "captions"'):
        EncodedPairs(tmp_path).captions(torch.tensor([0]))
